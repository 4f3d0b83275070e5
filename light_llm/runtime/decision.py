"""What was decided about the machine, and why: both are printed and kept with the run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """A decision and its reason.

    >>> print(Choice("cpu", "asked for"))
    cpu (asked for)
    """

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"
