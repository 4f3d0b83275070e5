"""A training loss as means over windows: one batch alone is noise, and nothing must be fooled by it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from .tolerant import Number

MEAN_OF = 10  # steps


@dataclass(frozen=True)
class Curve:
    """A training loss without its gaps, with sums that make any mean cheap."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    sums: tuple[float, ...]  # sums[i]: of the first i losses

    def __len__(self) -> int:
        return len(self.steps)

    def mean(self, i: int, n: int = MEAN_OF) -> float:
        """Of the n losses up to the i-th (from 0), of fewer near the start."""
        first = max(0, i + 1 - n)
        return (self.sums[i + 1] - self.sums[first]) / (i + 1 - first)

    def noise(self, i: int, n: int = MEAN_OF) -> float:
        """The standard error of `mean`, from how neighbours differ: a trend does not count as noise."""
        around = self.losses[max(0, i - 3 * n) : i + 1]
        gaps = [b - a for a, b in pairwise(around)]
        return median(map(abs, gaps)) / 0.954 / math.sqrt(n) if gaps else 0.0  # 0.954 std: median of |N(0, 2 std^2)|

    def index(self, step: int) -> int:
        """The last place at or before a step; -1 before the first."""
        low, high = 0, len(self.steps)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.steps[middle] <= step else (low, middle)
        return low - 1


def curve_of(steps: Iterable[int], losses: Iterable[Number]) -> Curve:
    """The losses that are there."""
    pairs = [(step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None]
    there = tuple(loss for _, loss in pairs)
    return Curve(tuple(step for step, _ in pairs), there, tuple(accumulate(there, initial=0.0)))
