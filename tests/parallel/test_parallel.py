"""Steps on several ranks: the gradients, weights and norms of one process."""

import os
from dataclasses import replace
from functools import partial, partialmethod
from typing import Any

import pytest
import torch

from light_llm.config import TrainConfig
from light_llm.errors import ConfigError, DeviceError, LightLLMError
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.parallel import Parallel, parallelize
from light_llm.runtime import World, is_lost
from light_llm.runtime.process_group import ProcessGroupWorld
from light_llm.train.preflight import choose_parallel
from tests.support.parallel_runs import Case, differences
from tests.support.ranks import run_ranks
from tests.support.sharded_looks import equal_looks
from tests.support.tools import tiny_model

NO_CLIP = 1e9
# Equal to the last bit: two summands commute, and nothing else is added up in another order.
EXACT: list[Case] = [
    {"parallel": "ddp"},
    {"parallel": "ddp", "dtype": "bfloat16", "grad_clip": 0.5, "micro_batch": 3},
    {"parallel": "fsdp", "grad_clip": NO_CLIP},
    {"parallel": "fsdp", "grad_clip": NO_CLIP, "dtype": "bfloat16"},
    {"parallel": "fsdp", "grad_clip": NO_CLIP, "dtype": "bfloat16", "micro_batch": 2, "shape": "llama"},
    {"parallel": "fsdp", "grad_clip": NO_CLIP, "checkpointing": True, "shape": "llama"},
    {"parallel": "ddp", "optimizer": "muon", "dtype": "bfloat16"},
    {"parallel": "fsdp", "grad_clip": NO_CLIP, "optimizer": "muon"},
    {"parallel": "fsdp", "grad_clip": NO_CLIP, "optimizer": "muon", "dtype": "bfloat16", "shape": "llama"},
]
# The norm is that of the slices, added up in another order; so is the factor that clips.
CLOSE: list[Case] = [{"parallel": "fsdp", "grad_clip": 0.5, "micro_batch": 3}]


def describe(case: Case) -> str:
    return " ".join(f"{name}={value}" for name, value in case.items())


def compare(world: World, cases: list[Case]) -> dict[str, Any]:
    return {"steps": differences(world, cases), "looks": equal_looks(world)}


@pytest.fixture(scope="module")
def on_two_ranks() -> list[dict[str, Any]]:
    """One start for several tests."""
    found: list[dict[str, Any]] = run_ranks(2, compare, EXACT + CLOSE, timeout=120)
    return found


def test_two_ranks_compute_what_one_process_computes(on_two_ranks: list[dict[str, Any]]) -> None:
    for found in (result["steps"] for result in on_two_ranks):
        for case, worst in zip(EXACT, found, strict=False):
            assert worst["gradients"] == worst["weights"] == 0.0, describe(case)
            assert worst["numbers"] <= 1e-6, describe(case)
        for case, worst in zip(CLOSE, found[len(EXACT) :], strict=True):
            assert worst["first gradients"] <= 1e-6, describe(case)
            assert worst["numbers"] <= 1e-6 and worst["weights"] <= 1e-4, describe(case)


def test_a_sharded_model_is_looked_into_like_a_whole_one(on_two_ranks: list[dict[str, Any]]) -> None:
    """Evaluation, samples and probes, before and after steps of training."""
    for result in on_two_ranks:
        assert result["looks"] == [[True, True, True]] * 3


@pytest.mark.slow
def test_three_ranks_and_a_batch_of_six() -> None:
    """A division by the number of ranks would show: 3 is no power of 2, and the batch is not that of the others."""
    cases: list[Case] = [
        {"parallel": kind, "batch_size": 6, "optimizer": name} for kind in ("ddp", "fsdp") for name in ("adamw", "muon")
    ]
    check_close(run_ranks(3, differences, [case | {"shape": "llama"} for case in cases] + cases[:1] + cases[2:3]))


@pytest.mark.slow
def test_two_machines_of_two_ranks() -> None:
    """HSDP: replicas of shards. A gradient that is counted once per replica would show in the norms."""
    cases: list[Case] = [
        {"parallel": "fsdp", "grad_clip": 0.5},
        {"parallel": "fsdp", "optimizer": "muon", "shape": "llama"},
        {"parallel": "fsdp", "dtype": "bfloat16", "micro_batch": 1},
    ]
    check_close(run_ranks(4, on_two_machines, cases))


