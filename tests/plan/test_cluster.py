"""The formula for clusters: laws that hold for any run, and its errors on published speeds."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.plan.cluster import (
    Measured,
    Work,
    is_too_slow,
    needed_tokens,
    predict_step,
    token_seconds,
    tokens_to_hide,
    work_of,
)
from light_llm.plan.machine import Machine, load_machine, machine_names
from light_llm.plan.published import FOUNDRY, PUBLISHED, SOURCES, Published, median_error, nearest_rows
from light_llm.runtime import training_flops

CPU = TrainConfig(device="cpu", dtype="bfloat16", compile="off")
H100 = load_machine("h100x8")

works = st.builds(
    lambda L, C, V, T, rows, pieces: Work(
        L, C, 12 * L * C * C, 12 * L * C * C + V * C, V, T, rows, pieces, attention=L * C * T
    ),
    L=st.integers(1, 100),
    C=st.integers(64, 16_384),
    V=st.integers(256, 300_000),
    T=st.integers(64, 65_536),
    rows=st.integers(1, 64),
    pieces=st.integers(1, 64),
)
machines = st.sampled_from([load_machine(name) for name in machine_names()])
kinds = st.sampled_from(["ddp", "fsdp"])
sizes = st.sampled_from([1, 2, 4, 8, 16, 64, 512])


def doubled(machine: Machine) -> Machine:
    """Return a machine with twice the bytes/s on each link and in each memory."""
    links = {name: 2 * value for name in ("nvlink", "nic") if (value := getattr(machine, name))}
    return replace(machine, gpu=replace(machine.gpu, bandwidth=2 * machine.gpu.bandwidth), **links)


@given(work=works, machine=machines, W=sizes, kind=kinds)
def test_twice_the_bandwidth_never_slows_a_step(work: Work, machine: Machine, W: int, kind: str) -> None:
    before, after = (predict_step(work, m, W, kind) for m in (machine, doubled(machine)))
    assert after.seconds <= before.seconds and after.exposed <= before.exposed


@given(work=works, machine=machines, kind=kinds)
def test_one_gpu_has_the_speed_of_the_single_device(work: Work, machine: Machine, kind: str) -> None:
    step = predict_step(work, machine, 1, kind)
    alone = work.tokens * token_seconds(work, machine.gpu) + 30 * work.parameters / machine.gpu.bandwidth
    assert step.seconds == pytest.approx(alone) and step.communication == step.exposed == step.stragglers == 0
    measured = predict_step(work, machine, 1, kind, measured=Measured(micro=2.0, update=0.5))
    assert measured.seconds == 2.0 * work.micro_batches + 0.5


@given(work=works, machine=machines, W=sizes)
def test_ddp_gathers_nothing_and_sums_once_a_step(work: Work, machine: Machine, W: int) -> None:
    step = predict_step(work, machine, W, "ddp")
    once = predict_step(replace(work, micro_batches=1), machine, W, "ddp")
    assert step.communication == once.communication
    bytes_sent = step.communication * 0.7 * machine.line(W) if W > 1 else 0.0
    assert bytes_sent == pytest.approx(8 * work.parameters * (W - 1) / W)
    sharded = predict_step(work, machine, W, "fsdp")
    assert sharded.communication == pytest.approx(work.micro_batches * step.communication)
    assert sharded.update == pytest.approx(step.update / W)


@given(work=works, machine=machines, W=sizes, kind=kinds)
def test_communication_is_exposed_in_part_and_costs_its_time(work: Work, machine: Machine, W: int, kind: str) -> None:
    step = predict_step(work, machine, W, kind)
    assert 0 <= step.exposed <= step.communication * (1 + 1e-9)
    assert step.seconds == pytest.approx(step.computing + step.exposed + step.update + step.stragglers)
    assert step.seconds >= predict_step(work, machine, W, kind, stragglers=False).seconds
    assert step.tokens_per_second * step.seconds == pytest.approx(work.tokens)


def test_more_than_eight_gpus_lose_a_percent_for_each_doubling() -> None:
    work = work_of(ModelConfig.small(), replace(CPU, batch_size=512), 1024, 64)
    with_loss, without = (predict_step(work, H100, 64, "ddp", stragglers=s).seconds for s in (True, False))
    assert with_loss == pytest.approx(1.03 * without)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_slow_network_decides_the_step(kind: str) -> None:
    """At a billion parameters and 1 Gb/s nothing hides the messages."""
    slow = replace(H100, nic=125e6)
    work = replace(PUBLISHED[8].work, micro_batch=1)
    step = predict_step(work, slow, 16, kind)
    assert step.exposed > 0.9 * step.communication > 100 * step.computing


# ---- the rule of tokens


@pytest.mark.parametrize(
    ("line", "tokens"), [(300e9, 1.4e3), (12.5e9, 35e3), (3.125e9, 140e3), (1.25e9, 350e3), (125e6, 3.5e6)]
)
def test_the_rule_of_tokens(line: float, tokens: float) -> None:
    """As it is published for an A100 that reaches 156 TFLOP/s."""
    assert tokens_to_hide(156e12, line) == pytest.approx(tokens, rel=0.03)


def test_the_rule_and_the_step_agree() -> None:
    """Where a GPU has the tokens of the rule, about the part of a sum is exposed that is always exposed."""
    slow = replace(H100, nic=1.25e9)
    work = replace(PUBLISHED[2].work, T=1024, micro_batch=1)
    needed = needed_tokens(work, slow, 16)
    enough = replace(work, micro_batch=round(1.2 * needed / 1024))
    short = replace(work, micro_batch=max(1, round(0.2 * needed / 1024)))
    assert predict_step(enough, slow, 16, "ddp").exposed == pytest.approx(
        0.2 * predict_step(enough, slow, 16, "ddp").communication
    )
    step = predict_step(short, slow, 16, "ddp")
    assert step.exposed > 0.5 * step.communication


def test_two_laptops_on_wifi_do_not_train_together() -> None:
    laptop = replace(load_machine("l4x1"), nic=30e6)
    work = work_of(ModelConfig.nano(), replace(CPU, batch_size=8), 256, 2)
    assert is_too_slow(work, laptop, 2) and not is_too_slow(work, laptop, 1)
    assert not is_too_slow(work, replace(laptop, nic=50e9), 2)
    assert not is_too_slow(replace(work, micro_batch=10**6), laptop, 2), "so large a batch hides anything"


# ---- what a run asks for


def test_the_work_of_a_run_is_that_of_its_settings() -> None:
    model, train = ModelConfig.small(), replace(CPU, batch_size=64, micro_batch=4)
    work = work_of(model, train, 1024, 8)
    assert (work.micro_batch, work.micro_batches, work.tokens) == (4, 2, 8 * 1024)
    assert work.parameters == get_model_size(model) and work.recomputed == 1
    assert work_of(model, replace(train, checkpointing=True), 1024, 8).recomputed == pytest.approx(4 / 3)
    assert work_of(model, replace(train, micro_batch=None), 1024, 8).micro_batches == 1


@pytest.mark.parametrize("layers", ["all", "0,2,5", ""])
def test_operations_are_those_of_the_mfu(layers: str) -> None:
    windows = {"window": 100, "window_layers": layers} if layers else {}
    model = ModelConfig.preset("llama-small", n_head=8, n_kv_head=2, **windows)
    assert work_of(model, CPU, 512, 1).flops_per_token == pytest.approx(training_flops(model, 512))


# ---- published speeds


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.model}-{row.gpus}-{row.gpu}-{row.speed:g}")
def test_the_error_of_a_row_is_the_stated_one(row: Published) -> None:
    """Noted without the loss of more than 8 GPUs, in whole percent."""
    assert row.source in SOURCES
    error = 100 * row.error(stragglers=False)
    assert (error == pytest.approx(row.stated, abs=2) and (error > 0) == (row.stated > 0)) or abs(error) < 0.5


def test_the_median_errors_are_those_that_are_promised() -> None:
    assert median_error(foundry=True) <= 0.06 and median_error(foundry=False) <= 0.25
    assert sum(row.source == FOUNDRY for row in PUBLISHED) == 21


@pytest.mark.parametrize(("kind", "W"), [("H100", 64), ("A100", 8), ("L4", 1), ("RTX 4090", 2)])
def test_the_nearest_rows_are_of_the_same_gpu_where_there_are_any(kind: str, W: int) -> None:
    rows = nearest_rows(PUBLISHED[8].work, kind, W)
    assert len(rows) == 3
    if kind in ("H100", "A100"):
        assert all(row.gpu.startswith(kind) for row in rows) and rows[0].model == "MPT-1b"


def test_the_formula_needs_no_torch() -> None:
    code = "import sys, light_llm.plan.published; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
