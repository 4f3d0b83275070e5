"""Norms by group: those that a loop over the tensors gives, and a measured run is the run."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from light_llm.config import TrainConfig
from light_llm.model import LightLLM
from light_llm.observe.step_metrics import MAX_SAMPLE, StepMetrics, group_of, sample_stride
from light_llm.optim import build_optimizer
from tests.support.tools import gradients, rows_of, some_tokens, tiny_model, train_small


def stepped(
    model: LightLLM, optimizer: torch.optim.Optimizer, meter: StepMetrics | None, max_norm: float = 0.5
) -> Tensor:
    """One step of training on some tokens. Returns the norm before clipping."""
    optimizer.zero_grad()
    x = some_tokens()
    torch.nn.functional.cross_entropy(model(x).flatten(0, 1), x.roll(-1, dims=1).flatten()).backward()
    norm = meter.clip(max_norm) if meter else torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return norm


@pytest.mark.parametrize(
    ("name", "n_embd", "near"),
    [("adamw", 24, 1e-3), ("muon", 24, 1e-3), ("adamw", 192, 0.03)],  # the last has tensors that are sampled
)
def test_the_norms_are_those_of_a_loop_over_the_tensors(name: str, n_embd: int, near: float) -> None:
    model = tiny_model(n_embd=n_embd, vocab_size=601)
    optimizer = build_optimizer(model, TrainConfig(optimizer=name))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with StepMetrics(model, optimizer) as meter:
        total = stepped(model, optimizer, meter, max_norm=1e9)  # not clipped: the gradients are still there
    squares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for n, p in model.named_parameters():
        assert p.grad is not None
        for i, t in enumerate((p.grad, p.detach(), p.detach() - before[n])):
            squares[group_of(n)][i] += float(t.double().square().sum())
    found = meter.current
    assert found is not None and found.groups == tuple(squares)
    assert found.groups == ("wte", "wpe", "h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp", "ln_f")
    for group, (g, w, u) in squares.items():
        assert found.grad_norms()[group] == pytest.approx(g**0.5, rel=1e-3)
        assert found.update_ratios()[group] == pytest.approx((u / w) ** 0.5, rel=2 * near)
    assert float(total) == pytest.approx(sum(g for g, _, _ in squares.values()) ** 0.5, rel=1e-5)
    assert found.weight_norm() == pytest.approx(sum(w for _, w, _ in squares.values()) ** 0.5, rel=near)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_measured_step_is_the_step_to_the_last_bit(name: str) -> None:
    models = [tiny_model(), tiny_model()]
    optimizers = [build_optimizer(m, TrainConfig(optimizer=name)) for m in models]
    with StepMetrics(models[0], optimizers[0]) as meter:
        for _ in range(3):
            norms = [stepped(m, o, meter if m is models[0] else None) for m, o in zip(models, optimizers, strict=True)]
            assert torch.equal(*norms)
    grads = [gradients(m) for m in models]
    for a, b in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        assert torch.equal(a[1], b[1]) and torch.equal(grads[0][a[0]], grads[1][b[0]])


def test_gains_around_1_are_measured_as_gains() -> None:
    """Their weights start at 0, where the first update would be all of them."""
    model = tiny_model(norm="rmsnorm1p", post_norms=True)
    with torch.no_grad():
        model.ln_f.weight.zero_()
    with StepMetrics(model, build_optimizer(model, TrainConfig(lr=1e-3))) as meter:
        stepped(model, meter.optimizer, meter)
    assert meter.current is not None and "ln_f" in meter.current.groups
    update = float(model.ln_f.weight.detach().norm())
    ratio = update / float((1 + model.ln_f.weight.detach()).norm())
    assert meter.current.update_ratios()["ln_f"] == pytest.approx(ratio, rel=1e-3) and ratio < 0.01


def test_the_hooks_are_gone_afterwards() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, TrainConfig())
    with StepMetrics(model, optimizer) as meter:
        stepped(model, optimizer, meter)
    last = meter.current
    assert last is not None
    kept = last.updates
    stepped(model, optimizer, None)
    assert last.updates is kept
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_frozen_parameters_and_parameters_without_a_gradient_are_no_trouble() -> None:
    model = tiny_model()
    model.wpe.weight.requires_grad_(False)
    optimizer = build_optimizer(model, TrainConfig())
    with StepMetrics(model, optimizer) as meter:
        model.ln_f(torch.randn(2, model.config.n_embd)).sum().backward()
        meter.clip(1.0)
        optimizer.step()
    assert meter.current is not None
    norms = meter.current.grad_norms()
    assert "wpe" not in norms and norms["ln_f"] > 0 and norms["h.0.attn"] == 0


@pytest.mark.parametrize("shape", [(1000, 384), (384, 1000), (50257, 192), (3 * MAX_SAMPLE + 1,), (16, 16, 1024)])
def test_a_sample_goes_over_all_rows_and_columns(shape: tuple[int, ...]) -> None:
    t = torch.arange(torch.Size(shape).numel()).view(shape)
    assert sample_stride((128, 128)) == 1
    seen = t.flatten()[:: sample_stride(shape)]
    assert MAX_SAMPLE / 2 < len(seen) <= MAX_SAMPLE
    if len(shape) == 2:
        columns = torch.bincount(seen % shape[1], minlength=shape[1])
        assert columns.min() > 0 and columns.max() <= 2 * columns.min()
        thirds = torch.bincount(seen // shape[1] * 3 // shape[0])
        assert thirds.max() <= 1.01 * thirds.min()


def test_the_norm_of_a_sample_is_near_that_of_the_whole() -> None:
    """Rows that differ, as those of frequent and rare tokens do, and heavy tails."""
    g = torch.Generator().manual_seed(1)
    t = torch.randn(50257, 96, generator=g) * (torch.arange(50257.0) + 10).rsqrt()[:, None]
    t *= torch.rand(t.shape, generator=g).rsqrt().clamp(max=30)
    sample = t.flatten()[:: sample_stride(t.shape)]
    estimate = sample.norm() * (t.numel() / len(sample)) ** 0.5
    assert float(estimate) == pytest.approx(float(t.norm()), rel=0.05)


def test_the_rows_of_a_run_have_them(poem: Path) -> None:
    train_small(poem, max_steps=5, grad_clip=1.0, on_nonfinite="skip")
    for row in rows_of("run", "step"):
        assert row["grad_norms"].keys() == row["update_ratios"].keys() and len(row["grad_norms"]) == 7
        assert sum(g**2 for g in row["grad_norms"].values()) ** 0.5 == pytest.approx(row["grad_norm"], rel=1e-3)
        assert row["clipped"] == (row["grad_norm"] > 1.0)
        assert all(1e-5 < ratio < 1 for ratio in row["update_ratios"].values()) and row["weight_norm"] > 1