def on_two_machines(world: World, cases: list[Case]) -> list[dict[str, float]]:
    assert isinstance(world, ProcessGroupWorld)
    place = World(world.rank, world.size, world.rank % 2, 2)
    return differences(ProcessGroupWorld(place, world.store, world.control), cases)


@pytest.mark.slow
def test_compiled_blocks() -> None:
    """By the part of torch.compile that needs no C++ compiler: blocks of a sharded model, otherwise the objective."""
    on: Case = {"compile": "on"}
    cases: list[Case] = [
        on | {"parallel": "ddp"},
        on | {"parallel": "fsdp", "grad_clip": NO_CLIP},
        on | {"parallel": "fsdp", "grad_clip": NO_CLIP, "dtype": "bfloat16", "micro_batch": 3},
        on | {"parallel": "fsdp", "checkpointing": True, "shape": "llama"},
    ]
    for found in run_ranks(2, with_aot_eager, cases, timeout=120):
        assert all(worst["weights"] == 0.0 for worst in found[:3]), found
        assert found[3]["first gradients"] <= 2e-6 and found[3]["weights"] <= 1e-4, found


def with_aot_eager(world: World, cases: list[Case]) -> list[dict[str, float]]:
    compile_by = torch.nn.Module.compile
    torch.nn.Module.compile = partialmethod(compile_by, backend="aot_eager")  # type: ignore[assignment,method-assign]
    return differences(world, cases)


@pytest.mark.slow
def test_a_rank_lost_in_the_messages_of_muon_leaves_the_step_as_it_was() -> None:
    intact, _ = run_ranks(2, leave_in_step, may_die=[1])
    assert intact == {"waiting": True, "weights": True, "momentum": True}


def leave_in_step(world: World) -> dict[str, bool]:
    model = tiny_model()
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon"), world.size)
    for last in (False, True):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if last and world.rank == 1:
            os._exit(1)
        weights = [p.detach().clone() for p in model.parameters()]
        state = [s.clone() for by_name in optimizer.state.values() for s in by_name.values()]
        try:
            optimizer.step()
        except RuntimeError as error:
            assert last and is_lost(error)
    now = [s for by_name in optimizer.state.values() for s in by_name.values()]
    return {
        "waiting": bool(optimizer.waiting),  # type: ignore[attr-defined]
        "weights": all(map(torch.equal, weights, model.parameters())),
        "momentum": all(map(torch.equal, state, now)),
    }


def check_close(results: list[list[dict[str, float]]]) -> None:
    """The sums of more than two ranks have another order, which Adam and Muon enlarge in a few steps."""
    for found in results:
        for worst in found:
            assert worst["first gradients"] <= 2e-6 and worst["first norm"] <= 1e-6, worst
            assert worst["weights"] <= 5e-3 and worst["numbers"] <= 5e-3, worst


def test_one_process_has_no_wrapper() -> None:
    objective = NextTokenLoss(tiny_model())
    parallel = parallelize(objective, World(), TrainConfig(device="cpu", compile="off"))
    weight = objective.model.wte.weight
    assert parallel.kind == "one" and parallel.module is objective
    assert parallel.rows(7) == slice(0, 7)
    assert parallel.gather(weight) is weight
    assert parallel.replicas(weight) == 1


def test_rows_are_divided_in_order() -> None:
    make = partial(Parallel, NextTokenLoss(tiny_model()), config=TrainConfig(device="cpu", compile="off"))
    rows = [make(world=World(rank, 4)).rows(12) for rank in range(4)]
    assert [list(range(12))[r] for r in rows] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    with pytest.raises(ConfigError) as refused:
        make(world=World(1, 4)).rows(6)
    assert "batch_size=6" in str(refused.value) and "batch_size=8" in str(refused.value)
    with pytest.raises(LightLLMError, match="batch_size=4"):
        make(world=World(1, 4)).rows(2)


def test_shards_are_refused_on_a_device_without_them() -> None:
    config = TrainConfig(device="mps", parallel="fsdp")
    with pytest.raises(DeviceError, match="mps") as refused:
        choose_parallel(config, None, World(1, 2))
    assert "parallel='ddp'" in str(refused.value)
    assert choose_parallel(replace(config, parallel="auto"), None, World(1, 2)).value == "ddp"
    assert choose_parallel(config, None, World()).reason == "one process"
