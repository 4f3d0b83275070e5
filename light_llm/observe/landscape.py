"""Compute the loss around the weights of a model: in random directions, and on the plane of the run's checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .flat_params import flatten

Loss = Callable[[Tensor], float]  # weights (n,) -> mean nats per token
MIN_SECOND_SHARE = 1e-6  # of the squared distances: below it, the second direction is rounding error


def filter_normalised_direction(weights: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return a random direction (n,) in which each row of each matrix is as long as that row of the weights.

    A step of 1 then means the same for every row. Norm layers remove much of a row's scale, so without this a model of
    larger weights would look flatter. Vectors (gains and biases) stay at 0. (Li et al., 2018, section 4; their filter
    is here a row: the inputs of one unit, or the embedding of one token.)
    """
    parts = []
    for w in weights.values():
        d = torch.randn(w.shape, generator=generator).to(w) if w.ndim > 1 else torch.zeros_like(w)
        if w.ndim > 1:
            d *= w.detach().norm(dim=-1, keepdim=True) / d.norm(dim=-1, keepdim=True)
        parts.append(d)
    return flatten(parts)


def loss_on_line(loss: Loss, origin: Tensor, direction: Tensor, at: Sequence[float]) -> list[float]:
    """Return the loss at origin + x direction, both (n,), for each x."""
    return [loss(torch.add(origin, direction, alpha=x)) for x in at]


def loss_on_plane(
    loss: Loss, origin: Tensor, first: Tensor, second: Tensor, a: Sequence[float], b: Sequence[float]
) -> list[list[float]]:
    """Return the loss at origin + x first + y second: a row for each y of b, with a number for each x of a."""
    return [loss_on_line(loss, torch.add(origin, second, alpha=y), first, a) for y in b]


@dataclass(frozen=True)
class Plane:
    """A plane in the space of weights, and the coordinates of points projected onto it."""

    origin: Tensor  # (n,)
    first: Tensor  # (n,) of length 1: the direction of the largest variance of the points
    second: Tensor  # (n,) of length 1, orthogonal to it
    explained: tuple[float, float]  # share of the squared distances to the origin along each
    coordinates: tuple[tuple[float, float], ...]  # of each point, along first and second


def fit_plane(origin: Tensor, points: Sequence[Tensor]) -> Plane | None:
    """Return the plane through the origin nearest to points (n,): principal components (Li et al., 2018, 7.2).

    Each direction is signed so that the point farthest along it has a positive coordinate. Two points and the origin
    lie in their plane exactly.

    Returns:
        None with fewer than two points besides the origin, or with all points on one line through it.
    """
    if len(points) < 2:
        return None
    offsets = torch.stack([p - origin for p in points])  # (k, n)
    # The (k, k) Gram matrix has the same nonzero eigenvalues as the (n, n) covariance, which would not fit in memory.
    values, vectors = torch.linalg.eigh((offsets @ offsets.T).cpu().double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if values[1] <= MIN_SECOND_SHARE * values[0]:
        return None
    first, second = (normalize(offsets.T @ vectors[:, i].to(offsets), dim=0) for i in range(2))
    second = normalize(second - (second @ first) * first, dim=0)
    first, second = (d * torch.sign((c := offsets @ d)[c.abs().argmax()]) for d in (first, second))
    coordinates = tuple((float(p @ first), float(p @ second)) for p in offsets)
    shares = (values[:2] / values.sum()).tolist()
    return Plane(origin, first, second, (shares[0], shares[1]), coordinates)


def spaced_values(values: Sequence[float], points: int, margin: float = 0.25) -> list[float]:
    """Return evenly spaced numbers that cover the values and a margin, a share of their extent, on either side."""
    beyond = margin * (max(values) - min(values))
    start, end, last = min(values) - beyond, max(values) + beyond, points - 1
    # In this form the middle of -1 and 1 is exactly 0, the point of the weights themselves.
    return [(start * (last - i) + end * i) / last for i in range(points)]
