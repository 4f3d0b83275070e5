"""The stopwatch: seconds of a piece of work, warmed up, repeated, and long enough to be timed."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

MAX_GROWTH = 10.0  # of the number of calls, from one try to the next
# Repetitions on a quiet machine were at most a few percent apart. A constant load slows all of them by the same factor,
# and only `BusyMeter` detects it.
BUSY_SPREAD = 1.25
# Share of the elapsed time in which a thread that only computes has a processor: about 1 on a quiet machine, about 0.5
# beside as many other programs as there are cores.
MIN_PROCESSOR_SHARE = 0.85
MIN_ELAPSED = 1e-3  # seconds; reading two clocks one after the other makes a share of less time meaningless


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


@dataclass(frozen=True)
class BusyMeter:
    """Detects whether other programs have taken the processor from the calling thread since the meter was made.

    Compares the thread's processor time with the elapsed time. For work on the CPU only: a thread that waits for a GPU
    or a disk has no processor either. A thread that waits for torch's other threads at the end of an operation keeps
    its processor, so the number of threads does not matter.
    """

    clock: Callable[[], float] = time.perf_counter
    processor: Callable[[], float] = time.thread_time
    start: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", (self.clock(), self.processor()))

    @property
    def share(self) -> float:
        """The processor time of this thread as a share of the elapsed time; 1 if too little time has passed to tell."""
        elapsed, used = self.clock() - self.start[0], self.processor() - self.start[1]
        return used / elapsed if elapsed > MIN_ELAPSED else 1.0

    @property
    def is_busy(self) -> bool:
        """True if other programs were running."""
        return self.share < MIN_PROCESSOR_SHARE


def typical_seconds(repetitions: Sequence[float]) -> float:
    """Return the median of some repetitions, or the fastest if they differ so much that something else was running.

    >>> typical_seconds([1.0, 1.1, 1.2]), typical_seconds([1.0, 1.1, 5.0])
    (1.1, 1.0)
    """
    return min(repetitions) if is_busy(repetitions) else median(repetitions)


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
