"""Cross-entropy of a linear head whose rows are split over ranks: each rank computes the logits of its own ids.

With l_r the log-sum-exp over the ids of rank r, that of the whole vocabulary is

    l = m + log(sum over r of exp(l_r - m))        m = max over r of l_r

so each row of hidden states needs one maximum, one sum, and the logit of its target, which is 0 on all ranks but one.
Each rank has its rows of dW without a message, and dh is the sum of the ranks' parts (Shoeybi et al., 2019, section 3).
The arithmetic on one rank is that of `cross_entropy.py`: (rows, V / N) numbers exist at once.
"""

from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cross_entropy import (
    add_softmax_gradients,
    block_softmax,
    fp32_scratch,
    log_sum_exp,
    target_logits,
    vocab_blocks,
)
from .tiling import autocast_dtype, row_ranges, without_autocast


class Group(Protocol):
    """The ranks that share a vocabulary. All call the same methods in the same order, with tensors of one shape."""

    def max(self, x: Tensor) -> Tensor:
        """Replace x by its elementwise maximum over the ranks, in place, and return it."""

    def sum(self, x: Tensor) -> Tensor:
        """Replace x by its sum over the ranks, in place, and return it."""


@dataclass(frozen=True, eq=False)
class VocabShard:
    """The rows of a (V, C) head that belong to this rank."""

    table: Tensor  # (V_r, C)
    first: int  # the id of its first row
    vocab_size: int  # V
    group: Group

    def __len__(self) -> int:
        """Return V."""
        return self.vocab_size

    @property
    def device(self) -> torch.device:
        """Return the device of this rank's rows."""
        return self.table.device

    def cross_entropy_sum(
        self, hidden: Tensor, targets: Tensor, weights: Tensor, *, rows: int, z_loss: float = 0.0, cap: float = 0.0
    ) -> Tensor:
        """Compute `linear_cross_entropy_sum` over the whole vocabulary: the same value on all ranks, ().

        The gradient of `hidden` is that of the whole vocabulary, and the gradient of `table` that of this rank's rows.
        """
        args = hidden, self.table, targets, weights, autocast_dtype(hidden), rows, z_loss, cap, self
        return cast(Tensor, _VocabParallelCrossEntropy.apply(*args))

    @torch.no_grad()
    def cross_entropy(self, hidden: Tensor, targets: Tensor, *, rows: int, cap: float = 0.0) -> Tensor:
        """Compute `linear_cross_entropy` over the whole vocabulary, without gradients: (N,) float32."""
        dtype = autocast_dtype(hidden)
        return self._per_row(hidden.to(dtype), self.table.detach().to(dtype), targets, rows, cap)

    @without_autocast
    def _per_row(self, states: Tensor, table: Tensor, targets: Tensor, rows: int, cap: float) -> Tensor:
        vocabulary = vocab_blocks(table)
        buffer = states.new_empty(min(rows, len(states)) * len(vocabulary[0].table))
        scratch = fp32_scratch(states, rows, len(vocabulary[0].table))
        parts = []
        for h, y in zip(states.split(rows), targets.split(rows), strict=True):
            softmaxes = [block_softmax(h, block, cap, buffer, scratch) for block in vocabulary]
            own, local = self.own_targets(y)
            of_target = target_logits(h, table, local, cap).masked_fill_(~own, 0.0)
            lse, of_target = self.combine(log_sum_exp(softmaxes), of_target)
            parts.append(lse - of_target)
        return torch.cat(parts)

    def own_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return which targets are ids of this rank, (n,) boolean, and their rows in `table`, (n,); any for others."""
        rows = targets.clamp(0, self.vocab_size - 1) - self.first
        return (rows >= 0) & (rows < len(self.table)), rows.clamp(0, len(self.table) - 1)

    def combine(self, lse: Tensor, of_target: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-sum-exps over the whole vocabulary and logits of the targets, from those of this rank: (n,) each.

        Args:
            of_target: 0 where the target belongs to another rank.
        """
        top = self.group.max(lse.clone())
        total, of_target = self.group.sum(torch.stack([(lse - top).exp(), of_target])).unbind()
        return top + total.log(), of_target


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Computes both gradients in the forward pass, like `_LinearCrossEntropy`: the backward pass needs no message."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        rows: int,
        z_loss: float,
        cap: float,
        shard: VocabShard,
    ) -> Tensor:
        table, states = head.to(dtype), hidden.to(dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(states, dtype=torch.float32) if needs_grad else None
        d_head = torch.empty_like(head, dtype=torch.float32) if needs_grad else None
        max_rows = min(rows, len(states))
        vocabulary = vocab_blocks(table)
        buffers = [states.new_empty(max_rows * len(block.table)) for block in vocabulary[: None if needs_grad else 1]]
        scratch = fp32_scratch(states, rows, len(vocabulary[0].table))
        value = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for chunk in row_ranges(len(states), rows):
            h, w = states[chunk], weights[chunk].float()
            own, y = shard.own_targets(targets[chunk])
            blocks = zip(vocabulary, cycle(buffers), strict=False)
            softmaxes = [block_softmax(h, block, cap, buffer, scratch) for block, buffer in blocks]
            of_target = target_logits(h, table, y, cap).masked_fill_(~own, 0.0)
            lse, of_target = shard.combine(log_sum_exp(softmaxes), of_target)
            value += (lse - of_target) @ w
            if d_hidden is None or d_head is None:
                continue
            # Only the owner of a target has its row of the head, and the gradient through it.
            slope = (w * (1 - (of_target / cap).square()) if cap else w) * own
            d_hidden[chunk] = -slope[:, None] * table[y].float()
            factor = w * (1 + 2 * z_loss * lse)
            add_softmax_gradients(
                softmaxes, vocabulary, factor, lse, h, d_hidden[chunk], d_head, first=chunk.start == 0
            )
            d_head.index_add_(0, y, h.float() * -slope[:, None])
        if d_hidden is not None:
            shard.group.sum(d_hidden)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.dtypes = hidden.dtype, head.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        # Overwritten in place: autograd itself refuses a second backward pass.
        d_hidden, d_head = ctx.saved_tensors
        hidden_dtype, head_dtype = ctx.dtypes
        return (d_hidden.mul_(d_value).to(hidden_dtype), d_head.mul_(d_value).to(head_dtype), *[None] * 7)
