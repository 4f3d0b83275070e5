"""A plan's numbers are what torch allocates, what is written to disk, and what the arithmetic demands."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from light_llm.config import PRESETS, ModelConfig, TrainConfig, get_model_size
from light_llm.config.choices import OPTIMIZERS
from light_llm.layers.attention import QUERY_BLOCK
from light_llm.observe import step_metrics
from light_llm.optim import build_optimizer
from light_llm.plan import memory_model as formulas
from light_llm.plan import profile as profile_module
from light_llm.plan import speed as speed_module
from light_llm.plan.memory_model import StepShape, saved_bytes_of_layer
from light_llm.plan.plan import KEPT_STEPS, DatasetSize, Plan, make_plan
from light_llm.plan.profile import N_TIMINGS, WIDTHS, is_known, profile
from light_llm.plan.render import parameters_by_part
from light_llm.plan.suggest import resize_to_preset
from light_llm.plan.time_model import evaluation_seconds, interpolate, step_seconds
from light_llm.runtime import MemoryLimit
from light_llm.runtime.machine_cache import cached_measurements
from light_llm.runtime.timing import BusyMeter
from light_llm.train import Trainer
from tests.support.live_bytes import peak_of_a_step
from tests.support.tools import PROFILE, byte_loader, byte_model, tiny_model

CPU = TrainConfig(device="cpu", dtype="float32", compile="off", batch_size=4)


def shaped(C: int = 128, H: int = 2, L: int = 3, V: int = 4096, T: int = 128, **model: Any) -> ModelConfig:
    return ModelConfig(n_embd=C, n_head=H, n_layer=L, vocab_size=V, n_positions=T, **model)


MODERN: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_kv_head": 1}
GEMMA = MODERN | {"norm": "rmsnorm1p", "mlp": "geglu", "qk_norm": True, "post_norms": True, "scale_embeddings": True}
GEMMA |= {"attn_scale": 0.1, "window": 32, "window_layers": "0,1", "rope_local_base": 1e4}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_parts_add_up_to_the_model(preset: str) -> None:
    config = ModelConfig.preset(preset)
    for changed in (config, replace(config, qkv_bias="yes", post_norms=True, mlp="geglu")):
        assert sum(parameters_by_part(changed).values()) == get_model_size(changed)


def shape_of(model: dict[str, Any] | None = None, T: int = 128, **train: Any) -> StepShape:
    return StepShape.of(shaped(**model or {}), replace(CPU, **train), T)


# ---- memory: a real step, its allocations counted, against the formulas

CASES = [
    (shaped(), {}, 128),
    (shaped(), {"dtype": "bfloat16"}, 128),
    (shaped(T=300), {"dtype": "bfloat16"}, 300),  # blocks of queries that do not divide it
    (shaped(dropout=0.1), {"dtype": "bfloat16"}, 128),
    (shaped(attn_dropout=0.1), {}, 128),  # attention by the formula
    (shaped(L=6), {"checkpointing": True, "dtype": "bfloat16"}, 128),
    (shaped(L=6), {"checkpointing": True}, 128),
    (shaped(), {"micro_batch": 1, "dtype": "bfloat16"}, 128),
    (shaped(C=256, H=4, V=20000), {"batch_size": 1}, 32),  # the end of the backward pass holds most
    (shaped(C=256, H=4), {"optimizer": "muon"}, 128),
    (shaped(C=64, H=1, V=300, L=8), {}, 128),
    (shaped(V=20000), {"loss_chunk": 256, "dtype": "bfloat16"}, 128),
    (shaped(**MODERN), {}, 128),
    (shaped(**MODERN), {"dtype": "bfloat16"}, 128),
    (shaped(**MODERN, L=6), {"checkpointing": True, "dtype": "bfloat16"}, 128),
    (shaped(**MODERN, qk_norm=True), {"dtype": "bfloat16"}, 128),
    (shaped(**MODERN, tied_head=False), {"micro_batch": 1, "dtype": "bfloat16"}, 128),
    (shaped(**MODERN, window=32), {}, 128),
    (shaped(mlp="relu2", qk_norm=True), {"dtype": "bfloat16"}, 128),
    (shaped(**MODERN), {"optimizer": "muon"}, 128),
    (shaped(positions="rope", rotary_pct=0.25, parallel_residual=True, tied_head=False), {"dtype": "bfloat16"}, 128),
    (shaped(**GEMMA), {}, 128),
    (shaped(**GEMMA), {"dtype": "bfloat16"}, 128),
    (shaped(L=6, post_norms=True), {"dtype": "bfloat16"}, 128),
]


@pytest.mark.parametrize(("model", "changes", "T"), CASES)
def test_the_peak_of_a_step_is_what_torch_allocates(model: ModelConfig, changes: dict[str, object], T: int) -> None:
    train = replace(CPU, **changes)  # type: ignore[arg-type]
    predicted = formulas.step_memory(StepShape.of(model, train, T))
    measured = peak_of_a_step(model, train, T)
    assert predicted.total - predicted.weights - predicted.optimizer == pytest.approx(measured, rel=0.05, abs=1 << 20)


def test_constants_that_are_written_twice_are_the_same() -> None:
    assert step_metrics.MAX_SAMPLE == formulas.SAMPLED_ELEMENTS


def test_the_blocks_of_attention_keep_what_they_see() -> None:
    T = 2 * QUERY_BLOCK + 7
    ends = [min(T, (i // QUERY_BLOCK + 1) * QUERY_BLOCK) for i in range(T)]  # of each query's block
    assert formulas.seen_by_blocks(T) == sum(ends)


@pytest.mark.parametrize("change", [{"micro_batch": 2}, {"checkpointing": True}])
def test_memory_is_saved(change: dict[str, Any]) -> None:
    saving, plain = (formulas.step_memory(shape_of({"L": 6}, **c)).total for c in (change, {}))
    assert saving < plain


def test_16_bits_keep_38_bytes_an_element_and_32_bits_68() -> None:
    """Beside attention, norms and copies of the matrices."""
    full, half = (shape_of(dtype=dtype) for dtype in ("float32", "bfloat16"))
    C, N = 128, 4 * 128
    rest = [formulas.attention_bytes(s) + 16 * N for s in (full, half)]
    assert saved_bytes_of_layer(full) - rest[0] == 68 * N * C
    assert saved_bytes_of_layer(half) - rest[1] - 24 * C**2 == 38 * N * C


def test_the_moments_are_those_of_the_optimizer() -> None:
    for name in OPTIMIZERS:
        model = tiny_model()
        optimizer = build_optimizer(model, replace(CPU, optimizer=name))
        for p in model.parameters():
            p.grad = p.detach().clone()
        optimizer.step()
        state = [v for values in optimizer.state.values() for v in values.values() if hasattr(v, "nbytes")]
        kept = sum(v.nbytes for v in state if v.ndim)
        assert formulas.optimizer_bytes(model.config, name) == kept


# ---- time


def test_a_step_takes_its_parts() -> None:
    shape = shape_of({"C": 256, "H": 4}, 256)
    block = PROFILE.block_batch[1] + shape.N * (PROFILE.block_token[1] + 4 * PROFILE.attention[1])
    head = 4096 * (PROFILE.head_batch[1] + shape.N * PROFILE.head_token[1])
    rest = 4096 * 256 * PROFILE.table + get_model_size(shape.model) * PROFILE.adamw
    assert step_seconds(shape, PROFILE) == pytest.approx(3 * block + head + rest)


@pytest.mark.parametrize(
    ("change", "model"),
    [({"micro_batch": 1}, {}), ({"checkpointing": True}, {}), ({}, {"dropout": 0.1}), ({}, {"L": 4})],
)
def test_extra_work_takes_time(change: dict[str, Any], model: dict[str, Any]) -> None:
    assert step_seconds(shape_of(model, **change), PROFILE) > step_seconds(shape_of(), PROFILE)


def test_an_evaluation_takes_time_by_its_tokens() -> None:
    one, two = (evaluation_seconds(shape_of(), PROFILE, n * shape_of().N) for n in (1, 2))
    assert two == pytest.approx(2 * one) and one < step_seconds(shape_of(), PROFILE)  # no backward pass


@pytest.mark.parametrize("x", [64, 128, 200, 512, 2048])
def test_a_power_law_is_interpolated_exactly(x: int) -> None:
    assert interpolate(x, WIDTHS, [3e-9 * w**1.7 for w in WIDTHS]) == pytest.approx(3e-9 * x**1.7)
    assert interpolate(32, WIDTHS, (0.0, 1.0, 5.0)) == 0, "never below 0"


def quiet_meter() -> BusyMeter:
    return BusyMeter(clock=lambda: 0.0)


def test_this_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a stopwatch that counts operations, a microsecond for a million: the machine's own speed plays no part."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path))
    calls = 0

    def count_operations(work: Callable[[], object], **_: Any) -> list[float]:
        nonlocal calls
        calls += 1
        with FlopCounterMode(display=False) as counter:
            work()
        return [counter.get_total_flops() * 1e-12]

    monkeypatch.setattr(profile_module, "time_calls", count_operations)
    monkeypatch.setattr(profile_module, "MANY", 128)
    # Other tests may be running on this machine.
    monkeypatch.setattr(profile_module, "cached_measurements", partial(cached_measurements, make_meter=quiet_meter))
    assert not is_known("cpu", "float32")
    measured = profile("cpu", "float32")
    once = calls
    assert is_known("cpu", "float32") and profile("cpu", "float32") == measured and calls == once == N_TIMINGS
    for C, batch, token in zip(WIDTHS, measured.block_batch, measured.block_token, strict=True):
        assert batch == pytest.approx(0, abs=1e-12) and token == pytest.approx(6 * 12 * C**2 * 1e-12)
    assert measured.head_token == pytest.approx([6 * C * 1e-12 for C in WIDTHS])
    assert measured.forward == pytest.approx(1 / 3) and measured.evaluated == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("head_dim", "share", "rotated"), [(80, 0.4, 26), (64, 0.25, 16), (256, 0.01, 2), (64, 1.0, 64)]
)
def test_a_block_of_another_width_is_rotated_in_pairs(head_dim: int, share: float, rotated: int) -> None:
    """Of the heads of 64 that are measured."""
    model = ModelConfig(positions="rope", head_dim=head_dim, rotary_pct=share, parallel_residual=True)
    block = profile_module.block_like(model, WIDTHS[0], 1)
    assert block.rotary_dims == rotated and block.parallel_residual
    narrow = ModelConfig(positions="rope", n_head=6, n_embd=6 * head_dim, rotary_pct=share)
    resized = {name.removeprefix("model__"): value for name, value in resize_to_preset("llama-nano", narrow).items()}
    assert replace(narrow, **resized).rotary_dims == rotated


# ---- the whole


def test_a_plan_is_what_a_run_becomes(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens, its passes, and the bytes of its checkpoints."""
    monkeypatch.setattr(speed_module, "profile", lambda device, dtype, model: PROFILE)
    loader = byte_loader(poem)
    config = replace(CPU, max_steps=4, save_interval=2, eval_interval=2, sample_interval=0, probe_interval=0)
    text = DatasetSize(len(loader.dataset.tokens), len(loader.dataset.held_out))
    plan = make_plan(byte_model().config, config, 16, text)
    result = Trainer(byte_model(), loader, config, out="run", quiet=True).train()
    assert plan.tokens == 4 * 4 * 16 and plan.passes == pytest.approx(plan.tokens / len(loader.dataset.tokens))
    files = [f for pattern in ("step-*/*.safetensors", "best_model.pt") for f in result.folder.glob(pattern)]
    assert len(list(result.folder.glob("step-*"))) == KEPT_STEPS
    written = sum(f.stat().st_size for f in files)
    assert plan.bytes_of_checkpoints == pytest.approx(written, rel=0.25)  # of a model as small as its files' headers
    assert plan.seconds is not None and plan.step is not None and plan.seconds.steps == pytest.approx(4 * plan.step)


def test_a_plan_fits_within_its_limit() -> None:
    def planned(limit: int) -> Plan:
        return make_plan(shaped(), CPU, 128, framework=0, limit=MemoryLimit(limit, "a test"), timed=False)

    plan = planned(1 << 40)
    assert plan.fits and plan.step is None and not planned(plan.memory.total - 1).fits
