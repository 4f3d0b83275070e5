"""Detect other work on this machine from repeated measurements of the same thing."""

from collections.abc import Sequence

# Repetitions on a quiet machine were at most a few percent apart. A constant load, as on a shared server, slows all
# of them alike and is not detected.
BUSY_SPREAD = 1.25


def is_busy(repetitions: Sequence[float]) -> bool:
    """Return True if seconds or rates of the same work differ by more than a quarter: something else was running.

    >>> is_busy([1.0, 1.2]), is_busy([1.0, 1.3])
    (False, True)
    """
    return max(repetitions) > BUSY_SPREAD * min(repetitions)
