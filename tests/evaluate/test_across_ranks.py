"""An evaluation that several ranks divide: on each rank the result of one process, to the bit."""

from copy import deepcopy
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from light_llm.data.shards import TokensInMemory
from light_llm.errors import ConfigError
from light_llm.evaluate import evaluate_against_limits, evaluate_batches, evaluate_loss
from light_llm.evaluate.across_ranks import gather_values
from light_llm.objective import IGNORED
from light_llm.runtime import World
from tests.support.rank_threads import ThreadWorld, run_threads
from tests.support.tools import some_tokens, tiny_model

LENGTHS = np.arange(61) % 4


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("n", [2, 9, 16, 17, 41, 90])  # one target; one window; whole windows; a short last one
def test_several_ranks_find_what_one_process_finds(size: int, n: int) -> None:
    """Loss, standard error, bits per byte, positions, every window in order, progress; equal numbers of passes."""
    tokens, model = TokensInMemory(some_tokens(1, n)[0].tolist()), tiny_model(scale=5)

    def evaluate(world: World) -> dict[str, Any]:
        own, windows, done, passes = deepcopy(model), [], [], []
        own.wte.register_forward_hook(lambda *args: passes.append(tuple(args[1][0].shape)))
        result = evaluate_loss(
            own,
            tokens,
            LENGTHS,
            context=8,
            batch_size=2,
            on_window=lambda first, row: windows.append((first, row.tolist())),
            progress=lambda *args: done.append(args),
            world=world,
        )
        return {"result": asdict(result), "windows": windows, "done": done, "passes": len(passes)}

    alone = evaluate(World())
    ranks = run_threads(size, evaluate)
    for found in ranks:
        assert found["result"] == alone["result"] and found["windows"] == alone["windows"]
        assert found["done"] == ranks[0]["done"] and found["done"][-1] == alone["done"][-1]
        assert found["passes"] == -(-alone["passes"] // size)


def test_the_distance_from_the_limit_is_that_of_one_process() -> None:
    ids = [0, *some_tokens(1, 60, V=60)[0].add(1).tolist(), 0]
    for end in (7, 20, 21, 40):
        ids[end] = 0
    limits = [(10.0 * i, "owl" if i % 2 else "cat") for i in range(ids.count(0) - 1)]
    tokens, lengths, model = TokensInMemory(ids), np.ones(61, dtype=np.int64), tiny_model(scale=5)

    def evaluate(world: World) -> Any:
        how: dict[str, Any] = {"context": 8, "batch_size": 2, "world": world}
        return evaluate_against_limits(deepcopy(model), tokens, lengths, limits, 0, **how)

    assert run_threads(3, evaluate) == [evaluate(World())] * 3


def some_batches(n: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of several shapes, with targets that are ignored."""
    batches = [
        (some_tokens(2 + i % 2, 6 + i % 3, seed=i), some_tokens(2 + i % 2, 6 + i % 3, seed=-i)) for i in range(n)
    ]
    for _, targets in batches:
        targets[0, :3] = IGNORED
    return batches


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_batches_of_an_own_loader(n: int) -> None:
    model = tiny_model(scale=5)

    def evaluate(world: World) -> Any:
        passes: list[int] = []
        own = deepcopy(model)
        own.wte.register_forward_hook(lambda *args: passes.append(1))
        return evaluate_batches(own, iter(some_batches(n)), LENGTHS, world=world), len(passes)

    alone, _ = evaluate(World())
    assert run_threads(2, evaluate) == [(alone, -(-n // 2))] * 2


@pytest.mark.parametrize("lengths", [(4, 3), (3, 4), (2, 6), (0, 1)])
def test_ranks_with_different_loaders_all_refuse(lengths: tuple[int, int]) -> None:
    """A DistributedSampler, or a loader that is shorter on one rank: no rank waits for the other."""

    def evaluate(world: World) -> str:
        with pytest.raises(ConfigError, match="loader of rank 1 .*DistributedSampler") as raised:
            evaluate_batches(tiny_model(), some_batches(lengths[world.rank]), LENGTHS, world=world)
        return str(raised.value)

    first, second = run_threads(2, evaluate)
    assert first == second

    def shuffled(world: World) -> None:
        batches = some_batches(4)[:: 1 - 2 * world.rank]
        with pytest.raises(ConfigError, match="from batch 1 on"):
            evaluate_batches(tiny_model(), batches, LENGTHS, world=world)

    run_threads(2, shuffled)


def test_a_cancelled_evaluation_ends_on_all_ranks() -> None:
    """`progress` raises on all ranks after the same batches, and every rank has sent the same messages."""

    def evaluate(world: ThreadWorld) -> list[Any]:
        def stop(done: int, total: int) -> None:
            if done >= 8:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tokens = TokensInMemory(some_tokens(1, 200)[0].tolist())
            evaluate_loss(tiny_model(), tokens, LENGTHS, context=8, batch_size=2, progress=stop, world=world)
        return world.messages

    first, second = run_threads(2, evaluate)
    assert first == second == [("sum", (32,))] * 2


def test_values_of_other_ranks_arrive_as_they_were() -> None:
    """Also what an addition could change: infinities, NaN, numbers of very different size."""
    numbers = ([1e-300, 1e300, float("inf")], [float("nan"), -float("inf")])
    rows = [torch.tensor(row, dtype=torch.float64) for row in numbers]

    def gather(world: World) -> list[list[float]]:
        return [t.tolist() for t in gather_values(rows[world.rank % 2], [(3,), (2,)], world)]

    for found in run_threads(3, gather):
        assert str(found) == str([row.tolist() for row in rows])
