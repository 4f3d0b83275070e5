"""Estimate the gradient noise scale: how much the gradients of single sequences differ, and the batch it suggests."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Batch
from ..errors import ConfigError
from ..model import LightLLM
from .flat_params import flatten, mean_loss, trainable_parameters


@dataclass(frozen=True)
class NoiseScale:
    """Estimates from n independent gradients of single sequences."""

    gradient_squared: float  # |G|^2 of the true gradient; unbiased, so it can fall below 0 where noise dominates
    trace: float  # tr(Sigma) of the covariance of one sequence's gradient; unbiased
    scale: float | None  # tr(Sigma) / |G|^2, sequences; None where |G|^2 is not distinguishable from 0
    stderr: float | None  # of the scale, by the jackknife; None where |G|^2 vanishes without one of the sequences
    sequences: int  # n


def sequence_gradient(model: LightLLM, batch: Batch, i: int) -> Tensor:
    """Return the gradient of the mean loss of sequence i alone, (n,), without dropout. `.grad` is not touched."""
    vector = flatten(trainable_parameters(model).values()).requires_grad_(True)
    with torch.enable_grad():
        loss = mean_loss(model, vector, Batch(batch.tokens[i : i + 1], batch.targets[i : i + 1]))
        (gradient,) = torch.autograd.grad(loss, vector)
    return gradient


def noise_scale(gradient: Callable[[int], Tensor], n: int) -> NoiseScale:
    """Return B_simple = tr(Sigma) / |G|^2 from the gradients of n sequences (McCandlish et al., 2018, equation 2.9).

    A batch far below it wastes steps, one far above it wastes text.

    Args:
        gradient: returns the gradient, of any size, of sequence 0 ... n - 1. It is called twice for each, so that two
            gradients are in memory at a time and not n.

    Raises:
        ConfigError: fewer than 3 sequences: with 2, leaving one out for the error leaves no variance.
    """
    if n < 3:
        raise ConfigError(f"a noise scale from {n} sequences has no error; use at least 3")
    total = gradient(0).clone()
    for i in range(1, n):
        total += gradient(i)
    squares, with_total = [], []
    for i in range(n):
        g = gradient(i)
        squares.append(float(g @ g))
        with_total.append(float(g @ total))
    total_square, sum_of_squares = math.fsum(with_total), math.fsum(squares)  # |sum of g|^2, sum of |g|^2
    squared, trace = _unbiased(total_square, sum_of_squares, n)
    # Without sequence i: |S - g|^2 = |S|^2 - 2 g.S + |g|^2.
    leave_one_out = [
        _unbiased(total_square - 2 * dot + square, sum_of_squares - square, n - 1)
        for dot, square in zip(with_total, squares, strict=True)
    ]
    # The estimate of |G|^2 can be negative; a ratio would then mean nothing.
    scale = trace / squared if squared > 0 else None
    stderr = None
    if scale is not None and all(s > 0 for s, _ in leave_one_out):
        # The jackknife (Efron and Tibshirani, 1993, equation 11.5).
        estimates = [t / s for s, t in leave_one_out]
        mean = math.fsum(estimates) / n
        stderr = math.sqrt((n - 1) / n * math.fsum((x - mean) ** 2 for x in estimates))
    return NoiseScale(squared, trace, scale, stderr, n)


def _unbiased(total_square: float, sum_of_squares: float, n: int) -> tuple[float, float]:
    """Return unbiased |G|^2 and tr(Sigma) from |sum of g|^2 and the sum of |g|^2 of n gradients."""
    return (total_square - sum_of_squares) / (n * (n - 1)), (sum_of_squares - total_square / n) / (n - 1)
