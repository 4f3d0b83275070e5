"""Callbacks run after a step. The base class, and the callback that writes the metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..runtime import peak_memory
from .state import Status, TrainState
from .step import Step

if TYPE_CHECKING:
    from .trainer import Trainer


class Callback:
    """Runs at four points of a run. Override any of the methods; by default each does nothing."""

    # True: the next step starts only after `on_step`. The built-in callbacks set False, so that a GPU may run one step
    # ahead; where one of them needs the weights of its step, the trainer waits (`Trainer.needs_flush`).
    synchronous = True

    def on_start(self) -> str | None:
        """Run before the first step. Return "stop" to end the run before it."""

    def on_step(self, step: Step) -> str | None:
        """Run after a step. Return "stop" to end the run after it."""

    def on_rollback(self, from_step: int, state: TrainState) -> None:
        """Run after a rollback from step `from_step` to `state`; the model has the weights of `state`."""

    def on_end(self, status: Status) -> None:
        """Run after the last step, before the files are closed. Not called if the run ends with an exception."""


class FunctionCallback(Callback):
    """Calls a function after a step, as `Trainer.every` registers it."""

    def __init__(self, function: Callable[[Step], str | None]) -> None:
        self.function = function

    def on_step(self, step: Step) -> str | None:
        """Call the function."""
        return self.function(step)


class LogMetrics(Callback):
    """Writes each step, and each rollback, as a row to every sink."""

    synchronous = False

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step(self, step: Step) -> None:
        """Write a row of kind `step`."""
        row = {
            "kind": "step",
            "step": step.number,
            "loss": step.loss,
            "bits_per_byte": step.bits_per_byte,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "tokens": step.tokens,
            "seconds": round(step.seconds, 4),
            "tok_per_sec": round(step.tok_per_sec, 1),
            "clipped": step.clipped,
            "grad_norms": dict(step.grad_norms),
            "weight_norm": step.weight_norm,
            "update_ratios": dict(step.update_ratios),
            "mfu": None if step.mfu is None else round(step.mfu, 4),
            "memory": peak_memory(),
            "phases": {name: round(seconds, 4) for name, seconds in step.phases.items()},
        }
        if step.skipped:
            row["skipped"] = True
        self.trainer.write_row(row)

    def on_rollback(self, from_step: int, state: TrainState) -> None:
        """Write a row of kind `rollback`."""
        self.trainer.write_row(
            {"kind": "rollback", "step": state.step, "from_step": from_step, "batches": state.batches}
        )
