"""Causal attention with the device's fused kernel, or, to train on a CPU, by blocks of queries with its own gradient.

The CPU's fused kernel makes its products at a quarter of the machine's rate; batched products of (queries, D) with
(keys, D) run at nearly all of it. So a block of queries takes its softmax over the keys it can see, and the
probabilities are kept for the backward pass (Vaswani et al., 2017, equation 1, differentiated):

    dV = P^T dY      dS = P (dY V^T - rowsum(dY Y))      dQ = dS K / sqrt(D)      dK = dS^T Q / sqrt(D)
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .formats import as_given

QUERIES = 128  # of a block: half of the square on its diagonal is computed in vain, so fewer waste less
KEPT = (
    160 << 20
)  # bytes of probabilities, T^2 / 2 a head, that a layer may keep; beyond it the kernel, which keeps none


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V without holding the (T, S) weights where that pays: -> (B, H, T, D).

    mask is True where a query may look, broadcastable to (B, H, T, S); None means causal: token T - 1 sees all S,
    each one before it sees one fewer.
    """
    if mask is None and not dropout and blocks_pay(q, k):
        return causal_by_blocks(q, k, v)
    T, S = q.size(-2), k.size(-2)
    if mask is None and 1 < T < S:  # the kernel's own causal mask is aligned to the first token, ours to the last
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    if not (q.is_cpu or q.is_cuda):  # MPS's kernel was wrong in several ways, and is not what trains there anyway
        return written_out(q, k, v, mask, dropout)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None and T == S)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """The formula, (T, S) weights and all."""
    T, S = q.size(-2), k.size(-2)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = (q / math.sqrt(q.size(-1))) @ k.transpose(-2, -1)
    return F.dropout(scores.masked_fill(~mask, -math.inf).softmax(dim=-1), dropout) @ v


def blocks_pay(q: Tensor, k: Tensor) -> bool:
    """Whether the blocks were measured to be the faster way (docs/log.md): training on a CPU, with memory for them."""
    B, H, T, _ = q.shape
    trains = torch.is_grad_enabled() and q.requires_grad and not torch.compiler.is_compiling()
    fits = B * H * T * T // 2 * q.element_size() <= KEPT
    return trains and q.device.type == "cpu" and k.size(-2) == T and fits


def causal_by_blocks(q: Tensor, k: Tensor, v: Tensor, queries: int = QUERIES) -> Tensor:
    """Causal attention over (B, H, T, D), `queries` rows of the weights at a time."""
    return cast(Tensor, _CausalBlocks.apply(q, k, v, queries))


class _CausalBlocks(torch.autograd.Function):
    """P of each block is kept: (B H, queries, keys seen) in the format of the inputs."""

    @staticmethod
    @as_given
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: int) -> Tensor:
        B, H, T, D = q.shape
        q, k, v = (q / math.sqrt(D)).reshape(B * H, T, D), k.reshape(B * H, T, D), v.reshape(B * H, T, D)
        y, weights = torch.empty_like(q), []
        future = torch.full((min(queries, T),) * 2, -math.inf, dtype=q.dtype, device=q.device).triu(1)
        for rows in _blocks(T, queries):
            n, seen = rows.stop - rows.start, rows.stop
            scores = torch.bmm(q[:, rows], k[:, :seen].transpose(1, 2))  # (B H, n, seen)
            scores[:, :, rows].add_(future[:n, :n])
            weights.append(scores.softmax(dim=-1))
            y[:, rows] = torch.bmm(weights[-1], v[:, :seen])
        ctx.save_for_backward(q, k, v, y, *weights)
        ctx.queries = queries
        return y.view(B, H, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, *weights = ctx.saved_tensors
        B, H, T, D = d_y.shape
        d_y = d_y.reshape(B * H, T, D)
        shared = (d_y.float() * y.float()).sum(dim=-1, keepdim=True).to(q.dtype)  # sum over keys of P dP
        d_q = torch.empty_like(q)
        d_k, d_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for rows, P in zip(_blocks(T, ctx.queries), weights, strict=True):
            seen = rows.stop
            d_v[:, :seen] += torch.bmm(P.transpose(1, 2), d_y[:, rows])
            d_scores = torch.bmm(d_y[:, rows], v[:, :seen].transpose(1, 2)).sub_(shared[:, rows]).mul_(P)
            d_q[:, rows] = torch.bmm(d_scores, k[:, :seen])
            d_k[:, :seen] += torch.bmm(d_scores.transpose(1, 2), q[:, rows])
        d_q /= math.sqrt(D)
        return (*(d.to(q.dtype).view(B, H, T, D) for d in (d_q, d_k, d_v)), None)


def _blocks(T: int, size: int) -> Iterator[slice]:
    yield from (slice(start, min(start + size, T)) for start in range(0, T, size))
