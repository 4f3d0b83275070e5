"""The plan of a run on several ranks: memory of each, batches that cannot be divided, settings that fit."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.errors import ConfigError
from light_llm.plan import plan as plan_module
from light_llm.plan import speed as speed_module
from light_llm.plan.memory_model import StepShape, moments, optimizer_bytes, step_memory
from light_llm.plan.plan import Plan, make_plan
from light_llm.plan.render import header_lines, refusal, table
from light_llm.plan.suggest import suggest_settings
from light_llm.plan.time_model import step_seconds
from light_llm.runtime import MemoryLimit
from tests.support.tools import PROFILE

CPU = TrainConfig(device="cpu", dtype="float32", compile="off", batch_size=8)
SMALL = ModelConfig.small()
AMPLE = MemoryLimit(1 << 50, "a test's limit")


def planned(W: int = 1, kind: str | None = None, *, limit: MemoryLimit = AMPLE, **train: Any) -> Plan:
    config = replace(CPU, **train)
    return make_plan(SMALL, config, 128, framework=0, limit=limit, timed=False, world_size=W, parallel=kind)


def shape(W: int, *, sharded: bool, rows: int = 1, **train: Any) -> StepShape:
    """Return a rank's shape with the same number of sequences for any W."""
    return StepShape.of(SMALL, replace(CPU, batch_size=rows * W, **train), 128, ranks=W, shards=W if sharded else 1)


@pytest.mark.parametrize("train", [{}, {"dtype": "bfloat16"}, {"optimizer": "muon"}, {"checkpointing": True}])
def test_memory_falls_with_the_ranks_under_fsdp_and_stays_under_ddp(train: dict[str, Any]) -> None:
    ddp = [step_memory(shape(W, sharded=False, **train)).total for W in (2, 4, 8, 64)]
    fsdp = [step_memory(shape(W, sharded=True, **train)).total for W in (2, 4, 8, 64)]
    assert len(set(ddp)) == 1 and fsdp == sorted(fsdp, reverse=True) and fsdp[-1] < fsdp[0] < ddp[0]


