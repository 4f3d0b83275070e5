"""The loss: -log P(next token), summed with weights, by a pass that never holds the (B, T, V) logits.

The head is most of a small model, and its logits are most of the memory: 4 x 1,024 x 50,257 floats are 0.8 GB, and
as much again for their gradient. `layers/cross_entropy.py` processes them in blocks;
`token_cross_entropy_reference` is the plain form that it is tested against.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import whole_number
from .errors import ConfigError
from .layers.cross_entropy import linear_cross_entropy, linear_cross_entropy_sum
from .layers.tiling import is_transformed
from .model import LightLLM

IGNORED = -100  # a target that is not counted, as F.cross_entropy's ignore_index


class NextTokenLoss(nn.Module):
    """The model and its objective as one module: the training loop calls it, and it is compiled or wrapped as a whole.

    Args:
        model: anything with `hidden_states`, `head_weight` and `logit_cap`.
        chunk: rows of logits that exist at once; 0 for all of them, by `model.forward`.
        z_loss: weight of l^2 in the gradient, l the log-sum-exp of the logits; the value excludes it.
    """

    def __init__(self, model: LightLLM, chunk: int = 1024, z_loss: float = 0.0) -> None:
        super().__init__()
        if not hasattr(model, "hidden_states"):
            raise ConfigError(f"NextTokenLoss takes a LightLLM, not a {type(model).__name__}")
        self.model = model
        self.chunk = whole_number("chunk", chunk, low=0)
        self.z_loss = z_loss

    def forward(self, tokens: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum weight * -log P(target) over all positions, in nats: a float32 scalar.

        Divide it by the `total_weight` of the whole batch.

        Args:
            tokens, targets: (B, T); a target of -100 is not counted.
            weights: (B, T), by default 1 each.

        Raises:
            ConfigError: targets of another shape than the tokens, no whole numbers, or (on the CPU) ids that the
                model lacks.
        """
        check_targets(tokens, targets, len(self.model.head_weight))
        # A sum and not a mean, so that micro-batches add up to exactly one big batch whatever their weights.
        weights = token_weights(targets, weights)
        if not self.chunk or is_transformed():
            return self._reference(tokens, targets, weights)
        return linear_cross_entropy_sum(
            self.model.hidden_states(tokens).flatten(0, 1),  # (B T, C)
            self.model.head_weight,
            targets.flatten(),
            weights.flatten(),
            rows=self.chunk,
            z_loss=self.z_loss,
            cap=self.model.logit_cap,
        )

    def _reference(self, tokens: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Compute the same from the full logits."""
        logits = self.model(tokens).float()  # (B, T, V)
        loss = (token_cross_entropy_from_logits(logits, targets) * weights).sum()
        if self.z_loss:
            penalty = self.z_loss * (logits.logsumexp(-1).square() * weights).sum()
            loss = loss + (penalty - penalty.detach())  # adds its gradient and leaves the value
        return loss


def check_targets(tokens: Tensor, targets: Tensor, vocab_size: int) -> None:
    """Raise ConfigError unless the targets are ids of the vocabulary or IGNORED, one for each token."""
    if tokens.shape != targets.shape:
        raise ConfigError(
            f"tokens of shape {tuple(tokens.shape)} and targets of shape {tuple(targets.shape)} differ; the loss takes "
            "one target for each token: ids[:, :-1] and ids[:, 1:]"
        )
    if targets.dtype not in (torch.int32, torch.int64):
        raise ConfigError(f"targets are token ids, whole numbers, and these are {targets.dtype}; use targets.long()")
    # The values of a GPU's tensor would have to be waited for, and those of a traced tensor are unknown.
    if targets.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed():
        return
    wrong = ((targets < 0) & (targets != IGNORED)) | (targets >= vocab_size)
    if bool(wrong.any()):
        raise ConfigError(
            f"target {int(targets[wrong][0])} is not a token id of the model, which has 0 ... {vocab_size - 1}; "
            f"a target that is not counted is {IGNORED}"
        )


def token_weights(targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weight of each target, (B, T) float32: by default 1, and 0 where the target is ignored."""
    counted = (targets != IGNORED).float()
    return counted if weights is None else counted * weights


def total_weight(targets: Tensor, weights: Tensor | None = None) -> float:
    """Return the divisor that makes a `NextTokenLoss` the mean nats per token."""
    return float(token_weights(targets, weights).sum())


def token_cross_entropy_from_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(logits)[target], 0 where the target is ignored: (B, T, V), (B, T) -> (B, T), nats."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none").view(
        targets.shape
    )


def token_cross_entropy_reference(model: LightLLM, tokens: Tensor, targets: Tensor) -> Tensor:
    """Compute `token_cross_entropy` from the full logits: (B, T) -> (B, T), nats."""
    return token_cross_entropy_from_logits(model(tokens).float(), targets)


@torch.no_grad()
def token_cross_entropy(model: LightLLM, tokens: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """Return -log P(target) of each position, without gradients and without the full logits: (B, T) -> (B, T), nats."""
    return token_cross_entropy_from_hidden(model, model.hidden_states(tokens), targets, chunk)


@torch.no_grad()
def token_cross_entropy_from_hidden(model: LightLLM, hidden: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """Compute `token_cross_entropy` from hidden states after the final norm: (B, T, C), (B, T) -> (B, T), nats."""
    nats = linear_cross_entropy(
        hidden.flatten(0, 1), model.head_weight, targets.flatten(), rows=chunk, cap=model.logit_cap
    )
    return nats.view(targets.shape).masked_fill(targets == IGNORED, 0.0)
