"""Evaluations beside the training loss at their steps, and other means that several rules need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..tolerant import Number, known
from ..view import View


@dataclass(frozen=True)
class GapPoint:
    """An evaluation beside the training loss of the steps before it, nats per token."""

    step: int
    held: float
    train: float
    noise: float  # standard error of `train`

    @property
    def gap(self) -> float:
        """Held out minus training."""
        return self.held - self.train


def gap_points(view: View) -> list[GapPoint]:
    """Each evaluation that has training steps before it."""
    curve = view.curve
    places = [(e, curve.index(e.step)) for e in view.held_out]
    return [GapPoint(e.step, e.loss, curve.mean(i), curve.noise(i)) for e, i in places if i >= 0]


def last_mean(values: Sequence[Number], n: int = 20) -> float | None:
    """The mean of the last n values that are there."""
    there = known(values[-n:])
    return math.fsum(there) / len(there) if there else None
