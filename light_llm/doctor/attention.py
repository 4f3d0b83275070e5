"""Attention the quick ways, fused and by blocks, with and without a mask, and as written: against the formula."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generate.cache import visible
from ..layers.attention import attend, blocked_causal_attention, should_use_blocks
from ..model import attend_by_formula
from .operations import Layout, as_it_is, compared
from .subject import Attention, Subject, numbers
from .tolerance import allowed, worst_error
from .values import ATTENTION, FORMULA, Case, Measured

SHAPES = ((9, 2, 7, 32), (1, 2, 1024, 64))  # B, H, T, D
MORE_SHAPES = ((1, 1, 1, 64), (8, 2, 7, 64), (16, 3, 7, 64), (1, 2, 1023, 64), (2, 2, 129, 32))


def packed(B: int, H: int, T: int, D: int) -> list[tuple[Tensor, Layout]]:
    """Queries, keys and values (B, H, T, D): views of one packed product, as the model makes them."""
    product = numbers(B, T, 3, H, D, seed=31)
    return [(product, partial(_part, i=i)) for i in range(3)]


def _part(product: Tensor, i: int) -> Tensor:
    return product.permute(2, 0, 3, 1, 4)[i]


def fused_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The device's kernel on the device; in float64 the formula."""
    if q.dtype == torch.float64:
        return attend_by_formula(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Blocks of queries; in float64 the formula."""
    return attend_by_formula(q, k, v) if q.dtype == torch.float64 else blocked_causal_attention(q, k, v)


def _causal(
    subject: Subject, function: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...]
) -> Iterator[Measured]:
    for B, H, T, D in shapes:
        where = f"batch {B} x {T:,} tokens"
        back = [D, T, T] if T > 1 else []  # a single token's weight is 1 whatever Q and K: their gradients are 0
        yield from compared(function, packed(B, H, T, D), subject.device, sums=[D, T], back=back, where=where)


def fused(subject: Subject, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> Iterator[Measured]:
    """The device's own kernel, value and gradients."""
    yield from _causal(subject, fused_causal, shapes)


def blocks(subject: Subject, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> Iterator[Measured]:
    """Blocks of queries, where they are used at all."""
    x = torch.empty(1, 1, 8, 8, device=subject.device, requires_grad=True)
    if should_use_blocks(x, x):
        yield from _causal(subject, by_blocks, shapes)


def written(subject: Subject) -> Iterator[Measured]:
    """The formula itself on the device, causal and masked."""
    yield from _causal(subject, attend_by_formula, SHAPES + MORE_SHAPES)
    yield from masked(subject, attend_by_formula)


@torch.no_grad()
def masked(subject: Subject, attention: Attention = attend) -> Iterator[Measured]:
    """Queries on a cache: the last few of many tokens, a single one, and rows of different lengths under a mask."""
    B, H, S, D = 3, 2, 40, 32
    for T in (1, 5):
        q, k, v = ((numbers(B, H, n, D, seed=32 + i), as_it_is) for i, n in enumerate((T, S, S)))
        function = partial(_masked, attention=attention, at=None)
        yield from compared(function, [q, k, v], subject.device, sums=[D, S], where=f"{T} of {S} tokens")
    at = torch.tensor([[3, 4], [20, 21], [S - 2, S - 1]])  # (B, T)
    q, k, v = ((numbers(B, H, n, D, seed=35 + i), as_it_is) for i, n in enumerate((2, S, S)))
    function = partial(_masked, attention=attention, at=at)
    yield from compared(function, [q, k, v], subject.device, sums=[D, S], where="rows of different lengths")


def _masked(q: Tensor, k: Tensor, v: Tensor, *, attention: Attention, at: Tensor | None) -> Tensor:
    mask = None if at is None else visible(at.to(q.device))
    return (attend_by_formula if q.dtype == torch.float64 else attention)(q, k, v, mask)


def in_format(subject: Subject, dtype: torch.dtype) -> Iterator[Measured]:
    """The way the model would take, in a lower format: value and gradients."""
    for B, H, T, D in SHAPES:
        inputs = packed(B, H, T, D)
        exact = [layout(x.double()).contiguous().requires_grad_() for x, layout in inputs]
        found = [layout(x.to(subject.device, dtype)).detach().requires_grad_() for x, layout in inputs]
        q, k, v = exact
        y, right = subject.attention(*found), attend_by_formula(q, k, v)
        where = f"batch {B} x {T:,} tokens"
        yield Measured(worst_error(y, right.detach()), allowed([D, T], dtype), where)
        above = numbers(*right.shape, seed=38)
        gradients = torch.autograd.grad(y, found, above.to(subject.device, dtype))
        for name, g, e in zip("QKV", gradients, torch.autograd.grad(right, exact, above.double()), strict=True):
            yield Measured(worst_error(g, e), allowed([D, T, D, T, T], dtype), f"{where}, gradient of {name}")


def low_format(name: str) -> Case:
    """Attention in bfloat16 or float16."""
    measure = partial(in_format, dtype=getattr(torch, name))
    return Case(f"attention, {name}", f"attention in {name}", measure, dtype=name)


CORE = (
    Case("fused attention", "the fused attention kernel", fused, part=ATTENTION),
    Case("block attention", "attention by blocks of queries", blocks, part=ATTENTION),
    Case("masked attention", "attention on a cache and under a mask", masked, part=ATTENTION),
)
MORE = (
    Case("fused attention, more", "the fused attention kernel", partial(fused, shapes=MORE_SHAPES), part=ATTENTION),
    Case(
        "block attention, more", "attention by blocks of queries", partial(blocks, shapes=MORE_SHAPES), part=ATTENTION
    ),
)
WRITTEN = Case("attention as written", "attention by its formula", written, part=FORMULA)
