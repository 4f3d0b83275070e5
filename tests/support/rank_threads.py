"""The ranks of a run as threads of one process: they really wait for each other, and starting them costs no time."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from light_llm.errors import LightLLMError
from light_llm.runtime import Json, World

T = TypeVar("T")


class ThreadWorld(World):
    """One of several ranks; `messages` lists what it has sent."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, values: list[Any]) -> None:
        super().__init__(rank, size)
        self.barrier_, self.values = barrier, values
        self.messages: list[tuple[Any, ...]] = []

    def _exchange(self, kind: str, value: Any) -> list[Any]:
        self.messages.append((kind, tuple(value.shape)) if isinstance(value, Tensor) else (kind,))
        self.values[self.rank] = (kind, value)
        self.barrier_.wait()
        kinds, values = zip(*self.values, strict=True)
        self.barrier_.wait()
        assert set(kinds) == {kind}, f"rank {self.rank}: {kinds}"
        return list(values)

    def sum(self, x: Tensor) -> Tensor:
        return x.copy_(torch.stack(self._exchange("sum", x.clone())).sum(dim=0))

    def broadcast(self, x: Tensor) -> Tensor:
        first = self._exchange("broadcast", x.clone())[0]
        assert first.dtype == x.dtype and first.shape == x.shape
        return x if self.is_first else x.copy_(first)

    def agree(self, **flags: int) -> dict[str, int]:
        values = self._exchange("agree", flags)
        return {name: max(int(value[name]) for value in values) for name in flags}

    def gather(self, value: Json) -> list[Json]:
        return self._exchange("gather", json.loads(json.dumps(value)))

    def of_first(self, make: Callable[[], Any]) -> Any:
        answer: tuple[str, Any] = ("", None)
        if self.is_first:
            try:
                answer = ("value", json.loads(json.dumps(make())))
            except (LightLLMError, OSError) as error:
                answer = ("error", error)
        kind, value = self._exchange("of_first", answer)[0]
        if kind == "error":
            raise value
        return value

    def barrier(self) -> None:
        self._exchange("barrier", None)


def run_threads(size: int, function: Callable[[Any], T]) -> list[T]:
    """Call a function with the world of each of several ranks. Returns the results by rank."""
    barrier, values = threading.Barrier(size, timeout=30), [None] * size
    worlds = [ThreadWorld(rank, size, barrier, values) for rank in range(size)]

    def call(world: ThreadWorld) -> T:
        try:
            return function(world)
        except BaseException:
            # The others would wait for this rank.
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(call, world) for world in worlds]
        errors = [error for future in futures if (error := future.exception())]
        # The first cause, and not that a rank waited in vain.
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]
