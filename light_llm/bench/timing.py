"""Seconds of a piece of work: warmed up, repeated, each repetition long enough to be timed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


def nothing() -> None:
    """What is done where there is nothing to do."""


@dataclass(frozen=True)
class Repeats:
    """How often a piece of work is timed."""

    times: int = 5  # repetitions
    least: int = 2  # of them, where they take longer than `patience`
    seconds: float = 0.1  # a repetition lasts at least so long: what is shorter is done several times in it
    patience: float = 10.0  # seconds for all repetitions


def seconds_of(
    work: Callable[[], object],
    repeats: Repeats,
    *,
    settle: int = 1,
    wait: Callable[[], None] = nothing,
    tick: Callable[[], None] = nothing,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The seconds of one call of `work`, one value a repetition.

    What comes first, which sets up kernels and memory, is not counted; nor are the calls by which the number of calls
    in a repetition is found.

    Args:
        settle: calls that come first.
        wait: returns when the device has done what it was given.
        tick: called after what comes first and after each repetition.
    """

    def spent(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            work()
        wait()
        return clock() - start

    spent(settle)
    tick()
    calls = 1
    while (seconds := spent(calls)) < repeats.seconds:
        # A tenth more than it seems to take, and never so many more that a bad guess takes long.
        calls = math.ceil(calls * min(10.0, max(1.1 * repeats.seconds / max(seconds, 1e-9), 1.1)))
    found = [seconds / calls]
    tick()
    while len(found) < repeats.times and (
        len(found) < repeats.least or sum(found) * calls * (1 + 1 / len(found)) <= repeats.patience
    ):
        found.append(spent(calls) / calls)
        tick()
    return found


def waiter(device: str) -> Callable[[], None]:
    """What waits for a device: a CPU has done its work when a call returns."""
    if torch.device(device).type == "cpu":
        return nothing
    return lambda: torch.accelerator.synchronize(torch.device(device))
