"""Functions in several processes that are the ranks of one run, and a world that only records its messages."""

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from light_llm.runtime import Json, World, join_world, leave_world
from tests.support.child import Child

GRACE = 10.0  # seconds for the other ranks to end after one has failed


def rank_env(rank: int, size: int, store: Path) -> dict[str, str]:
    """Return the environment of one of several processes that meet at a file."""
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    return {name: str(n) for name, n in numbers.items()} | {"LIGHT_LLM_STORE": str(store), "OMP_NUM_THREADS": "1"}


def run_ranks(
    n: int, function: Callable[..., Json], *args: Json, timeout: float = 60, may_die: Collection[int] = ()
) -> list[Json]:
    """Run `function(world, *args)` in n processes of one run, each on one thread. Returns the results by rank.

    Args:
        function: at the top level of a module.
        args: JSON values, as is the result.
        timeout: seconds for all of it.
        may_die: ranks that need not return; their result is None.

    Raises:
        AssertionError: a rank failed or did not end; with the error output of each.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [function.__module__, function.__qualname__, json.dumps(args)]
        children = [
            Child([*words, str(folder / str(rank))], function=_run, env=rank_env(rank, n, folder / "store"))
            for rank in range(n)
        ]
        deadline = time.monotonic() + timeout
        needed = [child for rank, child in enumerate(children) if rank not in may_die]
        while any(child.process.exitcode is None for child in needed) and time.monotonic() < deadline:
            if any(child.process.exitcode for child in needed):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.01)
        codes = [child.process.exitcode for child in children]
        for child in children:
            child.process.kill()
            child.process.join()
        if any(child.process.exitcode != 0 for child in needed):
            lines = [f"rank {r}: exit code {codes[r]}\n{child.output[1]}" for r, child in enumerate(children)]
            raise AssertionError(f"{function.__qualname__} on {n} ranks, {timeout:g} s\n" + "\n".join(lines))
        files = [folder / str(rank) for rank in range(n)]
        return [json.loads(file.read_text()) if file.exists() else None for file in files]


def _run(words: Sequence[str]) -> int:
    """Run the function that the words name, as a rank, and write its result to a file."""
    module, name, args, result = words
    torch.set_num_threads(1)
    world = join_world()
    try:
        value = getattr(import_module(module), name)(world, *json.loads(args))
        Path(result).write_text(json.dumps(value))
    except Exception as error:
        world.report_failure(error)
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        return 1
    finally:
        leave_world(world)
    return 0


class RecordingWorld(World):
    """One of several ranks without any process: it records its messages in `messages`.

    Rank 0 runs first: sums are as if all ranks had sent the same, and its answers are kept. Another rank is given them
    by `replay=`, and fails where its messages are not rank 0's: where real ranks would wait for each other.

    Args:
        others: flags that `agree` finds on the other ranks, by its call (0, 1, ...); changed by a test at any time.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        replay: "RecordingWorld | None" = None,
        others: dict[int, dict[str, int]] | None = None,
    ) -> None:
        super().__init__(rank, size, rank, size)
        if (replay is None) != (rank == 0):
            raise ValueError("rank 0 replays no rank, the others replay rank 0")
        self.messages: list[tuple[Any, ...]] = []
        self.answers: list[Any] = []
        self.replay, self.others, self.agreements = replay, others or {}, 0

    def _exchange(self, message: tuple[Any, ...], answer: Callable[[], Any]) -> Any:
        """Record a message. Returns the answer, or that of rank 0 to the same message."""
        place = len(self.messages)
        self.messages.append(message)
        if self.replay is None:
            self.answers.append(answer())
            return self.answers[-1]
        known = self.replay.messages
        expected = known[place] if place < len(known) else "no message any more"
        assert message == expected, f"message {place} of rank {self.rank}: {message}; of rank 0: {expected}"
        return self.replay.answers[place]

    def check_end(self) -> None:
        """Assert that rank 0 sent no messages beyond those of this rank."""
        assert self.replay is None or len(self.replay.messages) == len(self.messages), self.replay.messages[
            len(self.messages) :
        ]

    def sum(self, x: Tensor) -> Tensor:
        return x.copy_(self._exchange(("sum", tuple(x.shape), str(x.dtype)), lambda: x.clone() * self.size))

    def broadcast(self, x: Tensor) -> Tensor:
        return x.copy_(self._exchange(("broadcast", tuple(x.shape), str(x.dtype)), x.clone))

    def agree(self, **flags: int) -> dict[str, int]:
        call, self.agreements = self.agreements, self.agreements + 1
        others = self.others.get(call, {})
        agreed = {name: max(int(value), others.get(name, 0)) for name, value in flags.items()}
        return dict(self._exchange(("agree", *sorted(flags)), lambda: agreed))

    def gather(self, value: Json) -> list[Json]:
        return list(self._exchange(("gather",), lambda: [json.loads(json.dumps(value))] * self.size))

    def of_first(self, make: Callable[[], Any]) -> Any:
        def answer() -> tuple[str, Any]:
            try:
                return "value", json.loads(json.dumps(make()))
            except Exception as error:
                return "error", error

        kind, value = self._exchange(("of_first",), answer)
        if kind == "error":
            raise value
        return value

    def once_per_machine(self, work: Callable[[], None]) -> None:
        self._exchange(("once_per_machine",), work)

    def barrier(self) -> None:
        self._exchange(("barrier",), lambda: None)

    @property
    def is_reporter(self) -> bool:
        return self.is_first
