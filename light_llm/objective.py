"""The loss: -log P(next token), summed with weights, by a pass that never holds the (B, T, V) logits.

The head is most of a small model, and its logits are most of the memory: 4 x 1,024 x 50,257 floats are 0.8 GB, and
as much again for their gradient. `layers/cross_entropy.py` goes through them in blocks; `plain_nats` is its twin.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers.cross_entropy import nats, nats_sum
from .model import LightLLM

IGNORED = -100  # a target that counts for nothing


class NextTokenLoss(nn.Module):
    """What the loop calls, and what is compiled or wrapped: the model and its objective as one module.

    Args:
        model: anything with `features`, `head_weight` and `logit_cap`.
        chunk: rows of logits that exist at once; 0 takes the plain way through `model.forward`.
        z_loss: weight of l^2 in the gradient, l the log-sum-exp of the logits; the value stays the nats alone.
    """

    def __init__(self, model: LightLLM, chunk: int = 1024, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        self.z_loss = z_loss

    def forward(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum over all positions of weight * -log P(target), in nats: a float32 scalar.

        A sum, so that micro-batches add up to exactly one big batch: divide by `total_weight` of the whole batch.

        Args:
            tokens, targets: (B, T); a target of -100 counts for nothing.
            weights: (B, T), by default 1 each.
        """
        weights = token_weights(targets, weights)
        if not self.chunk:
            return self._plain(tokens, targets, weights)
        return nats_sum(
            self.model.features(tokens).flatten(0, 1),  # (B T, C)
            self.model.head_weight,
            targets.flatten(),
            weights.flatten(),
            rows=self.chunk,
            z_loss=self.z_loss,
            cap=self.model.logit_cap,
        )

    def _plain(self, tokens: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The same through the full logits, as in any textbook."""
        logits = self.model(tokens).float()  # (B, T, V)
        loss = (nats_of_logits(logits, targets) * weights).sum()
        if self.z_loss:
            penalty = self.z_loss * (logits.logsumexp(-1).square() * weights).sum()
            loss = loss + (penalty - penalty.detach())  # a gradient without a value
        return loss


def token_weights(targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weight of each target, (B, T) float32: what was given, 0 where the target is ignored."""
    counted = (targets != IGNORED).float()
    return counted if weights is None else counted * weights


def total_weight(targets: Tensor, weights: Tensor | None = None) -> float:
    """What to divide a `NextTokenLoss` by to get the mean nats per token."""
    return float(token_weights(targets, weights).sum())


def nats_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target], 0 where it is ignored: (B, T, V), (B, T) -> (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none").view(
        targets.shape
    )


def plain_nats(model: LightLLM, tokens: Tensor, targets: Tensor) -> Tensor:
    """-log P(target) of each position through the full logits: (B, T) -> (B, T), nats. The twin of `token_nats`."""
    return nats_of_logits(model(tokens).float(), targets)


@torch.no_grad()
def token_nats(model: LightLLM, tokens: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """-log P(target) of each position, without gradients and without the full logits: (B, T) -> (B, T), nats."""
    return hidden_nats(model, model.features(tokens), targets, chunk)


@torch.no_grad()
def hidden_nats(model: LightLLM, hidden: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """The same from hidden states after the final norm: (B, T, C), (B, T) -> (B, T), nats."""
    found = nats(hidden.flatten(0, 1), model.head_weight, targets.flatten(), rows=chunk, cap=model.logit_cap)
    return found.view(targets.shape).masked_fill(targets == IGNORED, 0.0)
