"""Where a run stands, as a value: a step replaces it, so that a step can be undone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..checkpoint import StepState


@dataclass(frozen=True)
class Progress:
    """What a checkpoint keeps beside the tensors."""

    step: int = 0  # updates made, skipped ones included
    batches: int = 0  # taken from the loader: the data counter
    tokens: int = 0  # targets trained on
    rollbacks: int = 0  # made so far
    recent: tuple[float, ...] = ()  # losses of the last updates

    def after(self, weight: float) -> Progress:
        """One step and one batch of so many targets later."""
        return replace(self, step=self.step + 1, batches=self.batches + 1, tokens=self.tokens + int(weight))

    @classmethod
    def of(cls, state: StepState) -> Progress:
        """Where a checkpoint was made."""
        return cls(state.step, state.batches, state.tokens, state.rollbacks, state.recent_losses)
