"""What is checked and what was found: plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .subject import Subject

# What a case is about, which decides what helps where it is wrong.
OPERATION = "operation"  # one operation of torch
ATTENTION = "attention"  # the quick ways
FORMULA = "formula"  # attention as written
MODEL = "model"  # logits, loss and gradients of a whole model
ADAMW = "adamw"  # the fused update
PLAIN_ADAMW = "plain adamw"
MUON = "muon"
WRITING = "writing"  # cache, decoding, sampling
KEEPING = "keeping"  # to a file and back
COMPILED = "compiled"


@dataclass(frozen=True)
class Measured:
    """One comparison with the exact result."""

    error: float
    tolerance: float
    where: str  # shapes, names: what a person needs to see it again

    @property
    def ratio(self) -> float:
        """Error over tolerance: right up to 1. A tolerance of 0 wants equality."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.tolerance if math.isfinite(self.error) else math.inf


@dataclass(frozen=True)
class Case:
    """Something a device has to compute right."""

    name: str
    operation: str  # in plain words
    measure: Callable[[Subject], Iterable[Measured]]  # nothing: it does not concern this device
    part: str = OPERATION
    dtype: str = "float32"
    large: bool = False  # needs more memory than light-llm ever does: no harm where there is not so much


@dataclass(frozen=True)
class Finding:
    """What came of a case."""

    case: str
    operation: str
    part: str
    dtype: str
    ok: bool
    checked: bool  # False: there was not enough memory
    error: float | None  # the one nearest to its tolerance or farthest beyond; None: no number
    tolerance: float | None
    note: str

    @property
    def wrong(self) -> bool:
        """It was computed, and not right; or the device has no such operation."""
        return self.checked and not self.ok

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "not checked" if not self.checked else "right" if self.ok else "WRONG"