def test_a_rank_of_fsdp_keeps_its_share_and_gathers_two_blocks_and_the_tables() -> None:
    s = shape(4, sharded=True)
    last = list(moments(s))[-1]  # the optimizer works, and everything is in shards
    P = get_model_size(SMALL)
    assert last.weights == last.gradients == P and last.optimizer == -(-optimizer_bytes(SMALL, "adamw") // 4)
    outer, block = (SMALL.vocab_size + SMALL.n_positions + 2) * SMALL.n_embd, 12 * SMALL.n_embd**2 + 13 * SMALL.n_embd
    assert next(moments(s)).weights - P == 4 * outer + 2 * 4 * block
    assert next(moments(shape(4, sharded=True, dtype="bfloat16"))).weights - P == 4 * outer + 2 * 2 * block


def test_each_of_several_machines_has_all_shards() -> None:
    one = planned(8, "fsdp").memory.weights
    several = make_plan(
        SMALL, replace(CPU, batch_size=32), 128, timed=False, world_size=32, local_size=8, parallel="fsdp"
    )
    assert several.memory.weights == one > planned(32, "fsdp", batch_size=32).memory.weights


def test_compiled_blocks_are_gathered_in_32_bits() -> None:
    eager, compiled = (shape(4, sharded=True, dtype="bfloat16", compile=how) for how in ("off", "on"))
    block = 12 * SMALL.n_embd**2 + 13 * SMALL.n_embd
    assert next(moments(compiled)).weights - next(moments(eager)).weights == 2 * 2 * block


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_tensor_group_divides_matrices_and_keeps_the_rows(kind: str) -> None:
    whole, divided = planned(4, kind, batch_size=4), planned(8, kind, tensor=2, batch_size=4)
    assert divided.data_size == 4 and divided.memory.weights == pytest.approx(whole.memory.weights / 2, rel=0.03)
    assert whole.memory.total / 2 < divided.memory.total < whole.memory.total
    assert all(s.plan.fits for s in suggest_settings(divided, timed=False))
    with pytest.raises(ConfigError, match="tensor=3 does not divide the 4 processes"):
        planned(4, tensor=3)
    with pytest.raises(ConfigError, match="4 groups of 2 processes; use batch_size=4 or batch_size=8"):
        planned(8, tensor=2, batch_size=6)


def test_ddp_keeps_its_buckets_at_every_moment() -> None:
    assert all(m.gradients >= 4 * get_model_size(SMALL) for m in moments(shape(2, sharded=False)))


def test_micro_batches_under_fsdp_are_summed_whole() -> None:
    one, several = shape(2, sharded=True, rows=4), shape(2, sharded=True, rows=4, micro_batch=1)
    assert several.micro_batches == 4 and several.B == 1 < one.B == 4
    assert max(m.gradients for m in moments(several)) >= 4 * get_model_size(SMALL)


def test_one_rank_is_planned_as_before() -> None:
    plan = planned()
    assert plan.parallel == "one" and plan.memory == planned(1, "fsdp").memory == planned(1, "ddp").memory
    assert "processes" not in plan.to_dict() and "process" not in "".join([*table(plan), *header_lines(plan)])


def test_activations_are_those_of_the_ranks_own_sequences() -> None:
    whole, half = planned(1, batch_size=4), planned(2, batch_size=8)
    assert half.memory.activations == whole.memory.activations and half.tokens_per_step == 2 * whole.tokens_per_step


def test_auto_takes_ddp_where_a_replica_fits_and_fsdp_where_it_does_not() -> None:
    assert planned(8).parallel == "ddp" and planned(8, limit=MemoryLimit(10, "a test's")).parallel == "fsdp"
    tight = MemoryLimit(planned(8, "ddp").memory.total - 1, "a test's limit")
    assert planned(8, limit=tight).parallel == "fsdp" and planned(8, limit=tight).fits
    assert planned(8, parallel="ddp", limit=tight).parallel == "ddp"


def test_what_does_not_fit_is_refused_with_settings_of_each_rank_that_do() -> None:
    plan = planned(4, parallel="ddp", batch_size=48)
    plan = planned(4, parallel="ddp", batch_size=48, limit=MemoryLimit(plan.memory.total - 1, "a test's limit"))
    suggestions = suggest_settings(plan, timed=False)
    assert all(s.plan.fits and s.plan.world_size == 4 for s in suggestions)
    flags = [s.flags for s in suggestions]
    assert "--parallel fsdp" in flags and "--micro-batch 6" in flags and "--batch-size 32" in flags
    words = refusal(plan, suggestions)
    assert "4 processes" in words and all(len(line) <= 80 for line in words.splitlines()[1:])


def test_the_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(device: str, *, processes: int = 1) -> MemoryLimit:
        return MemoryLimit(1 << 40, f"for {processes}")

    monkeypatch.setattr(plan_module, "memory_limit", limit)
    for W, local, reason in ((1, None, "for 1"), (8, None, "for 8"), (8, 4, "for 4"), (8, 1, "for 1")):
        plan = make_plan(SMALL, CPU, 128, timed=False, world_size=W, local_size=local)
        assert plan.limit is not None and plan.limit.reason == reason


@pytest.mark.parametrize(
    ("W", "train", "named"),
    [
        (3, {"batch_size": 8}, r"8 sequences .* 3 processes.*batch_size=6 or batch_size=9"),
        (16, {"batch_size": 8}, r"16 processes; use batch_size=16"),
        (4, {"batch_size": 24, "micro_batch": 4}, r"4 processes has 6 of the 24.* of 4; use micro_batch=3"),
        (2, {"batch_size": 8, "micro_batch": 8}, r" of 8; use micro_batch=4"),
    ],
)
def test_a_batch_that_cannot_be_divided(W: int, train: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        planned(W, **train)


@given(W=st.integers(1, 64), batch=st.integers(1, 512), micro=st.integers(1, 64))
def test_the_sizes_of_a_refusal_work(W: int, batch: int, micro: int) -> None:
    train = replace(CPU, batch_size=batch * micro, micro_batch=micro)
    for _ in range(3):  # of the batch, then of the micro-batch
        try:
            plan_module.check_batch(train, W)
            return
        except ConfigError as error:
            name, value = re.findall(r"use (batch_size|micro_batch)=(\d+)", str(error))[0]
            # A batch that this micro-batch does not divide is refused by the settings themselves.
            train = replace(train, **{"micro_batch": None, name: int(value)})
    raise AssertionError("three refusals in a row")


@pytest.mark.usefixtures("known_machine")
def test_ranks_on_one_cpu_share_its_cores() -> None:
    config = replace(CPU, batch_size=8, micro_batch=4)
    one = step_seconds(StepShape.of(SMALL, config, 128), PROFILE)
    two = step_seconds(StepShape.of(SMALL, config, 128, ranks=2, local=2), PROFILE)
    apart = step_seconds(StepShape.of(SMALL, config, 128, ranks=2, local=1), PROFILE)
    assert two == 2 * apart and apart < one and two == pytest.approx(one, rel=0.2)
    lines = table(make_plan(SMALL, config, 128, framework=0, limit=AMPLE, world_size=2))
    assert any("2, 4 of 8 sequences each" in line for line in lines) and all(len(line) <= 80 for line in lines)


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "profile", lambda device, dtype, model: PROFILE)
