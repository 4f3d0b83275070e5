"""Guards decide about an update before it changes the weights, or with a gated queue a step later; callbacks follow it.

A guard is a function from a Step to a GuardAction. A callback is an object with methods for four points of a run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

from ..config import repr_short
from ..errors import ConfigError
from ..runtime import peak_memory
from .step import GuardAction, Status, Step, TrainState

if TYPE_CHECKING:
    from .agreement import StopFlag
    from .trainer import Trainer

GUARD_ACTIONS = get_args(GuardAction)
MAX_SKIPS = 10  # in a row: after that many the weights themselves are the problem, not the batches
MIN_LOSSES = 16  # fewer losses do not show their spread
SPIKE_THRESHOLD = 8.0  # robust standard deviations

Guard = Callable[[Step], GuardAction]


def run_guards(guards: Sequence[Guard], step: Step) -> GuardAction:
    """Return the first answer that is not "go". Raises ConfigError for an answer that is not a GuardAction."""
    for guard in guards:
        action = guard(step)
        if action not in GUARD_ACTIONS:
            # Most often a guard without a return statement: taking None for "go" would hide that it never decides.
            raise ConfigError(f"a guard answered {action!r}; it must answer {', '.join(GUARD_ACTIONS)}")
        if action != "go":
            return action
    return "go"


class NonFiniteGuard:
    """Rejects updates whose loss or gradient is not finite.

    Clipping does not help: a gradient of infinite norm is zero or NaN after it.

    Args:
        policy: "stop" the run, "skip" the step, or "rollback" to a checkpoint.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.n_skipped = 0  # in a row

    def __call__(self, step: Step) -> GuardAction:
        """Apply the policy to a step that is not finite; end the run after too many skips in a row."""
        if step.finite:
            self.n_skipped = 0
            return "go"
        if self.policy == "rollback":
            return "rollback"
        self.n_skipped += 1
        return "skip" if self.policy == "skip" and self.n_skipped <= MAX_SKIPS else "stop"


class LossSpikeGuard:
    """Reports a loss far above the recent ones.

    Args:
        policy: "warn" about the spike, undo it by a "rollback" as well, or "off".
    """

    def __init__(self, policy: str, say: Callable[[str], object]) -> None:
        self.policy, self.say = policy, say

    def __call__(self, step: Step) -> GuardAction:
        """Report a spike and apply the policy."""
        if self.policy == "off" or not is_spike(step.loss, step.recent_losses):
            return "go"
        usual = statistics.median(step.recent_losses)
        self.say(f"notice   loss spike in step {step.number}: {step.loss:.3f}, recent median {usual:.3f}")
        return "rollback" if self.policy == "rollback" else "go"


def is_spike(loss: float, recent: Sequence[float]) -> bool:
    """Return whether a loss is far above the recent ones.

    A loss directly after a spike does not count, so a run that settles at a higher level is reported once.
    """
    if robust_z(loss, recent) <= SPIKE_THRESHOLD:
        return False
    return robust_z(recent[-1], recent[:-1]) <= SPIKE_THRESHOLD


def robust_z(value: float, sample: Sequence[float]) -> float:
    """Return (value - median) / (1.4826 * MAD) of a sample; 0 if the sample is too small.

    The factor makes the median absolute deviation an estimate of a normal distribution's standard deviation (Rousseeuw
    and Croux, 1993). The spread counts as at least 1% of the median, because losses that hardly differ do not show
    which deviations are usual.

    >>> robust_z(5.0, [1.0, 2.0, 3.0] * 8) > 2 > robust_z(3.0, [1.0, 2.0, 3.0] * 8)
    True
    """
    if len(sample) < MIN_LOSSES:
        return 0.0
    median = statistics.median(sample)
    spread = 1.4826 * statistics.median(abs(x - median) for x in sample)
    return (value - median) / max(spread, 0.01 * abs(median), 1e-12)


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


def run_callbacks(callbacks: Sequence[Callback], call: Callable[[Callback], str | None], stop_flag: StopFlag) -> None:
    """Call each callback, and end the run after one that returns "stop"."""
    for callback in callbacks:
        if call(callback) == "stop":
            # The built-in callbacks decide alike on all ranks. One of the caller's need not: it may read a clock.
            if callback.synchronous:
                stop_flag.request("end")
            else:
                stop_flag.stop("stopped")
    if any(callback.synchronous for callback in callbacks):
        stop_flag.agree()


class FunctionCallback(Callback):
    """Calls a function after a step, as `Trainer.every` registers it."""

    def __init__(self, function: Callable[[Step], str | None]) -> None:
        if not callable(function):
            raise ConfigError(f"{repr_short(function)} is not a function; write trainer.every(n, function)")
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
            "memory": max(filter(None, (peak_memory(), self.trainer.memory)), default=None),
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
