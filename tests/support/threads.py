"""Ranks as threads of the test process: groups for code that takes its all-reduces as an argument."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


class ThreadGroup:
    """The group of one of n threads. Counts its messages."""

    def __init__(self, rank: int, barrier: threading.Barrier, box: list[Any]) -> None:
        self.rank, self.size = rank, barrier.parties
        self.barrier, self.box = barrier, box
        self.messages: list[tuple[str, tuple[int, ...]]] = []

    def max(self, x: Tensor) -> Tensor:
        return self._reduce(x, "max")

    def sum(self, x: Tensor) -> Tensor:
        return self._reduce(x, "sum")

    def _reduce(self, x: Tensor, kind: str) -> Tensor:
        self.messages.append((kind, tuple(x.shape)))
        self.box[self.rank] = x.clone()
        self.barrier.wait(60)
        stacked = torch.stack(self.box)
        self.barrier.wait(60)
        return x.copy_(stacked.amax(0) if kind == "max" else stacked.sum(0))


def on_threads(n: int, function: Callable[[ThreadGroup], R]) -> list[R]:
    """Call a function on n threads, each with its group. Returns their results by rank."""
    barrier, box = threading.Barrier(n), [None] * n

    def call(rank: int) -> R:
        try:
            return function(ThreadGroup(rank, barrier, box))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(call, range(n)))
