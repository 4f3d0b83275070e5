"""Windowed means of a training loss, because that of a single batch is too noisy, and their gap to held-out text."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from .coerce import Number

# Steps. Shorter windows are noisy; longer ones delay every warning. The bands of benchmarks/bands.py use the same.
MEAN_STEPS = 10


class Curve:
    """A training loss without its gaps, with prefix sums so that any mean takes constant time."""

    def __init__(self, steps: Iterable[int], losses: Iterable[Number]) -> None:
        pairs = [(step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None]
        self.steps, self.losses = [step for step, _ in pairs], [loss for _, loss in pairs]
        self.sums = list(accumulate(self.losses, initial=0.0))  # sums[i]: the sum of the first i losses

    def __len__(self) -> int:
        return len(self.steps)

    def mean(self, i: int, n: int = MEAN_STEPS) -> float:
        """Return the mean of the n losses that end at index i, or of all up to i if there are fewer."""
        first = max(0, i + 1 - n)
        return (self.sums[i + 1] - self.sums[first]) / (i + 1 - first)

    def noise(self, i: int, n: int = MEAN_STEPS) -> float:
        """Return the standard error of `mean`, estimated from differences of neighbours so that a trend adds nothing.

        For normal noise of deviation s, the median of |b - a| is 0.954 s.
        """
        window = self.losses[max(0, i - 3 * n) : i + 1]
        gaps = [abs(b - a) for a, b in pairwise(window)]
        return median(gaps) / 0.954 / math.sqrt(n) if gaps else 0.0

    def index(self, step: int) -> int:
        """Return the index of the last loss at or before a step, or -1."""
        return bisect_right(self.steps, step) - 1


@dataclass(frozen=True)
class GapPoint:
    """An evaluation and the mean training loss of the steps before it, nats per token."""

    step: int
    held: float
    train: float
    noise: float  # standard error of `train`

    @property
    def gap(self) -> float:
        """Return the held-out loss minus the training loss."""
        return self.held - self.train
