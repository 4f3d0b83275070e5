"""The loss around the weights of a model: along random directions, and over the plane its own run moved in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .flat_params import flatten

Loss = Callable[[Tensor], float]  # weights (n,) -> mean nats per token
DEGENERATE = 1e-6  # share of the squared distances below which a second direction is rounding


def filter_normalised(weights: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """A random direction (n,) in which each row of each matrix is as long as that row of the weights.

    So a step of 1 means the same for every row: the scale of a row says little by itself, because norms take much of it
    out, and a model of larger weights would otherwise look flatter. Vectors (gains and biases) stay at 0.
    (Li et al., 2018, section 4; a row of a matrix is what feeds one unit, and a row of a table one token.)
    """
    parts = []
    for w in weights.values():
        d = torch.randn(w.shape, generator=generator).to(w) if w.ndim > 1 else torch.zeros_like(w)
        if w.ndim > 1:
            d *= w.detach().norm(dim=-1, keepdim=True) / d.norm(dim=-1, keepdim=True)
        parts.append(d)
    return flatten(parts)


def loss_along(loss: Loss, origin: Tensor, direction: Tensor, at: Sequence[float]) -> list[float]:
    """The loss at origin + x direction, both (n,), for each x."""
    return [loss(torch.add(origin, direction, alpha=x)) for x in at]


def loss_over(
    loss: Loss, origin: Tensor, first: Tensor, second: Tensor, a: Sequence[float], b: Sequence[float]
) -> list[list[float]]:
    """The loss at origin + x first + y second: a row for each y of b, in it a number for each x of a."""
    return [loss_along(loss, torch.add(origin, second, alpha=y), first, a) for y in b]


@dataclass(frozen=True)
class Plane:
    """A plane in the space of weights, and where some points lie over it."""

    origin: Tensor  # (n,)
    first: Tensor  # (n,) of length 1: the direction in which the points differ most
    second: Tensor  # (n,) of length 1, orthogonal to it
    explained: tuple[float, float]  # share of the squared distances to the origin along each
    places: tuple[tuple[float, float], ...]  # of each point, along first and second


def plane_through(origin: Tensor, points: Sequence[Tensor]) -> Plane | None:
    """The plane through the origin that is nearest to points (n,): principal components (Li et al., 2018, 7.2).

    Computed from the small matrix of the points' products, so that nothing is of size n x n. A component is turned so
    that the point farthest along it comes out positive. Two points and the origin lie in their plane exactly.

    Returns:
        None where there is no such plane: fewer than two points besides the origin, or all on one line with it.
    """
    if len(points) < 2:
        return None
    away = torch.stack([p - origin for p in points])  # (k, n)
    values, vectors = torch.linalg.eigh((away @ away.T).cpu().double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if values[1] <= DEGENERATE * values[0]:
        return None
    first, second = (_unit(away.T @ vectors[:, i].to(away)) for i in range(2))
    second = _unit(second - (second @ first) * first)
    first, second = (d * torch.sign(_farthest(away @ d)) for d in (first, second))
    places = tuple((float(p @ first), float(p @ second)) for p in away)
    shares = (values[:2] / values.sum()).tolist()
    return Plane(origin, first, second, (shares[0], shares[1]), places)


def around(places: Sequence[float], points: int, margin: float = 0.25) -> list[float]:
    """Evenly spaced places that cover the given ones and a share of their extent beyond either end."""
    low, high = min(places), max(places)
    beyond = margin * (high - low)
    start, end, last = low - beyond, high + beyond, points - 1
    return [(start * (last - i) + end * i) / last for i in range(points)]  # so the middle of -1 and 1 is 0


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _farthest(along: Tensor) -> Tensor:
    return along[along.abs().argmax()]
