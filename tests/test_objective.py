"""The fast loss against the plain one: sizes, formats, ignored and weighted targets."""

import math
from typing import Any

import pytest
import torch

from light_llm.config import ModelConfig
from light_llm.data.loader import IGNORE_INDEX
from light_llm.errors import ConfigError
from light_llm.layers import cross_entropy
from light_llm.layers.cross_entropy import linear_cross_entropy_sum
from light_llm.objective import IGNORED, NextTokenLoss, token_cross_entropy, token_cross_entropy_reference, total_weight
from light_llm.runtime import autocast
from tests.support.live_bytes import allocations
from tests.support.tools import gradients, some_tokens, tiny_model


def nats_in_blocks(
    hidden: torch.Tensor, head: torch.Tensor, y: torch.Tensor, w: torch.Tensor, rows: int, **options: float
) -> torch.Tensor:
    """`linear_cross_entropy_sum` of (B, T) positions."""
    return linear_cross_entropy_sum(hidden.flatten(0, 1), head, y.flatten(), w.flatten(), rows=rows, **options)


def by_definition(hidden: torch.Tensor, head: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """sum_i w_i (log sum_v exp(h_i . W_v) - h_i . W_y), in float64."""
    z = hidden.double() @ head.double().T
    chosen = z.gather(-1, y.clamp_min(0)[..., None]).squeeze(-1)
    return ((z.logsumexp(-1) - chosen) * w * (y != -100)).sum()


SIZES = [(T, V, rows) for T in (1, 7, 65) for V in (2, 257, 1000) for rows in (1, 16, 1024)]
ALL_IDS = pytest.param(1023, 50257, 2000, marks=pytest.mark.slow)  # in bfloat16 it is among the quick ones


@pytest.mark.parametrize(("T", "V", "chunk"), [*SIZES, (7, 50257, 5), (1023, 257, 100), ALL_IDS])
def test_value_and_gradients_are_the_definition(T: int, V: int, chunk: int) -> None:
    torch.manual_seed(0)
    B = 2 if T < 1000 else 1
    hidden, head = torch.randn(B, T, 12, requires_grad=True), torch.randn(V, 12, requires_grad=True)
    y, w = torch.randint(V, (B, T)), torch.rand(B, T)
    y[0, 0] = -100
    w[0, 0] = 0.0
    fast, slow = nats_in_blocks(hidden, head, y, w, chunk), by_definition(hidden, head, y, w)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-6, atol=1e-5)
    fast_gradients, slow_gradients = (torch.autograd.grad(loss, (hidden, head)) for loss in (fast, slow))
    torch.testing.assert_close(fast_gradients, slow_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("T", "V"), [(1, 257), (1, 50257), (7, 257), (7, 50257), (1023, 257), (1023, 50257)])
def test_in_bfloat16_the_blocks_are_as_right_as_the_formula(T: int, V: int) -> None:
    """With weights and ignored targets, against float64: the sum to 0.2%, gradients to 1.5% in norm.

    And within 1.5 times of what the formula is off when its logits are rounded to bfloat16.
    """
    torch.manual_seed(1)
    hidden, head = torch.randn(1, T, 16), torch.randn(V, 16)
    y, w = torch.randint(V, (1, T)), torch.rand(1, T)
    y[0, T // 2], w[0, T // 2] = (-100, 0.0) if T > 1 else (y[0, 0], 1.0)

    def found(of: str, dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in (hidden, head)]
        if of == "blocks":
            loss = nats_in_blocks(*inputs, y, w, 300)
        else:
            z = (inputs[0] @ inputs[1].T).to(torch.float64 if dtype == torch.float64 else torch.float32)
            loss = ((z.logsumexp(-1) - z.gather(-1, y.clamp_min(0)[..., None]).squeeze(-1)) * w).sum()
        return [loss.detach(), *torch.autograd.grad(loss, inputs)]

    exact = found("formula", torch.float64)
    off = {
        of: [float((f.double() - e).norm() / e.norm()) for f, e in zip(found(of, torch.bfloat16), exact, strict=True)]
        for of in ("blocks", "formula")
    }
    assert off["blocks"][0] < 2e-3
    assert max(off["blocks"][1:]) < 0.015
    assert all(fast <= 1.5 * plain + 5e-4 for fast, plain in zip(off["blocks"], off["formula"], strict=True)), off


@pytest.mark.parametrize("cap", [0.0, 300.0])
def test_padding_of_the_vocabulary_changes_nothing(monkeypatch: pytest.MonkeyPatch, cap: float) -> None:
    """What a GPU's kernels get, here on the CPU: rows of zeros after the last id, where all logits are far below 0."""
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 9, 12), torch.randn(257, 12)
    hidden[..., 0], head[:, 0] = 50.0, -4.0
    y, w = torch.randint(257, (2, 9)), torch.rand(2, 9)
    found = []
    for multiple in (1, 64):
        monkeypatch.setattr(cross_entropy, "row_multiple", lambda device, m=multiple: m)
        inputs = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
        loss = nats_in_blocks(*inputs, y, w, 5, cap=cap, z_loss=0.01)
        found.append([loss, *torch.autograd.grad(loss, inputs)])
    torch.testing.assert_close(found[0], found[1])
    assert found[0][0].isfinite() and found[0][0] > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_penalty_and_the_cap_are_those_of_the_plain_form(dtype: str) -> None:
    """z-loss: its gradient without its value; cap: both, in the loss, in `token_cross_entropy` and in `forward`."""
    x, y = some_tokens(3, 20), some_tokens(3, 20, seed=6)
    found = []
    for chunk in (0, 7):
        model = tiny_model(scale=6, logit_cap=2.0)
        with autocast("cpu", dtype):
            loss = NextTokenLoss(model, chunk, z_loss=0.1)(x, y)
        loss.backward()
        found.append((loss.item(), gradients(model)))
    (plain, slow), (fast, quick) = found
    assert fast == pytest.approx(plain, rel=1e-6 if dtype == "float32" else 1e-3)
    for name, exact in slow.items():
        allowed = 1e-4 if dtype == "float32" else 0.03
        assert (quick[name] - exact).norm() <= allowed * exact.norm() + 1e-4, name
    model = tiny_model(scale=6, logit_cap=2.0)
    assert model(x).abs().max() < 2.0
    torch.testing.assert_close(token_cross_entropy(model, x, y, chunk=5), token_cross_entropy_reference(model, x, y))
    bare = NextTokenLoss(model)(x, y).item()
    assert NextTokenLoss(model, z_loss=0.1)(x, y).item() == bare, "the value is the nats alone"


