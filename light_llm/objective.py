"""The loss: -log P(next token), summed with weights, by a pass that never holds the (B, T, V) logits.

The head is most of a small model, and its logits are most of the memory: 4 x 1,024 x 50,257 floats are 0.8 GB, and
as much again for their gradient. The chunked form computes a few hundred rows of them at a time and, because the
gradient of a cross-entropy is known in closed form, takes the gradient in the same pass. `plain_nats` is its twin.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .model import LightLLM

IGNORED = -100  # a target that counts for nothing


class NextTokenLoss(nn.Module):
    """What the loop calls, and what is compiled or wrapped: the model and its objective as one module.

    Args:
        model: anything with `features` and `head_weight`.
        chunk: rows of logits that exist at once; 0 takes the plain way through `model.forward`.
    """

    def __init__(self, model: LightLLM, chunk: int = 1024) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk

    def forward(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum over all positions of weight * -log P(target), in nats: a float32 scalar.

        A sum, so that micro-batches add up to exactly one big batch: divide by `total_weight` of the whole batch.

        Args:
            tokens, targets: (B, T); a target of -100 counts for nothing.
            weights: (B, T), by default 1 each.
        """
        weights = token_weights(targets, weights)
        if not self.chunk:
            return (plain_nats(self.model, tokens, targets) * weights).sum()
        hidden = self.model.features(tokens)  # (B, T, C)
        return chunked_nats_sum(hidden, self.model.head_weight, targets, weights, self.chunk)


def token_weights(targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weight of each target, (B, T) float32: what was given, 0 where the target is ignored."""
    counted = (targets != IGNORED).float()
    return counted if weights is None else counted * weights


def total_weight(targets: Tensor, weights: Tensor | None = None) -> float:
    """What to divide a `NextTokenLoss` by to get the mean nats per token."""
    return float(token_weights(targets, weights).sum())


def plain_nats(model: LightLLM, tokens: Tensor, targets: Tensor) -> Tensor:
    """-log P(target) of each position through the full logits, as in any textbook: (B, T) -> (B, T), nats."""
    logits = model(tokens).float()  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none").view(
        targets.shape
    )


@torch.no_grad()
def token_nats(model: LightLLM, tokens: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """-log P(target) of each position, without gradients and without the full logits: (B, T) -> (B, T), nats."""
    hidden = model.features(tokens).flatten(0, 1)  # (B T, C)
    head, hidden = _product_operands(model.head_weight, hidden)
    rows = [
        _nats(hidden[start : start + chunk] @ head.T, targets.flatten()[start : start + chunk])[0]
        for start in range(0, hidden.size(0), chunk)
    ]
    return torch.cat(rows).view(targets.shape)


def chunked_nats_sum(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    """sum_i weights_i * -log softmax(hidden_i head^T)[targets_i] over (B, T) positions, `chunk` rows at a time."""
    return cast(Tensor, _ChunkedNats.apply(hidden.flatten(0, 1), head, targets.flatten(), weights.flatten(), chunk))


class _ChunkedNats(torch.autograd.Function):
    """With logits z = h W^T and nats n = log sum exp z - z[y]:  dn/dz = softmax(z) - onehot(y)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int
    ) -> Tensor:  # (N, C), (V, C), (N,), (N,) -> ()
        wants_gradient = any(ctx.needs_input_grad[:2])
        W, h = _product_operands(head, hidden)
        d_hidden = torch.empty_like(h) if wants_gradient else None
        d_head = torch.zeros_like(head, dtype=torch.float32) if wants_gradient else None
        buffer = h.new_empty(min(chunk, h.size(0)), W.size(0))  # one piece of memory for all chunks:
        wide = torch.empty_like(buffer, dtype=torch.float32)  # fresh pages cost more than the arithmetic
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, h.size(0), chunk):
            rows = slice(start, start + chunk)
            n = h[rows].size(0)
            logits = torch.mm(h[rows], W.T, out=buffer[:n])  # (n, V), in the products' format
            z = wide[:n].copy_(logits)
            y = targets[rows].clamp_min(0)[:, None]  # (n, 1)
            top = z.amax(dim=-1, keepdim=True)
            nats = (top - z.gather(-1, y)).squeeze(-1)
            sums = z.sub_(top).exp_().sum(dim=-1)
            total += ((nats + sums.log()) * weights[rows]).sum()
            if d_hidden is None or d_head is None:
                continue
            z.mul_((weights[rows] / sums)[:, None])  # weight * softmax
            z.scatter_add_(-1, y, -weights[rows][:, None])
            d_logits = logits.copy_(z)
            torch.mm(d_logits, W, out=d_hidden[rows])
            d_head += d_logits.T @ h[rows]
        ctx.save_for_backward(d_hidden, d_head)
        ctx.dtypes = hidden.dtype, head.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        for_hidden, for_head = ctx.dtypes
        return (d_hidden.to(for_hidden) * d_total, (d_head * d_total).to(for_head), None, None, None)


def _nats(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log P(target) and log sum exp of each row, in float32: (N, V), (N,) -> (N,), (N,)."""
    log_z = logits.float().logsumexp(dim=-1)
    chosen = logits.gather(-1, targets.clamp_min(0)[:, None]).squeeze(-1).float()
    return (log_z - chosen).masked_fill(targets == IGNORED, 0.0), log_z


def _d_logits(logits: Tensor, log_z: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """weight * (softmax(logits) - onehot(target)): (N, V)."""
    d = (logits.float() - log_z[:, None]).exp_()
    d.scatter_add_(-1, targets.clamp_min(0)[:, None], torch.full_like(log_z, -1.0)[:, None])
    return d.mul_(weights[:, None]).to(logits.dtype)


def _product_operands(head: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors in the format of the running autocast, cast once and not once a chunk."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype
    return head.detach().to(dtype), hidden.detach().to(dtype)
