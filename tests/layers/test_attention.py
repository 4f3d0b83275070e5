"""Attention by blocks against the formula: values, gradients, formats, shapes that no block divides."""

import pytest
import torch

from light_llm.layers.attention import (
    MAX_KEPT_BYTES,
    QUERY_BLOCK,
    attend,
    attend_by_formula,
    attention_weights,
    blocked_causal_attention,
    should_use_blocks,
)
from light_llm.objective import NextTokenLoss
from light_llm.runtime import autocast
from tests.support.tools import gradients, some_tokens, tiny_model


def some_qkv(T: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key and value of 2 x 3 heads of 8, as strided views of one product: (B, H, T, D)."""
    torch.manual_seed(seed)
    qkv = torch.randn(2, T, 3, 3, 8).mul(2).to(dtype).permute(2, 0, 3, 1, 4)
    return [part.detach().requires_grad_() for part in qkv]


def value_and_gradients(attention: object, qkv: list[torch.Tensor]) -> list[torch.Tensor]:
    y = attention(*qkv)  # type: ignore[operator]
    torch.manual_seed(9)
    return [y, *torch.autograd.grad(y, qkv, torch.randn(y.shape).to(y.dtype))]


@pytest.mark.parametrize("T", [1, 7, QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1, 1023])
def test_blocks_are_the_formula(T: int) -> None:
    fast = value_and_gradients(blocked_causal_attention, some_qkv(T))
    slow = value_and_gradients(attend_by_formula, [x.detach().double().requires_grad_() for x in some_qkv(T)])
    for quick, exact in zip(fast, slow, strict=True):
        torch.testing.assert_close(quick.double(), exact, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("T", [1, 7, QUERY_BLOCK + 1])
def test_a_scale_is_the_factor_of_the_scores(T: int, scale: float) -> None:
    """By every path, against the products written out; the queries times scale sqrt(D) are the same as well."""

    def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ((q @ k.mT * scale).masked_fill(torch.ones(T, T).triu(1) > 0, -torch.inf).softmax(-1)) @ v

    exact = value_and_gradients(written_out, [x.detach().double().requires_grad_() for x in some_qkv(T)])
    for attention in (blocked_causal_attention, attend, attend_by_formula):
        found = value_and_gradients(lambda *qkv, f=attention: f(*qkv, scale=scale), some_qkv(T))
        for quick, slow in zip(found, exact, strict=True):
            torch.testing.assert_close(quick.double(), slow, rtol=1e-4, atol=5e-5)
    q, k, v = (x.detach() for x in some_qkv(T))
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    for y in (attend(q, k, v, scale=scale), attend(q, k, v, mask, scale=scale), attend(q * scale * 8**0.5, k, v)):
        torch.testing.assert_close(y.double(), exact[0].detach(), rtol=1e-4, atol=5e-5)
    weights = attention_weights(q, k, scale=scale) @ v
    torch.testing.assert_close(weights.double(), exact[0].detach(), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("queries", [1, 3, 10, 64])
def test_the_size_of_a_block_changes_nothing(queries: int) -> None:
    one = value_and_gradients(lambda *qkv: blocked_causal_attention(*qkv, queries), some_qkv(10))
    other = value_and_gradients(blocked_causal_attention, some_qkv(10))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("T", [1, 7, 1023])
def test_in_bfloat16_blocks_are_as_right_as_the_formula(T: int) -> None:
    """Both against float64: within 2% in norm, and within 1.5 times of what the formula in bfloat16 is off."""
    exact = value_and_gradients(attend_by_formula, [x.detach().double().requires_grad_() for x in some_qkv(T)])

    def errors(attention: object) -> list[float]:
        values = value_and_gradients(attention, some_qkv(T, dtype=torch.bfloat16))
        return [((f.double() - e).norm() / (e.norm() + 1e-3)).item() for f, e in zip(values, exact, strict=True)]

    for fast, plain in zip(errors(blocked_causal_attention), errors(attend_by_formula), strict=True):
        assert fast < 0.02 and fast <= 1.5 * plain + 1e-3


def test_training_goes_by_blocks_and_reading_by_the_kernel() -> None:
    q, k, v = some_qkv(5)
    assert should_use_blocks(q, k)
    assert not should_use_blocks(q[:, :, -1:], k), "a new token on a cache"
    with torch.no_grad():
        assert not should_use_blocks(q, k), "nothing to keep for a backward pass"
    longest = int((2 * MAX_KEPT_BYTES / 4) ** 0.5)
    for T, pays in ((longest, True), (longest + 1, False)):
        long = torch.empty(1, 1, T, 1, requires_grad=True)
        assert should_use_blocks(long, long) == pays, "memory of T^2 / 2"
    torch.testing.assert_close(attend(q, k, v), attend(q, k, v, torch.ones(5, 5, dtype=torch.bool).tril()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_learns_the_same_by_both(dtype: str) -> None:
    """Each gradient of the loss, to 1e-4 in float32; in bfloat16 to 3% in norm."""
    results = []
    for attention in (attend, attend_by_formula):
        model = tiny_model(scale=4)
        for block in model.h:
            block.attn.attend = attention  # type: ignore[union-attr]
        with autocast("cpu", dtype):
            NextTokenLoss(model)(some_tokens(2, 30), some_tokens(2, 30, seed=3)).backward()
        results.append(gradients(model))
    fast, exact = results
    if dtype == "float32":
        torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-5)
    assert all((fast[name] - g).norm() <= 0.03 * g.norm() + 1e-3 for name, g in exact.items())


def test_blocks_refuse_a_second_derivative() -> None:
    """It would be silently wrong; curvature goes through the formula."""
    q, k, v = some_qkv(4)
    (gradient,) = torch.autograd.grad(blocked_causal_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad|once_differentiable"):
        gradient.sum().backward()
