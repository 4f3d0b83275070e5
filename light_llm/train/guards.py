"""Guards decide before the weights change. A guard is any function from a proposal to a verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["go", "skip", "stop"]  # update; leave this batch out; end the run before this update
VERDICTS = get_args(Verdict)


@dataclass(frozen=True)
class Proposal:
    """An update that is about to be made."""

    step: int  # the number it will have: 1, 2, 3, ...
    loss: float  # mean nats per token of the batch
    grad_norm: float  # before clipping
    lr: float

    @property
    def finite(self) -> bool:
        """Whether both numbers are: x - x is 0 for a finite number and NaN for any other."""
        return self.loss - self.loss == 0 and self.grad_norm - self.grad_norm == 0


Guard = Callable[[Proposal], Verdict]

MOST_SKIPS = 10  # in a row: by then the weights themselves are the problem


class OnlyFinite:
    """A loss or gradient that is not finite never reaches the weights: the run stops, or the step is skipped.

    A clipped gradient of infinite norm is zero or NaN, so clipping is no protection.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.skipped = 0  # in a row

    def __call__(self, proposal: Proposal) -> Verdict:
        if proposal.finite:
            self.skipped = 0
            return "go"
        self.skipped += 1
        return "skip" if self.policy == "skip" and self.skipped <= MOST_SKIPS else "stop"
