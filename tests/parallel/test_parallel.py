"""Steps on several ranks: the gradients, weights and norms of one process."""

from functools import partial

import pytest

from light_llm.config import TrainConfig
from light_llm.errors import ConfigError, LightLLMError
from light_llm.objective import NextTokenLoss
from light_llm.parallel import Parallel, parallelize
from light_llm.runtime import World
from tests.support.parallel_runs import Case, differences
from tests.support.ranks import run_ranks
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
]
# The norm is that of the slices, added up in another order; so is the factor that clips.
CLOSE: list[Case] = [{"parallel": "fsdp", "grad_clip": 0.5, "micro_batch": 3}]


def describe(case: Case) -> str:
    return " ".join(f"{name}={value}" for name, value in case.items())


def test_two_ranks_compute_what_one_process_computes() -> None:
    results = run_ranks(2, differences, EXACT + CLOSE)
    for found in results:
        for case, worst in zip(EXACT, found, strict=False):
            assert worst["gradients"] == worst["weights"] == 0.0, describe(case)
            assert worst["numbers"] <= 1e-6, describe(case)
        for case, worst in zip(CLOSE, found[len(EXACT) :], strict=True):
            assert worst["gradients"] <= 1e-5 and worst["numbers"] <= 1e-6 and worst["weights"] <= 1e-4, describe(case)


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
