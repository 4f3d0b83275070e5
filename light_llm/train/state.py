"""The state of a training run: its counters, requests from outside, the caller's options, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..checkpoint import StepState
from ..observe import Sink

RECENT_LOSSES = 64  # losses that the next one is compared with to detect a spike
Status = Literal["done", "interrupted", "stopped", "nonfinite"]


@dataclass(frozen=True)
class TrainState:
    """The counters of a run, which every checkpoint stores. A step replaces the value, so that it can be undone."""

    step: int = 0  # updates so far, skipped ones included
    batches: int = 0  # batches taken from the loader; larger than `step` after a rollback
    tokens: int = 0  # targets trained on
    rollbacks: int = 0
    recent_losses: tuple[float, ...] = ()  # of the last updates, the newest last

    def next(self, n_targets: float) -> TrainState:
        """Return the state after one more step, on one more batch with this many targets."""
        return replace(self, step=self.step + 1, batches=self.batches + 1, tokens=self.tokens + int(n_targets))

    def with_loss(self, loss: float) -> TrainState:
        """Return the state with one more recent loss."""
        return replace(self, recent_losses=(*self.recent_losses, loss)[-RECENT_LOSSES:])

    @classmethod
    def from_checkpoint(cls, saved: StepState) -> TrainState:
        """Return the state in which a checkpoint was saved."""
        return cls(saved.step, saved.batches, saved.tokens, saved.rollbacks, saved.recent_losses)

    def to_checkpoint(self, *, lr_horizon: int, best_loss: float | None, best_step: int | None) -> StepState:
        """Return the values that a checkpoint stores as `state.json`."""
        counters = self.step, self.tokens, self.batches
        return StepState(*counters, lr_horizon, best_loss, best_step, self.rollbacks, self.recent_losses)


class EvaluationCancelled(Exception):
    """Raised inside an evaluation or a sample when the run has to stop."""


@dataclass
class StopFlag:
    """Requests to an active training run, from callbacks, signal handlers and other threads. The loop polls it.

    Plain attributes without a lock: a signal handler may interrupt the thread that holds one.
    """

    status: Status | None = None  # set: the run ends after the current step, with this status
    cancel: bool = False  # cancel evaluations and samples as well
    save: bool = False
    evaluation_cancelled: bool = False  # a resumed run evaluates before its first step
    stop_after: int | None = None  # steps of this process

    def stop(self, status: Status) -> None:
        """End the run after the current step. The first status given wins."""
        self.status = self.status or status

    def check(self, done: int = 0, total: int = 0) -> None:
        """Raise EvaluationCancelled if the run has to stop at once. Evaluations call it after each batch."""
        if self.cancel:
            raise EvaluationCancelled


@dataclass(frozen=True)
class RunOptions:
    """The caller's options that are not settings of the training itself."""

    explicit_out: bool = False  # the run folder was named, so an earlier run in it is not moved
    overwrite: bool = False
    quiet: bool = False
    report: bool = True
    force: bool = False  # start a run that does not fit into memory
    skip_doctor: bool = False
    sinks: Sequence[Sink] = ()

    def say(self, line: str) -> None:
        """Print a line before the run has a log."""
        if not self.quiet:
            print(line, flush=True)


@dataclass(frozen=True)
class Result:
    """The return value of `Trainer.train`."""

    status: Status  # interrupted: by a signal or a request; stopped: by a callback or guard; nonfinite: not saved
    step: int
    best_loss: float | None  # nats per token; None before the first evaluation
    best_step: int | None
    folder: Path
    seconds: float  # of this process, evaluations and saves included
    tokens_per_second: float  # of the steps alone
    peak_memory: int | None  # bytes, of the whole process
