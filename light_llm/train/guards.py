"""Guards decide about an update before it changes the weights. A guard is a function from a Step to a GuardAction."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..data import Batch
from ..errors import ConfigError
from ..objective import NextTokenLoss
from ..runtime import autocast, rng_state, set_rng_state
from .step import GuardAction, Step

GUARD_ACTIONS = get_args(GuardAction)
MAX_SKIPS = 10  # in a row: after that many the weights themselves are the problem, not the batches
MIN_LOSSES = 16  # fewer losses do not show their spread
SPIKE_THRESHOLD = 8.0  # robust standard deviations
NOT_REPRODUCED = "nothing"  # how the description begins if repeating the step gives finite numbers

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
        self.say(f"notice   a loss of {step.loss:.3f} in step {step.number}, where {usual:.3f} is usual: a spike")
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


def find_nonfinite(objective: NextTokenLoss, batch: Batch, config: TrainConfig) -> str:
    """Repeat a step, one micro-batch at a time, and describe the first tensor that is not finite."""
    size = config.micro_batch or len(batch.tokens)
    for tokens, targets in zip(*(part.split(size) for part in batch), strict=True):
        place = first_nonfinite(objective, tokens, targets, device=config.device, dtype=config.dtype)
        if not place.startswith(NOT_REPRODUCED):
            break
    return place


def first_nonfinite(objective: NextTokenLoss, tokens: Tensor, targets: Tensor, *, device: str, dtype: str) -> str:
    """Describe the first tensor that is not finite: weights, then outputs in forward order, loss, gradients.

    Runs an uncompiled forward and backward pass. Restores the random generators and leaves no gradients.

    Args:
        tokens, targets: (B, T), the batch or a part that fits into memory.
    """
    model = objective.model
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights of {name}, before the step"
    bad_outputs: list[str] = []

    def check_output(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not bad_outputs and isinstance(output, Tensor) and not output.isfinite().all():
                bad_outputs.append(name)

        return hook

    rng = rng_state(device)
    # The root module is left out: its output is the last layer's, which has the better name.
    hooks = [m.register_forward_hook(check_output(name)) for name, m in model.named_modules() if name]
    try:
        model.zero_grad(set_to_none=True)
        # `forward` and not a call, because hooks do not run inside a compiled graph.
        with autocast(device, dtype):
            loss = objective.forward(tokens.to(device), targets.to(device))
        if bad_outputs:
            return f"the output of {bad_outputs[0]}"
        if not loss.isfinite():
            return "the loss: the logits are too large for their sum of exponentials, or not finite"
        loss.backward()
        return _first_nonfinite_gradient(model)
    finally:
        for handle in hooks:
            handle.remove()
        model.zero_grad(set_to_none=True)
        set_rng_state(rng, device)


def _first_nonfinite_gradient(model: nn.Module) -> str:
    """Describe the first gradient that is not finite, in the order of the backward pass."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, gradient in reversed(named):
        if not gradient.isfinite().all():
            return f"the gradient of {name}"
    if not torch.stack([gradient.norm() for _, gradient in named]).norm().isfinite():
        return "the norm of the gradient: each part of it is finite, and too large"
    return f"{NOT_REPRODUCED} when the step is made again: the numbers differ from one time to the next on this device"
