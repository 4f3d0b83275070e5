"""The schedule, and AdamW against its own formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_llm.config import TrainConfig
from light_llm.optim import build_optimizer, warmup_cosine


@given(st.integers(0, 50), st.integers(1, 200), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays(warmup: int, length: int, floor: float) -> None:
    horizon = warmup + length
    rates = [warmup_cosine(s, warmup=warmup, horizon=horizon, floor=floor) for s in range(horizon + 5)]
    assert all(0 < r <= 1 or (floor == 0 and r >= 0) for r in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[horizon:] == [floor] * 5
    assert rates[warmup] == pytest.approx(1.0)


def test_halfway_down_is_half_of_the_way() -> None:
    assert warmup_cosine(55, warmup=10, horizon=100, floor=0.2) == pytest.approx(0.6)


def test_adamw_is_its_formula() -> None:
    """Three updates by hand (Loshchilov and Hutter, 2019, algorithm 2): decay apart, corrected moments."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    config = TrainConfig(lr=0.01, weight_decay=0.1, eps=1e-3)  # large enough to matter here
    optimizer = build_optimizer(layer, config)
    values = {n: p.detach().clone().double() for n, p in layer.named_parameters()}
    m = {n: torch.zeros_like(v) for n, v in values.items()}
    v2 = {n: torch.zeros_like(v) for n, v in values.items()}
    for t in range(1, 4):
        x = torch.randn(5, 4)
        layer(x).square().sum().backward()
        for name, p in layer.named_parameters():
            assert p.grad is not None
            g = p.grad.double()
            m[name] = 0.9 * m[name] + 0.1 * g
            v2[name] = 0.95 * v2[name] + 0.05 * g * g
            decay = 0.1 if p.ndim == 2 else 0.0
            update = (m[name] / (1 - 0.9**t)) / ((v2[name] / (1 - 0.95**t)).sqrt() + config.eps)
            values[name] = values[name] * (1 - 0.01 * decay) - 0.01 * update
        optimizer.step()
        optimizer.zero_grad()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.double(), values[name], rtol=1e-5, atol=1e-6)
        assert math.isfinite(p.sum().item())
