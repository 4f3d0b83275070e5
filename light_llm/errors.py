"""What can go wrong for a user: one family, so that a caller can catch it.

Every message says what, which value, and the way out.
"""

import difflib
import signal
from collections.abc import Iterable


class LightLLMError(Exception):
    """Anything a user can put right. The command line prints it without a traceback and exits with code 2."""


class ConfigError(LightLLMError):
    """A setting, flag or argument that cannot be used."""


class DataError(LightLLMError):
    """A text, download, tokenizer or shard that cannot be used."""


class CheckpointError(LightLLMError):
    """A run folder or model file that is missing, damaged, in the way or of another kind."""


class DeviceError(LightLLMError):
    """A device or number format this machine does not have."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the whole program to end; at a prompt, Ctrl-C alone is a plain KeyboardInterrupt.

    Args:
        number: of the signal.
        advice: how to go on.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(advice)
        self.number = number

    @classmethod
    def by(cls, error: KeyboardInterrupt, advice: str) -> "Interrupted":
        """The same end, with advice."""
        return cls(error.number if isinstance(error, Interrupted) else signal.SIGINT, advice)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence: the nearest known word as a question, or a full stop when none is near.

    >>> did_you_mean("max_step", ["max_steps", "lr"])
    '; did you mean max_steps?'
    >>> did_you_mean("zzz", ["max_steps", "lr"])
    '.'
    """
    near = difflib.get_close_matches(word[:100].lower(), list(known)[:1000], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "."
