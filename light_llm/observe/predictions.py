"""Measure the model's predictions: uncertainty, accuracy, calibration, the logit lens, and copying."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import LightLLM
from ..objective import token_cross_entropy, token_cross_entropy_from_hidden

CALIBRATION_BINS = 10
LOGIT_ROWS = 128  # rows of (N, V) logits that exist at once


@dataclass(frozen=True)
class Predictions:
    """The predictions for N targets."""

    entropy: Tensor  # (N,) nats
    confidence: Tensor  # (N,) probability of the likeliest token
    right: Tensor  # (N,) 1 where the likeliest token is the target


def predict(model: LightLLM, hidden: Tensor, targets: Tensor, rows: int = LOGIT_ROWS) -> Predictions:
    """Predict the next tokens from hidden states after the final norm, in chunks of logits.

    Args:
        hidden: (N, C).
        targets: (N,).
        rows: of logits that exist at once.
    """
    # All logits at once would be (N, V): 100 MB for the 512 tokens of a probe with the vocabulary of GPT-2.
    parts = []
    for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
        log_p = model.logits(h).float().log_softmax(dim=-1)
        top = log_p.max(dim=-1)
        parts.append((-(log_p.exp() * log_p).sum(dim=-1), top.values.exp(), (top.indices == y).float()))
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions within a range of confidence."""

    confidence: float  # mean
    accuracy: float
    count: int


def calibration(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> tuple[float, list[CalibrationBin]]:
    """Return the expected calibration error (Guo et al., 2017, equation 3) and the non-empty bins.

    Bins are of equal width in confidence. The error is the mean over predictions of |confidence - accuracy| of their
    bin; NaN, with no bins, if no confidence is a number.
    """
    confidence, right = confidence.cpu().double(), right.cpu().double()
    # A confidence of exactly 1 belongs to the last bin.
    index = (confidence * bins).long().clamp(max=bins - 1)
    filled = []
    for i in range(bins):
        in_bin = index == i
        if n := int(in_bin.sum()):
            filled.append(CalibrationBin(float(confidence[in_bin].mean()), float(right[in_bin].mean()), n))
    total = sum(b.count for b in filled)
    if not total:
        return math.nan, []
    return sum(b.count * abs(b.confidence - b.accuracy) for b in filled) / total, filled


def logit_lens(model: LightLLM, stream: Sequence[Tensor], targets: Tensor) -> list[float]:
    """Return the loss, in mean nats, if the model stopped after each layer (nostalgebraist, 2020).

    Args:
        stream: L + 1 of (B, T, C), after the embeddings and after each block; each goes through the last norm and head.
        targets: (B, T).
    """
    losses = [token_cross_entropy_from_hidden(model, model.ln_f(x), targets).mean() for x in stream]
    return torch.stack(losses).tolist()


def repeated_sequence(n_ids: int, B: int, half: int, seed: int = 1) -> Tensor:
    """Return random sequences, each followed by itself: (B, 2 half). Only a model that copies predicts the repeat."""
    first = torch.randint(n_ids, (B, half), generator=torch.Generator().manual_seed(seed))
    return torch.cat([first, first], dim=1)


def copying_gain(model: LightLLM, repeated: Tensor) -> float:
    """Return by how many mean nats the repeat of a sequence is cheaper than its first occurrence.

    Args:
        repeated: (B, 2 half) of `repeated_sequence`.
    """
    loss = token_cross_entropy(model, repeated[:, :-1], repeated[:, 1:])
    half = repeated.size(1) // 2
    return float(loss[:, : half - 1].mean() - loss[:, half:].mean())
