"""What a run is asked from outside, by a signal or a thread: looked at after steps, and within what takes long."""

from dataclasses import dataclass


class BrokenOff(Exception):
    """A look at the model, an evaluation or a sample, that ends early because the run is to stop."""


@dataclass
class Requests:
    """Wishes that are still open."""

    stop: bool = False
    save: bool = False
    evaluation_left: bool = False  # one was broken off: a resumed run makes it first

    def go_on(self, done: int = 0, of: int = 0) -> None:
        """Called between two parts of a long look at the model. Raises BrokenOff once a stop was asked for."""
        if self.stop:
            raise BrokenOff
