"""The values of a training run: its counters, a step, steps that wait for a GPU, and the result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..checkpoint import StepState
from ..config import ModelConfig, TrainConfig
from ..data import Batch
from ..observe.step_metrics import StepNorms
from ..runtime import can_gate_updates, training_flops

RECENT_LOSSES = 64  # losses that the next one is compared with to detect a spike
# Cached, because it is the same in every step of a run.
_training_flops = cache(training_flops)
GuardAction = Literal["go", "skip", "stop", "rollback"]  # update; drop this batch; end the run; restore a checkpoint
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


@dataclass(frozen=True)
class Step:
    """An optimizer step. Guards get it before the update, callbacks after it, with all fields set."""

    number: int  # 1, 2, 3, ...
    loss: float  # mean nats per token of the batch, before the update
    grad_norm: float  # global, before clipping
    lr: float
    recent_losses: tuple[float, ...] = ()  # of the updates before this one, the newest last
    tokens: int = 0  # targets trained on so far, this step included
    skipped: bool = False  # a guard kept the update from the weights
    seconds: float = 0.0  # callbacks not counted
    tok_per_sec: float = 0.0
    bits_per_byte: float | None = None  # of the batch's targets; None without our tokenizer
    clipped: bool = False  # the gradient was longer than grad_clip
    grad_norms: Mapping[str, float] = field(default_factory=dict)  # by group (observe/step_metrics.py), before clipping
    weight_norm: float | None = None  # after the update; None without one
    update_ratios: Mapping[str, float] = field(default_factory=dict)  # |w' - w| / |w'| by group
    mfu: float | None = None  # model FLOPs utilisation
    phases: Mapping[str, float] = field(default_factory=dict)  # seconds: data, gradients, update

    @property
    def finite(self) -> bool:
        """True if loss and gradient norm are finite."""
        # x - x is 0 for a finite number and NaN for any other.
        return self.loss - self.loss == 0 and self.grad_norm - self.grad_norm == 0


@dataclass
class PendingStep:
    """A step whose gradients have been computed; its loss and gradient norm may still be on their way from a GPU."""

    before: TrainState
    batch: Batch  # the rows of this rank
    n_targets: float  # of the whole batch
    lr: float
    loss: Tensor  # (), mean nats per token of the whole batch
    grad_norm: Tensor  # (), before clipping
    norms: StepNorms | None  # by group, on the device; those of the update are filled in by the optimizer's step
    times: tuple[float, float, float]  # time.perf_counter() at the start, with the batch, with the gradients
    n_bytes: int | None = None  # UTF-8 bytes of the targets of the whole batch; None if unknown
    step: Step | None = None  # set when the numbers are read
    action: GuardAction | None = None  # set when the guards have run
    reported: bool = False  # set when the callbacks are about to get it

    def read(self, recent_losses: tuple[float, ...]) -> Step:
        """Return the numbers of the step. On a GPU this waits for the device."""
        after = self.before.next(self.n_targets)
        return Step(after.step, float(self.loss), float(self.grad_norm), self.lr, recent_losses, after.tokens)

    def complete(self, step: Step, throughput: Throughput, *, skipped: bool, clip: float) -> Step:
        """Return the step with the fields that are known only after the update, and count it in the throughput.

        Args:
            clip: the norm that the gradient was clipped to.
        """
        started, loaded, computed = self.times
        seconds, norms = throughput.count(self), self.norms
        speed = self.n_targets / seconds
        return replace(
            step,
            skipped=skipped,
            seconds=seconds,
            tok_per_sec=speed,
            bits_per_byte=step.loss * self.n_targets / math.log(2) / self.n_bytes if self.n_bytes else None,
            clipped=step.grad_norm > clip,
            grad_norms=norms.grad_norms() if norms else {},
            weight_norm=norms.weight_norm() if norms and not skipped else None,
            update_ratios=norms.update_ratios() if norms and not skipped else {},
            mfu=throughput.mfu(speed, self.batch.tokens.size(1)),
            phases={
                "data": loaded - started,
                "gradients": computed - loaded,
                "update": max(0.0, seconds - (computed - started)),
            },
        )


class StepQueue:
    """Steps whose numbers have not been read: none, or with a gate at most one.

    Reading a number makes the host wait for the GPU, which then idles until the next kernels arrive. So on CUDA a step
    is read while the next one is running. Until then a gate on the device protects the weights: the fused AdamW takes
    a flag, `found_inf`, and where it is 1 changes no weight, no moment and no step counter.

    Args:
        deferrable: steps may be read late; then the queue is gated where `can_defer` allows it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainConfig, deferrable: bool) -> None:
        self.optimizer, self.gated = optimizer, deferrable and can_defer(optimizer, config.device)
        # A run that stops or rolls back keeps the gate closed after a bad step until `discard`: the step that was
        # started before the bad one was read must not change the weights either.
        self.sticky = config.on_nonfinite != "skip"
        self.found_inf = torch.zeros((), device=config.device)
        self.steps: list[PendingStep] = []

    def push(self, step: PendingStep) -> None:
        """Add a step before its update. With a gate, close it on the device if the step is not finite."""
        self.steps.append(step)
        if self.gated:
            bad = ~(torch.isfinite(step.loss) & torch.isfinite(step.grad_norm))
            bad = bad.to(self.found_inf.dtype)
            self.found_inf = torch.maximum(self.found_inf, bad) if self.sticky else bad
            self.optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]

    def pop(self, *, flush: bool) -> PendingStep | None:
        """Return the next step to read. Without `flush`, a gated queue keeps the newest step back."""
        keep = 1 if self.gated and not flush else 0
        return self.steps.pop(0) if len(self.steps) > keep else None

    def discard(self) -> None:
        """Drop the steps that were started after a bad one, and open the gate."""
        self.steps = []
        self.found_inf = torch.zeros_like(self.found_inf)


def can_defer(optimizer: torch.optim.Optimizer, device: str) -> bool:
    """Return whether updates can be gated on the device: on CUDA, and by the fused AdamW alone."""
    fused = isinstance(optimizer, torch.optim.AdamW) and all(group.get("fused") for group in optimizer.param_groups)
    return fused and can_gate_updates(device)


@dataclass
class Throughput:
    """Time and tokens of the steps of this process, without the time that callbacks take. The tokens are all ranks'."""

    model: ModelConfig
    flops_per_second: float  # measured rate of the matrix products of all ranks' devices
    started: float = field(default_factory=time.perf_counter)  # of the run in this process
    seconds: float = 0.0
    targets: float = 0.0
    steps: int = 0
    callbacks_done: float = 0.0  # time.perf_counter() when the last step's callbacks returned

    def count(self, step: PendingStep) -> float:
        """Add a step. Returns its seconds."""
        # With a queue, this step began before the callbacks of the previous step ran; their time is not counted again.
        seconds = time.perf_counter() - max(step.times[0], self.callbacks_done)
        self.seconds += seconds
        self.targets += step.n_targets
        self.steps += 1
        return seconds

    @property
    def tokens_per_second(self) -> float:
        """Mean over all steps; 0 before the first."""
        return self.targets / self.seconds if self.seconds else 0.0

    def mfu(self, tokens_per_second: float, T: int) -> float:
        """Return the model FLOPs utilisation (Chowdhery et al., 2022): model FLOPs over the measured rate."""
        return tokens_per_second * _training_flops(self.model, T) / self.flops_per_second


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
