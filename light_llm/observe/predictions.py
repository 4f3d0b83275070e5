"""What the model says about the next token: how sure, how right, how much by each layer, how well it copies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import LightLLM
from ..objective import token_cross_entropy, token_cross_entropy_from_hidden

BINS = 10  # of confidence
ROWS = 128  # of logits that exist at once


@dataclass(frozen=True)
class Predictions:
    """Of each of N targets: how uncertain the guess was, how sure its first choice, and whether that was right."""

    entropy: Tensor  # (N,) nats
    confidence: Tensor  # (N,) probability of the likeliest token
    right: Tensor  # (N,) 1 where the likeliest token is the target


def predict(model: LightLLM, hidden: Tensor, targets: Tensor, rows: int = ROWS) -> Predictions:
    """From hidden states after the final norm, (N, C), and targets, (N,); never more than `rows` rows of logits."""
    parts = []
    for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
        log_p = model.logits(h).float().log_softmax(dim=-1)
        top = log_p.max(dim=-1)
        parts.append((-(log_p.exp() * log_p).sum(dim=-1), top.values.exp(), (top.indices == y).float()))
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class CalibrationBin:
    """Guesses of a like confidence."""

    confidence: float  # mean
    accuracy: float
    count: int


def calibration(confidence: Tensor, right: Tensor, bins: int = BINS) -> tuple[float, list[CalibrationBin]]:
    """Expected against observed accuracy: the expected calibration error (Guo et al., 2017, equation 3) and its bins.

    Bins are of equal width in confidence; one without a guess is left out. The error is the mean over guesses of
    |confidence - accuracy| of their bin; NaN, and no bin, where no confidence is a number.
    """
    confidence, right = confidence.cpu().double(), right.cpu().double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    found = []
    for i in range(bins):
        mine = place == i
        if n := int(mine.sum()):
            found.append(CalibrationBin(float(confidence[mine].mean()), float(right[mine].mean()), n))
    total = sum(b.count for b in found)
    if not total:
        return math.nan, []
    return sum(b.count * abs(b.confidence - b.accuracy) for b in found) / total, found


def logit_lens(model: LightLLM, stream: Sequence[Tensor], targets: Tensor) -> list[float]:
    """The logit lens (nostalgebraist, 2020): mean nats if the model stopped after each layer.

    Args:
        stream: L + 1 of (B, T, C), after the embeddings and after each block; each goes through the last norm and head.
        targets: (B, T).
    """
    return torch.stack([token_cross_entropy_from_hidden(model, model.ln_f(x), targets).mean() for x in stream]).tolist()


def repeated_sequence(n_ids: int, B: int, half: int, seed: int = 1) -> Tensor:
    """Random sequences said twice: (B, 2 half). Only a model that copies can guess the second half."""
    once = torch.randint(n_ids, (B, half), generator=torch.Generator().manual_seed(seed))
    return torch.cat([once, once], dim=1)


def copying_gain(model: LightLLM, twice: Tensor) -> float:
    """Mean nats by which the second half of a sequence said twice is cheaper than the first: (B, 2 half) -> nats."""
    found = token_cross_entropy(model, twice[:, :-1], twice[:, 1:])
    half = twice.size(1) // 2
    return float(found[:, : half - 1].mean() - found[:, half:].mean())