def test_no_probability_is_above_one() -> None:
    """In bfloat16 the target's logit is rounded like the others: a sure model neither loses nor gains by it."""
    hidden, head = torch.tensor([[[7.03, 5.01]]]), torch.tensor([[3.02, 1.01], [-9.0, 0.3]])
    with autocast("cpu", "bfloat16"):
        assert 0 <= nats_in_blocks(hidden, head, torch.tensor([[0]]), torch.ones(1, 1), 4).item() < 1e-6


def test_the_sum_is_not_rounded_in_bfloat16() -> None:
    """A sum of many nats has to be made in float32: in bfloat16 it would keep three digits."""
    torch.manual_seed(0)
    hidden, head = torch.randn(1, 512, 8), torch.randn(50, 8)
    y, w = torch.randint(50, (1, 512)), torch.ones(1, 512)
    with autocast("cpu", "bfloat16"):
        got = nats_in_blocks(hidden, head, y, w, 128)
    exact = by_definition(hidden.bfloat16(), head.bfloat16(), y, w)
    assert got.item() == pytest.approx(exact.item(), rel=2e-4)


def test_large_logits_overflow_nothing() -> None:
    hidden = torch.full((1, 3, 4), 100.0, requires_grad=True)
    head = torch.eye(4).mul(100.0)[:3].requires_grad_()
    y = torch.tensor([[0, 1, 2]])
    loss = nats_in_blocks(hidden, head, y, torch.ones(1, 3), 2)
    loss.backward()
    assert loss.item() == pytest.approx(3 * math.log(3), rel=1e-4)
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_nats_of_each_token() -> None:
    model, x, y = tiny_model(scale=5), some_tokens(3, 9), some_tokens(3, 9, seed=8)
    y[1, 4] = -100
    with torch.no_grad():
        plain = token_cross_entropy_reference(model, x, y)
    torch.testing.assert_close(token_cross_entropy(model, x, y, chunk=5), plain)
    assert plain[1, 4] == 0 and total_weight(y) == 26


def test_a_frozen_head_gets_no_gradient() -> None:
    """What fine-tuning by adapters needs: the body learns, the table does not move."""
    model, x = tiny_model(), some_tokens()
    model.wte.weight.requires_grad_(False)
    NextTokenLoss(model)(x, x).backward()
    assert model.wte.weight.grad is None
    assert model.ln_f.weight.grad is not None and model.ln_f.weight.grad.abs().sum() > 0


def test_the_fast_form_refuses_a_second_derivative_and_a_second_backward_pass() -> None:
    """Both would be silently wrong: curvature goes through the plain form; gradients are scaled in place."""
    hidden, head = torch.randn(1, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    y, w = torch.tensor([[0, 1, 2]]), torch.ones(1, 3)
    (gradient,) = torch.autograd.grad(nats_in_blocks(hidden, head, y, w, 2), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad|once_differentiable"):
        gradient.sum().backward()
    loss = nats_in_blocks(hidden, head, y, w, 2)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_blocks_ask_for_the_room_of_a_tile_once() -> None:
    """Asked for at each sum, it left holes that the next could not use: every second run took 0.4 GB more."""
    rows, V = 512, 3 * cross_entropy.TILE_COLUMNS
    hidden, head = torch.randn(2 * rows, 16, requires_grad=True), torch.randn(V, 16, requires_grad=True)
    targets, weights = torch.zeros(2 * rows, dtype=torch.long), torch.ones(2 * rows)

    def loss() -> None:
        with autocast("cpu", "bfloat16"):
            linear_cross_entropy_sum(hidden, head, targets, weights, rows=rows)

    tile = 4 * rows * cross_entropy.TILE_COLUMNS
    assert sum(n >= tile for n in allocations(loss)) == 1


def test_a_target_without_a_loss_is_the_same_in_the_data_and_in_the_loss() -> None:
    """`data` may not import `objective`, so the number is written twice."""
    assert IGNORE_INDEX == IGNORED


def test_targets_that_have_no_loss_are_refused() -> None:
    """Each of these gave a number: targets were clamped to the vocabulary, and matched by their order alone."""
    objective, tokens = NextTokenLoss(tiny_model()), some_tokens()
    V = len(objective.model.head_weight)
    for targets, message in (
        (torch.full_like(tokens, V), f"target {V} is not a token id of the model, which has 0 ... {V - 1}"),
        (torch.full_like(tokens, -1), "target -1 .* not counted is -100"),
        (tokens[:, :-1], "differ; the loss takes one target for each token"),
        (tokens.float(), r"use targets.long\(\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            objective(tokens, targets)
    no_model: Any = ModelConfig.nano()
    with pytest.raises(ConfigError, match="NextTokenLoss takes a LightLLM, not a ModelConfig"):
        NextTokenLoss(no_model)
