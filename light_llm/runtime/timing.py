"""The stopwatch: seconds of a piece of work, warmed up, repeated, and long enough to be timed."""

import math
import time
from collections.abc import Callable, Sequence

import torch

MAX_GROWTH = 10.0  # of the number of calls, from one try to the next
# Repetitions on a quiet machine were at most a few percent apart. A constant load, as on a shared server, slows all
# of them alike and is not detected.
BUSY_SPREAD = 1.25


def time_calls(
    work: Callable[[], object],
    *,
    device: str = "cpu",
    repeats: int = 3,
    min_seconds: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the seconds of one call of `work`, one value per repetition.

    Args:
        device: waited for before the clock is read.
        min_seconds: duration of a repetition; shorter work is called several times in it.
    """

    def elapsed(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            work()
        synchronize(device)
        return clock() - start

    elapsed(1)  # sets up kernels and memory
    calls = 1
    while (seconds := elapsed(calls)) < min_seconds:
        # A tenth more than needed, so that the next try is the last; bounded, because one short reading may be wrong.
        calls = math.ceil(calls * min(MAX_GROWTH, max(1.1 * min_seconds / max(seconds, 1e-9), 1.1)))
    return [seconds / calls, *(elapsed(calls) / calls for _ in range(repeats - 1))]


def is_busy(repetitions: Sequence[float]) -> bool:
    """Return True if seconds or rates of the same work differ by more than a quarter: something else was running.

    >>> is_busy([1.0, 1.2]), is_busy([1.0, 1.3])
    (False, True)
    """
    return max(repetitions) > BUSY_SPREAD * min(repetitions)


def synchronize(device: str) -> None:
    """Wait until a device has done the work queued on it. On a CPU, calls are synchronous and this does nothing."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))
