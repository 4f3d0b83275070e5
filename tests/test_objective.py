"""The fast loss against the plain one: sizes, formats, ignored and weighted targets."""

import math

import pytest
import torch

from light_llm.objective import NextTokenLoss, chunked_nats_sum, plain_nats, token_nats, total_weight
from light_llm.runtime import autocast

from .tools import gradients, some_tokens, tiny_model


def by_definition(hidden: torch.Tensor, head: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """sum_i w_i (log sum_v exp(h_i . W_v) - h_i . W_y), in float64."""
    z = hidden.double() @ head.double().T
    chosen = z.gather(-1, y.clamp_min(0)[..., None]).squeeze(-1)
    return ((z.logsumexp(-1) - chosen) * w * (y != -100)).sum()


@pytest.mark.parametrize("T", [1, 7, 65])
@pytest.mark.parametrize("V", [2, 257, 1000])
@pytest.mark.parametrize("chunk", [1, 16, 1024])
def test_value_and_gradients_are_the_definition(T: int, V: int, chunk: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(2, T, 12, requires_grad=True), torch.randn(V, 12, requires_grad=True)
    y, w = torch.randint(V, (2, T)), torch.rand(2, T)
    y[0, 0] = -100
    w[0, 0] = 0.0
    fast = chunked_nats_sum(hidden, head, y, w, chunk)
    fast_gradients = torch.autograd.grad(fast, (hidden, head))
    slow = by_definition(hidden, head, y, w)
    slow_gradients = torch.autograd.grad(slow, (hidden, head))
    torch.testing.assert_close(fast.double(), slow, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(fast_gradients, slow_gradients, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_as_right_as_the_plain_form() -> None:
    """Against float32: the sum to 0.1%, the gradients to 1% in norm, and no worse than the plain form in bfloat16."""
    x, y = some_tokens(4, 32), some_tokens(4, 32, seed=6)
    exact = tiny_model(scale=4)
    NextTokenLoss(exact)(x, y).backward()
    truth = gradients(exact)
    errors = {}
    for chunk in (0, 10):
        model = tiny_model(scale=4)
        with autocast("cpu", "bfloat16"):
            loss = NextTokenLoss(model, chunk)(x, y)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(NextTokenLoss(exact)(x, y).item(), rel=1e-3)
        loss.backward()
        far = sum((gradients(model)[n] - t).norm() ** 2 for n, t in truth.items())
        errors[chunk] = float(torch.sqrt(torch.as_tensor(far)) / math.sqrt(sum(t.norm() ** 2 for t in truth.values())))
    assert errors[10] < 0.015 and errors[10] < 1.3 * errors[0]


def test_the_sum_is_not_rounded_in_bfloat16() -> None:
    """A sum of many nats has to be made in float32: in bfloat16 it would keep three digits."""
    torch.manual_seed(0)
    hidden, head = torch.randn(1, 512, 8), torch.randn(50, 8)
    y, w = torch.randint(50, (1, 512)), torch.ones(1, 512)
    with autocast("cpu", "bfloat16"):
        got = chunked_nats_sum(hidden, head, y, w, 128)
    exact = by_definition(hidden.bfloat16(), head.bfloat16(), y, w)
    assert got.item() == pytest.approx(exact.item(), rel=2e-4)


def test_large_logits_overflow_nothing() -> None:
    hidden = torch.full((1, 3, 4), 100.0, requires_grad=True)
    head = torch.eye(4).mul(100.0)[:3].requires_grad_()
    y = torch.tensor([[0, 1, 2]])
    loss = chunked_nats_sum(hidden, head, y, torch.ones(1, 3), 2)
    loss.backward()
    assert loss.item() == pytest.approx(3 * math.log(3), rel=1e-4)
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_nats_of_each_token() -> None:
    model, x, y = tiny_model(scale=5), some_tokens(3, 9), some_tokens(3, 9, seed=8)
    y[1, 4] = -100
    with torch.no_grad():
        plain = plain_nats(model, x, y)
    torch.testing.assert_close(token_nats(model, x, y, chunk=5), plain)
    assert plain[1, 4] == 0 and total_weight(y) == 26


def test_a_frozen_head_gets_no_gradient() -> None:
    """What fine-tuning by adapters needs: the body learns, the table does not move."""
    model, x = tiny_model(), some_tokens()
    model.wte.weight.requires_grad_(False)
    NextTokenLoss(model)(x, x).backward()
    assert model.wte.weight.grad is None
    assert model.ln_f.weight.grad is not None and model.ln_f.weight.grad.abs().sum() > 0


def test_the_fast_form_refuses_a_second_derivative() -> None:
    """It would be silently wrong; curvature goes through the plain form."""
    hidden, head = torch.randn(1, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = chunked_nats_sum(hidden, head, torch.tensor([[0, 1, 2]]), torch.ones(1, 3), 2)
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad|once_differentiable"):
        gradient.sum().backward()
