"""The update itself: judged before it is made, or, where reading a number would make the device wait, gated by it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig, TrainConfig
from ..data import Batch
from ..observe.step_metrics import StepNorms
from ..runtime import can_gate_updates, matmul_rate, training_flops
from .guards import Proposal, Verdict
from .listeners import Step
from .progress import Progress


@dataclass(frozen=True)
class Attempt:
    """A step whose gradients are there, and what it takes to judge it, tell of it and undo it."""

    loss: Tensor  # (), mean nats per token, before the update
    grad_norm: Tensor  # (), before clipping
    lr: float
    batch: Batch
    weight: float  # targets
    before: Progress  # where the run stood without it
    times: tuple[float, float, float]  # time.perf_counter() when it began, had its batch, had its gradients
    measures: StepNorms | None = None  # norms by group, on the device; those of the update come with it

    def proposal(self, recent: tuple[float, ...]) -> Proposal:
        """Its numbers, read: on a GPU this waits until they are there."""
        return Proposal(self.before.step + 1, float(self.loss), float(self.grad_norm), self.lr, recent)


Judged = tuple[Attempt, Proposal, Verdict]
Judge = Callable[[Attempt], tuple[Proposal, Verdict]]


class Update:
    """Reads, judges, and only then changes the weights."""

    def __init__(self, optimizer: torch.optim.Optimizer, judge: Judge) -> None:
        self.optimizer, self.judge = optimizer, judge

    def __call__(self, attempt: Attempt) -> list[Judged]:
        """Make the update if it may be made. Returns what is known by now: here, of this very attempt."""
        proposal, verdict = self.judge(attempt)
        if verdict == "go":
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return [(attempt, proposal, verdict)]

    def settle(self) -> list[Judged]:
        """What is not known yet, waited for."""
        return []

    def forget(self) -> None:
        """Drop what is not known yet: it came after a step that is being undone."""


class LateUpdate(Update):
    """Never waits for the device: whether a step is finite is decided there, and read while the next one runs.

    The fused AdamW takes a flag, `found_inf`, and leaves everything as it is where that is 1: a step that is not finite
    changes no weight, no moment and no counter, whenever it is read. Unless such steps are skipped, the flag stays up:
    what was started before it was read changes nothing either.

    Args:
        sticky: the flag stays up, for a run that stops or goes back.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, judge: Judge, *, device: str, sticky: bool) -> None:
        super().__init__(optimizer, judge)
        self.flag = torch.zeros((), device=device)
        self.sticky = sticky
        self.unread: list[Attempt] = []

    def __call__(self, attempt: Attempt) -> list[Judged]:
        """Make the update, gated. Returns what is known by now: of the attempt before this one."""
        finite = torch.isfinite(attempt.loss) & torch.isfinite(attempt.grad_norm)
        bad = (~finite).to(self.flag.dtype)
        self.flag = torch.maximum(self.flag, bad) if self.sticky else bad
        self.optimizer.found_inf = self.flag  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        known = self.settle()
        self.unread.append(attempt)
        return known

    def settle(self) -> list[Judged]:
        """What is not known yet, waited for."""
        unread, self.unread = self.unread, []
        return [(attempt, *self.judge(attempt)) for attempt in unread]

    def forget(self) -> None:
        """Drop what is not known yet, and lower the flag."""
        self.unread = []
        self.flag = torch.zeros_like(self.flag)


def choose_update(
    optimizer: torch.optim.Optimizer, judge: Judge, config: TrainConfig, *, watched: bool, late: bool | None = None
) -> Update:
    """Gated on a CUDA GPU; read first where that costs nothing, where there is no gate, or where it is watched.

    Args:
        watched: someone else's guard or listener has to see a step before the next one begins.
        late: overrides the device's choice.
    """
    late = can_gate_updates(config.device) if late is None else late
    fused = isinstance(optimizer, torch.optim.AdamW) and all(group.get("fused") for group in optimizer.param_groups)
    if late and fused and not watched:
        return LateUpdate(optimizer, judge, device=config.device, sticky=config.on_nonfinite != "skip")
    return Update(optimizer, judge)


@dataclass(frozen=True)
class Yardstick:
    """What the numbers of a step are held against."""

    grad_clip: float
    model: ModelConfig
    rate: float  # operations a second of the device's products

    @classmethod
    def of(cls, model: ModelConfig, config: TrainConfig) -> "Yardstick":
        """That of a run, its device's rate measured once."""
        return cls(config.grad_clip, model, matmul_rate(config.device, config.dtype))

    def mfu(self, tokens_per_second: float, T: int) -> float:
        """Model FLOPs utilisation (Chowdhery et al., 2022): the share of the rate that goes into the products."""
        return tokens_per_second * training_flops(self.model, T) / self.rate


def step_of(
    attempt: Attempt,
    proposal: Proposal,
    n_bytes: int | None,
    seconds: float,
    yardstick: Yardstick,
    *,
    skipped: bool,
) -> Step:
    """What listeners are told of a step that was made or skipped."""
    after = attempt.before.after(attempt.weight)
    start, read, computed = attempt.times
    measures, speed = attempt.measures, attempt.weight / seconds
    return Step(
        number=after.step,
        loss=proposal.loss,
        bits_per_byte=proposal.loss * attempt.weight / math.log(2) / n_bytes if n_bytes else None,
        grad_norm=proposal.grad_norm,
        lr=proposal.lr,
        tokens=after.tokens,
        seconds=seconds,
        tok_per_sec=speed,
        skipped=skipped,
        clipped=proposal.grad_norm > yardstick.grad_clip,
        grad_norms=measures.grad_norms() if measures else {},
        weight_norm=measures.weight_norm() if measures and not skipped else None,
        update_ratios=measures.update_ratios() if measures and not skipped else {},
        mfu=yardstick.mfu(speed, attempt.batch.tokens.size(1)),
        phases={"data": read - start, "gradients": computed - read, "update": max(0.0, seconds - (computed - start))},
    )
