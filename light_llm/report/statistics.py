"""Means over runs, and the interval of a difference between two groups of runs. Without numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
MAX_DOF = 1000.0  # beyond, Student's t is the normal distribution to three digits
PANELS = 200  # of Simpson's rule; even


@dataclass(frozen=True)
class Interval:
    """A difference b - a with the interval that holds the true one with a probability of 95%."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return not self.low <= 0 <= self.high


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, which divides by n - 1; None for fewer than two values.

    >>> standard_deviation([1.0, 2.0, 3.0]), standard_deviation([1.0])
    (1.0, None)
    """
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def difference_of_means(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """Return mean(b) - mean(a) with its 95% interval: Welch's, or, where one group is a single value, Student's.

    Welch (1947) allows each group a spread of its own. A single value has none that is known, so it is given that of
    the other group. Returns None if both are single values.
    """
    s_a, s_b = standard_deviation(a), standard_deviation(b)
    if s_a is None and s_b is None:
        return None
    if s_a is None or s_b is None:
        spread = s_b if s_a is None else s_a
        assert spread is not None
        variance, dof = spread**2 * (1 / len(a) + 1 / len(b)), len(a) + len(b) - 2.0
    else:
        per_mean = s_a**2 / len(a), s_b**2 / len(b)
        variance = sum(per_mean)
        # Welch-Satterthwaite.
        parts = per_mean[0] ** 2 / (len(a) - 1) + per_mean[1] ** 2 / (len(b) - 1)
        dof = variance**2 / parts if parts else len(a) + len(b) - 2.0
    difference = mean(b) - mean(a)
    half = t_quantile(dof) * math.sqrt(variance)
    return Interval(difference, difference - half, difference + half)


def t_quantile(dof: float, confidence: float = CONFIDENCE) -> float:
    """Return t such that Student's distribution has the share `confidence` between -t and t.

    >>> round(t_quantile(1), 3), round(t_quantile(4), 3)
    (12.706, 2.776)
    """
    dof = min(dof, MAX_DOF)
    # With t = sqrt(dof) tan(angle) the density becomes cos(angle)^(dof - 1) on a finite range.
    scale = 2 * math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(50):
        angle = (low + high) / 2
        share = scale * _simpson(angle, dof - 1)
        low, high = (angle, high) if share < confidence else (low, angle)
    return math.sqrt(dof) * math.tan(low)


def _simpson(end: float, power: float) -> float:
    """Return the integral of cos(x)^power from 0 to `end`."""
    weights = [1, *[4, 2] * (PANELS // 2 - 1), 4, 1]
    step = end / PANELS
    return step / 3 * math.fsum(w * max(0.0, math.cos(i * step)) ** power for i, w in enumerate(weights))
