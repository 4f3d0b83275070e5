"""Ctrl-C and SIGTERM: the first lets the step finish and saves, the second leaves at once."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Caught:
    """The signal that came first, if one came."""

    number: int | None = None


@contextmanager
def stop_on_signals(request_stop: Callable[[], None]) -> Iterator[Caught]:
    """Inside the block a signal asks for a stop; the handlers from before are put back afterwards."""
    caught = Caught()

    def handle(number: int, frame: FrameType | None) -> None:
        if caught.number is not None:
            os._exit(128 + number)
        caught.number = number
        request_stop()
        print("\nstopping after this step, and saving; once more leaves at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
