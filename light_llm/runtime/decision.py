"""A setting that was resolved, and why: both are printed and written to run.json."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """A resolved value with its reason.

    >>> print(Decision("cpu", "asked for"))
    cpu (asked for)
    """

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"
