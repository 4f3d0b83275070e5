"""How much the gradient of one sequence differs from the next: the gradient noise scale, and the batch it suggests."""

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
    """Estimates from n independent per-sequence gradients."""

    gradient_squared: float  # |G|^2 of the true gradient; unbiased, so it can come out below 0 where noise covers it
    trace: float  # tr(Sigma) of the covariance of one sequence's gradient; unbiased
    scale: float | None  # tr(Sigma) / |G|^2, sequences; None where |G|^2 is not told from 0
    stderr: float | None  # of the scale, by the jackknife; None where leaving one sequence out loses |G|^2
    sequences: int  # n


def sequence_gradient(model: LightLLM, batch: Batch, i: int) -> Tensor:
    """The gradient of the mean loss of sequence i alone, (n,), dropout off. The model's own `.grad` is not touched."""
    at = flatten(trainable_parameters(model).values()).requires_grad_(True)
    with torch.enable_grad():
        loss = mean_loss(model, at, Batch(batch.tokens[i : i + 1], batch.targets[i : i + 1]))
        (gradient,) = torch.autograd.grad(loss, at)
    return gradient


def noise_scale(gradient: Callable[[int], Tensor], n: int) -> NoiseScale:
    """B_simple = tr(Sigma) / |G|^2 from the gradients of n sequences (McCandlish et al., 2018, equation 2.9).

    A batch far below it wastes steps, one far above it wastes text. Each gradient is asked for twice, so that two of
    them are in memory at a time and not n.

    Args:
        gradient: the gradient (any size) of sequence 0 ... n - 1, the same whenever it is asked for.

    Raises:
        ConfigError: fewer than 3 sequences: without one of them there is no variance.
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
    whole, all_squares = math.fsum(with_total), math.fsum(squares)  # |sum of g|^2, sum of |g|^2
    squared, trace = _unbiased(whole, all_squares, n)
    # Without sequence i: |S - g|^2 = |S|^2 - 2 g.S + |g|^2.
    without = [
        _unbiased(whole - 2 * dot + own, all_squares - own, n - 1) for dot, own in zip(with_total, squares, strict=True)
    ]
    scale = trace / squared if squared > 0 else None
    known = scale is not None and all(s > 0 for s, _ in without)
    return NoiseScale(squared, trace, scale, _jackknife([t / s for s, t in without]) if known else None, n)


def _unbiased(whole: float, squares: float, n: int) -> tuple[float, float]:
    """|G|^2 from the products of different gradients, tr(Sigma) from their spread: (|sum g|^2, sum |g|^2) of n."""
    return (whole - squares) / (n * (n - 1)), (squares - whole / n) / (n - 1)


def _jackknife(estimates: list[float]) -> float:
    """The standard error from the n estimates that leave one out (Efron and Tibshirani, 1993, equation 11.5)."""
    n = len(estimates)
    mean = math.fsum(estimates) / n
    return math.sqrt((n - 1) / n * math.fsum((x - mean) ** 2 for x in estimates))
