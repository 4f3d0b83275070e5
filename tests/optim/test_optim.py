"""The schedules, and which parameters go to which optimizer. Their formulas are in formulas/optimisation.py."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_llm.config import TrainConfig
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer, learning_rate, warmup_cosine, warmup_stable_decay
from tests.support.tools import some_tokens, tiny_model


@pytest.mark.parametrize("shape", [warmup_cosine, warmup_stable_decay])
@given(st.integers(0, 50), st.integers(80, 200), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays(
    shape: Callable[..., float], warmup: int, length: int, floor: float
) -> None:
    horizon = warmup + length
    rates = [shape(s, warmup=warmup, horizon=horizon, floor=floor) for s in range(horizon + 5)]
    assert all(0 < r <= 1 or (floor == 0 and r >= 0) for r in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[horizon:] == [floor] * 5
    assert rates[warmup] == pytest.approx(1.0)


def test_the_stable_part_does_not_depend_on_the_horizon() -> None:
    rate = partial(warmup_stable_decay, warmup=10, floor=0.0)
    assert [rate(s, horizon=100) for s in range(60)] == [rate(s, horizon=1000) for s in range(60)]


def test_a_config_names_its_schedule() -> None:
    config = TrainConfig(lr=2.0, warmup_steps=10, max_steps=100, min_lr_ratio=0.0)
    assert learning_rate(55, config) == pytest.approx(1.0)
    assert learning_rate(55, replace(config, schedule="wsd")) == pytest.approx(2.0)
    assert learning_rate(300, replace(config, lr_horizon=1000)) > learning_rate(300, config) == 0.0


def test_with_muon_tables_and_vectors_go_by_adamw() -> None:
    """Every parameter has one owner; what is no matrix moves exactly as it does without Muon."""
    moved = {}
    for name in ("adamw", "muon"):
        model = tiny_model()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer = build_optimizer(model, TrainConfig(optimizer=name))
        NextTokenLoss(model)(some_tokens(), some_tokens()).backward()
        optimizer.step()
        moved[name] = {n: p.detach() - before[n] for n, p in model.named_parameters()}
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
        assert set(optimizer.state) == set(model.parameters())
    for name, change in moved["muon"].items():
        is_matrix = change.ndim == 2 and "wte" not in name and "wpe" not in name
        assert torch.equal(change, moved["adamw"][name]) != is_matrix, name
        assert change.abs().sum() > 0


def test_the_constants_of_the_optimizers() -> None:
    """AdamW takes its settings from the config, decay for matrices and tables alone; Muon has momentum 0.95."""
    config = TrainConfig(lr=0.5, beta1=0.8, beta2=0.7, eps=1e-3, weight_decay=0.3)
    decayed, plain = build_optimizer(tiny_model(), config).param_groups
    for group in (decayed, plain):
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.8, 0.7), 1e-3)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    matrices, *_ = build_optimizer(tiny_model(), replace(config, optimizer="muon")).param_groups
    assert (matrices["momentum"], matrices["lr"], matrices["weight_decay"]) == (0.95, 0.5, 0.3)
    assert (matrices["nesterov"], matrices["ns_steps"], matrices["adjust_lr_fn"]) == (True, 5, "match_rms_adamw")


def test_the_constants_of_the_schedules() -> None:
    cosine = partial(warmup_cosine, warmup=10, horizon=110)
    assert [cosine(s) for s in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])
    stable = partial(warmup_stable_decay, warmup=10, horizon=100)
    assert [stable(s) for s in (0, 9, 59, 60, 80, 99, 100)] == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.55, 0.1225, 0.1])


def test_muon_needs_neither_tables_nor_vectors() -> None:
    bare = torch.nn.Linear(6, 4, bias=False)
    optimizer = build_optimizer(bare, TrainConfig(optimizer="muon"))
    before = bare.weight.detach().clone()
    bare(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(bare.weight, before)
