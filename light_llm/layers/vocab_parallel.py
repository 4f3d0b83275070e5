"""Cross-entropy of a linear head whose rows are split over ranks: each rank computes the logits of its own ids.

With l_r the log-sum-exp over the ids of rank r, that of the whole vocabulary is

    l = m + log(sum over r of exp(l_r - m))        m = max over r of l_r

so each row of hidden states needs one maximum, one sum, and the logit of its target, which is 0 on all ranks but one.
Each rank has its rows of dW without a message, and dh is the sum of the ranks' parts (Shoeybi et al., 2019, section 3).
The arithmetic on one rank is that of `cross_entropy.py`: (rows, V / N) numbers exist at once.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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

    def sum_gradients(self, d_hidden: Tensor) -> None:
        """Add up the gradients of the hidden states over the ranks, in place."""
        self.group.sum(d_hidden)
