"""Guards decide before the weights change. A guard is any function from a proposal to a verdict."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError

Verdict = Literal["go", "skip", "stop", "rollback"]  # update; leave this batch out; end the run; back to a checkpoint
VERDICTS = get_args(Verdict)
MOST_SKIPS = 10  # in a row: by then the weights themselves are the problem
REMEMBERED = 64  # losses that the next one is compared with
FEWEST = 16  # losses that say anything about their spread
SPIKE = 8.0  # robust standard deviations


@dataclass(frozen=True)
class Proposal:
    """An update that is about to be made."""

    step: int  # the number it will have: 1, 2, 3, ...
    loss: float  # mean nats per token of the batch
    grad_norm: float  # before clipping
    lr: float
    recent: tuple[float, ...] = ()  # the losses of the updates before it, the last one last

    @property
    def finite(self) -> bool:
        """Whether both numbers are: x - x is 0 for a finite number and NaN for any other."""
        return self.loss - self.loss == 0 and self.grad_norm - self.grad_norm == 0


Guard = Callable[[Proposal], Verdict]


def judge(guards: Sequence[Guard], proposal: Proposal) -> Verdict:
    """What the guards say; the first that objects decides. Raises ConfigError for an answer that is no verdict."""
    for guard in guards:
        verdict = guard(proposal)
        if verdict not in VERDICTS:
            raise ConfigError(f"a guard answered {verdict!r}; it must answer {', '.join(VERDICTS)}")
        if verdict != "go":
            return verdict
    return "go"


class OnlyFinite:
    """A loss or gradient that is not finite never reaches the weights: stop, skip the step, or go back.

    A clipped gradient of infinite norm is zero or NaN, so clipping is no protection.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.skipped = 0  # in a row

    def __call__(self, proposal: Proposal) -> Verdict:
        if proposal.finite:
            self.skipped = 0
            return "go"
        if self.policy == "rollback":
            return "rollback"
        self.skipped += 1
        return "skip" if self.policy == "skip" and self.skipped <= MOST_SKIPS else "stop"


class NoSpikes:
    """A loss far above those before it is said, and with the policy `rollback` undone; `off` looks away."""

    def __init__(self, policy: str, say: Callable[[str], object]) -> None:
        self.policy, self.say = policy, say

    def __call__(self, proposal: Proposal) -> Verdict:
        if self.policy == "off" or not is_spike(proposal.loss, proposal.recent):
            return "go"
        usual = statistics.median(proposal.recent)
        self.say(f"notice   a loss of {proposal.loss:.3f} in step {proposal.step}, where {usual:.3f} is usual: a spike")
        return "rollback" if self.policy == "rollback" else "go"


def is_spike(loss: float, recent: Sequence[float]) -> bool:
    """Whether a loss jumps out of those before it; one that follows a spike is none, so a new level is said once."""
    if robust_z(loss, recent) <= SPIKE:
        return False
    return robust_z(recent[-1], recent[:-1]) <= SPIKE


def robust_z(value: float, others: Sequence[float]) -> float:
    """How far a value lies above the median of others, in standard deviations as their median deviation tells them.

    1.4826 makes the median absolute deviation that of a normal distribution (Rousseeuw and Croux, 1993). A spread below
    1% of the median counts as that: losses that hardly differ say nothing of what is usual. Too few others: 0.

    >>> robust_z(5.0, [1.0, 2.0, 3.0] * 8) > 2 > robust_z(3.0, [1.0, 2.0, 3.0] * 8)
    True
    """
    if len(others) < FEWEST:
        return 0.0
    middle = statistics.median(others)
    spread = 1.4826 * statistics.median(abs(x - middle) for x in others)
    return (value - middle) / max(spread, 0.01 * abs(middle), 1e-12)
