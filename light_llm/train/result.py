"""How a run ended, as a value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["done", "interrupted", "stopped", "nonfinite"]


@dataclass(frozen=True)
class Result:
    """What `Trainer.train` returns."""

    status: Status  # done; interrupted from outside; stopped by a listener or guard; nonfinite: nothing more was saved
    step: int
    best_loss: float | None  # nats per token: held out, or training without our loader; None before an evaluation
    best_step: int | None
    folder: Path
    seconds: float  # of this process, evaluation and saving included
    tokens_per_second: float  # of the steps alone
    peak_memory: int | None  # bytes, of the whole process
