"""Causal attention: the device's fused kernel, or, to train on a CPU, blocks of queries with a gradient of their own.

The CPU's fused kernel makes its products at a quarter of the machine's rate; batched products of (queries, D) with
(keys, D) run at nearly all of it. So a block of queries takes its softmax over the keys it can see, and the
probabilities are kept for the backward pass (Vaswani et al., 2017, equation 1, differentiated):

    dV = P^T dY      dS = P (dY V^T - rowsum(dY Y))      dQ = dS K / sqrt(D)      dK = dS^T Q / sqrt(D)

Every function takes the factor of the scores as `scale`, 0 for 1 / sqrt(D).
A mask is boolean, True where a query may look, or holds numbers that are added to the scores, -inf where it may not.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tiling import can_use_custom_gradients, is_transformed, row_ranges, without_autocast

# Queries of a block. Half of the square on its diagonal is computed in vain, so large blocks waste more; 64 to 256 are
# within 15% of each other (docs/log.md).
QUERY_BLOCK = 128
# Bytes of probabilities, T^2 / 2 per head, that a layer may keep. Beyond it the kernel is used, which keeps none.
MAX_KEPT_BYTES = 160 << 20


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, scale: float = 0.0
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V without holding the (T, S) weights where that pays: -> (B, H, T, D).

    mask is broadcastable to (B, H, T, S); None means causal: token T - 1 sees all S, each one before it one fewer.
    """
    if mask is None and not dropout and should_use_blocks(q, k):
        return blocked_causal_attention(q, k, v, scale=scale)
    if is_transformed():
        return attend_by_formula(q, k, v, mask, dropout, scale)
    T, S = q.size(-2), k.size(-2)
    # The kernel's own causal mask is aligned to the first token, ours to the last: they differ where T < S.
    if mask is None and 1 < T < S:
        mask = causal_mask(T, S, q.device)
    # PyTorch's issues call MPS's attention kernels wrong for several versions; training never used them (docs/log.md).
    if not (q.is_cpu or q.is_cuda):
        return attend_by_formula(q, k, v, mask, dropout, scale)
    is_causal = mask is None and T == S
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=is_causal, scale=scale or None)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, scale: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)): (B, H, T, D), (B, H, S, D) -> (B, H, T, S). Vaswani et al. (2017), equation 1.

    mask is broadcastable to (B, H, T, S): True where a query may look, or numbers that are added to the scores. None
    means causal: token T - 1 sees all S, each one before it sees one fewer.
    """
    mask = causal_mask(q.size(-2), k.size(-2), q.device) if mask is None else mask
    scores = q @ k.transpose(-2, -1) / score_divisor(q.size(-1), scale)
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)


def score_divisor(D: int, scale: float) -> float:
    """Return what the scores of heads of D numbers are divided by: sqrt(D), or 1 / scale."""
    return 1 / scale if scale else math.sqrt(D)


def attend_by_formula(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, scale: float = 0.0
) -> Tensor:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V, as written: -> (B, H, T, D).

    The reference that the fast `attend` is tested against, and twice differentiable.
    """
    return F.dropout(attention_weights(q, k, mask, scale), dropout) @ v


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """True where the last T of S tokens may look: at themselves and at all before them, (T, S)."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def additive_mask(mask: Tensor | None, bias: Tensor) -> Tensor:
    """Add a score bias to a boolean mask, None for causal: bias ([B,] H, T, S) -> additive mask (B or 1, H, T, S)."""
    mask = causal_mask(bias.size(-2), bias.size(-1), bias.device) if mask is None else mask
    # Four dimensions, because torch's fused kernels refuse three.
    return (bias if bias.ndim == 4 else bias[None]).masked_fill(~mask, -math.inf)


def repeat_kv(x: Tensor, H: int) -> Tensor:
    """Repeat each head of keys or values for every query head it serves: (B, H_kv, S, D) -> (B, H, S, D).

    Query head h has the keys and values of head h H_kv / H (Ainslie et al., 2023).
    """
    return x if x.size(1) == H else x.repeat_interleave(H // x.size(1), dim=1)


def key_positions(position_ids: Tensor, S: int, *, cached: bool) -> Tensor:
    """Positions of S keys: 0 ... S - 1, the slots of a cache, or without one those of the queries, ([B,] S)."""
    return torch.arange(S, device=position_ids.device) if cached else position_ids


def sliding_window_mask(
    mask: Tensor | None, position_ids: Tensor, S: int, window: int, *, cached: bool
) -> Tensor | None:
    """Restrict a mask to the last `window` tokens, the query's own included: query t sees keys t - window + 1 ... t.

    Args:
        mask: True where a query may look anyway, broadcastable to (B, H, T, S); None means causal.
        position_ids: positions of the T queries, (T,) or (B, T).
        S: number of keys.
        window: tokens that the layer sees; 0 means all.
        cached: whether the keys come from a cache (`key_positions`).

    Returns:
        The given mask, if the window covers all S keys.
    """
    if not window or S <= window:
        return mask
    keys = key_positions(position_ids, S, cached=cached)
    distance = position_ids[..., :, None] - keys[..., None, :]  # ([B,] T, S) tokens from the query back to the key
    near = distance < window if mask is not None else (distance < window) & (distance >= 0)
    near = near[:, None] if near.ndim == 3 else near
    return near if mask is None else near & mask


def should_use_blocks(q: Tensor, k: Tensor) -> bool:
    """Return whether blocks were measured to be faster (docs/log.md): in training on a CPU, with memory for them."""
    B, H, T, _ = q.shape
    trains = torch.is_grad_enabled() and q.requires_grad and can_use_custom_gradients()
    fits = B * H * T * T // 2 * q.element_size() <= MAX_KEPT_BYTES
    return trains and q.device.type == "cpu" and k.size(-2) == T and fits


def blocked_causal_attention(q: Tensor, k: Tensor, v: Tensor, queries: int = QUERY_BLOCK, scale: float = 0.0) -> Tensor:
    """Compute causal attention over (B, H, T, D), `queries` rows of the weights at a time."""
    return cast(Tensor, _BlockedCausalAttention.apply(q, k, v, queries, scale))


class _BlockedCausalAttention(torch.autograd.Function):
    """Saves P of each block: (B H, queries, keys seen) in the format of the inputs."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: int, scale: float) -> Tensor:
        B, H, T, D = q.shape
        divisor = score_divisor(D, scale)
        q, k, v = (q / divisor).reshape(B * H, T, D), k.reshape(B * H, T, D), v.reshape(B * H, T, D)
        y, weights = torch.empty_like(q), []
        future = torch.full((min(queries, T),) * 2, -math.inf, dtype=q.dtype, device=q.device).triu(1)
        for rows in row_ranges(T, queries):
            n, seen = rows.stop - rows.start, rows.stop
            scores = torch.bmm(q[:, rows], k[:, :seen].transpose(1, 2))  # (B H, n, seen)
            scores[:, :, rows].add_(future[:n, :n])
            weights.append(scores.softmax(dim=-1))
            y[:, rows] = torch.bmm(weights[-1], v[:, :seen])
        ctx.save_for_backward(q, k, v, y, *weights)
        ctx.queries, ctx.divisor = queries, divisor
        return y.view(B, H, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, *weights = ctx.saved_tensors
        B, H, T, D = d_y.shape
        d_y = d_y.reshape(B * H, T, D)
        row_sums = (d_y.float() * y.float()).sum(dim=-1, keepdim=True).to(q.dtype)  # sum over keys of P dP
        d_q = torch.empty_like(q)
        # Summed over the blocks, and there may be many: bfloat16 would lose the small ones.
        d_k, d_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for rows, P in zip(row_ranges(T, ctx.queries), weights, strict=True):
            seen = rows.stop
            d_v[:, :seen] += torch.bmm(P.transpose(1, 2), d_y[:, rows])
            d_scores = torch.bmm(d_y[:, rows], v[:, :seen].transpose(1, 2)).sub_(row_sums[:, rows]).mul_(P)
            d_q[:, rows] = torch.bmm(d_scores, k[:, :seen])
            d_k[:, :seen] += torch.bmm(d_scores.transpose(1, 2), q[:, rows])
        d_q /= ctx.divisor
        return (*(d.to(q.dtype).view(B, H, T, D) for d in (d_q, d_k, d_v)), None, None)
