"""Evaluations paired with the training loss at their steps."""

from dataclasses import dataclass

from ..run_log import RunLog


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


def gap_points(log: RunLog) -> list[GapPoint]:
    """Return a point for each evaluation that has training steps before it."""
    curve = log.curve
    pairs = [(e, curve.index(e.step)) for e in log.evals]
    return [GapPoint(e.step, e.loss, curve.mean(i), curve.noise(i)) for e, i in pairs if i >= 0]
