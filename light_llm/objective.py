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
    head, hidden = _product_operands(model.head_weight, model.features(tokens).flatten(0, 1))  # (V, C), (B T, C)
    y = targets.flatten()
    softmax = _ChunkedSoftmax(head, min(chunk, len(hidden)))
    parts = zip(hidden.split(chunk), y.split(chunk), strict=True)
    nats = torch.cat([softmax.nats(h_rows, y_rows)[0] for h_rows, y_rows in parts])
    return nats.masked_fill(y == IGNORED, 0.0).view(targets.shape)


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
        softmax = _ChunkedSoftmax(W, min(chunk, len(h)))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(h), chunk):
            rows = slice(start, start + chunk)
            nats, exps, sums = softmax.nats(h[rows], targets[rows])
            total += (nats * weights[rows]).sum()  # not `@`: autocast would make that product in bfloat16
            if d_hidden is None or d_head is None:
                continue
            d_logits = softmax.d_logits(exps, sums, targets[rows], weights[rows])
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


class _ChunkedSoftmax:
    """Logits of some rows at a time, always in the same memory: fresh pages cost more than the arithmetic."""

    def __init__(self, head: Tensor, rows: int) -> None:
        self.head = head  # (V, C)
        self.logits = head.new_empty(rows, head.size(0))  # in the format of the products
        self.wide = torch.empty_like(self.logits, dtype=torch.float32)

    def nats(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, C), (n,) -> -log P(target) (n,), exp(logits - max) (n, V) and its row sums (n,), all float32."""
        n = len(hidden)
        z = self.wide[:n].copy_(torch.mm(hidden, self.head.T, out=self.logits[:n]))
        top = z.amax(dim=-1, keepdim=True)
        chosen = (z.gather(-1, targets.clamp_min(0)[:, None]) - top).squeeze(-1)
        sums = z.sub_(top).exp_().sum(dim=-1)
        return sums.log() - chosen, z, sums

    def d_logits(self, exps: Tensor, sums: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """weight * (softmax - onehot(target)), (n, V), in the format of the products. Overwrites what `nats` gave."""
        exps.mul_((weights / sums)[:, None])
        exps.scatter_add_(-1, targets.clamp_min(0)[:, None], -weights[:, None])
        return self.logits[: len(exps)].copy_(exps)


def _product_operands(head: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors in the format of the running autocast, cast once and not once a chunk."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype
    return head.detach().to(dtype), hidden.detach().to(dtype)
