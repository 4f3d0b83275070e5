"""Results of the checks as plain values: what failed, what that rules out, and which flag helps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from ..config.choices import OPTIMIZERS

# Increased when a check is added or changed, so that results cached by an earlier version are not used.
VERSION = 3
FORMATS = ("float32", "bfloat16", "float16")
REQUIRED, MUON, COMPILED = "required", "muon", "compiled"  # what a check is needed for


@dataclass(frozen=True)
class Comparison:
    """A result on the device compared with the exact one."""

    error: float
    tolerance: float  # 0: the results must be equal
    where: str  # shapes and names, so that the comparison can be repeated

    @property
    def ratio(self) -> float:
        """Error divided by tolerance: at most 1 if the result is correct."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.tolerance if math.isfinite(self.error) else math.inf


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `Diagnosis.to_dict` writes the fields under these names."""

    case: str  # name of the check
    part: str  # REQUIRED, MUON or COMPILED
    dtype: str
    ok: bool
    checked: bool  # False: there was not enough memory
    error: float | None  # of the comparison with the largest ratio; None if not finite
    tolerance: float | None
    note: str

    @property
    def failed(self) -> bool:
        """True if the device computed something else, or does not have the operation."""
        return self.checked and not self.ok

    @property
    def verdict(self) -> str:
        """Return the result for a table."""
        return "not checked" if not self.checked else "right" if self.ok else "WRONG"


@dataclass(frozen=True)
class Advice:
    """A group of failed checks and what to do about it."""

    name: str  # refuse, adamw, float32 or eager
    because: str
    action: str

    def concerns(self, dtype: str, optimizer: str) -> bool:
        """Return True if a run with these settings depends on the failed checks."""
        if self.name == "float32":
            return dtype == "bfloat16"
        return OPTIMIZERS[optimizer].orthogonalizes if self.name == "adamw" else self.name == "refuse"


@dataclass(frozen=True)
class Diagnosis:
    """The results for one device."""

    device: str
    name: str  # product name
    torch: str
    findings: tuple[CheckResult, ...]
    seconds: float
    version: int = VERSION

    @property
    def advice(self) -> tuple[Advice, ...]:
        """Return what to do about the failed checks, which is to use another device if a required one failed."""
        failed = [result for result in self.findings if result.failed]
        if required := [r for r in failed if r.part == REQUIRED and r.dtype == "float32"]:
            cpu = torch.device(self.device).type == "cpu"
            action = "install another version of torch" if cpu else "use --device cpu"
            return (Advice("refuse", describe(required), action),)
        groups = [
            ("adamw", [r for r in failed if r.part == MUON], "use --optimizer adamw"),
            ("float32", [r for r in failed if r.part == REQUIRED and r.dtype == "bfloat16"], "use --dtype float32"),
            ("eager", [r for r in failed if r.part == COMPILED], "use --compile off"),
        ]
        return tuple(Advice(name, describe(results), action) for name, results, action in groups if results)

    @property
    def safe(self) -> bool:
        """True if every check that float32 training and generation need was run and passed."""
        return all(r.ok for r in self.findings if r.part == REQUIRED and r.dtype == "float32")

    @property
    def sound(self) -> bool:
        """True if every check passed."""
        return all(result.ok for result in self.findings)

    def verdict(self, dtype: str = "", *, compiled: bool = False) -> str:
        """Return "right", "wrong" or "not checked" for a number format, or for compiled training steps."""
        results = [r for r in self.findings if r.dtype.startswith(dtype) and (r.part == COMPILED) == compiled]
        if any(result.failed for result in results):
            return "wrong"
        return "right" if any(result.checked for result in results) else "not checked"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, derived properties included."""
        return {
            **{name: getattr(self, name) for name in ("device", "name", "torch", "version", "seconds", "safe")},
            "formats": {dtype: self.verdict(dtype) for dtype in FORMATS},
            "compile": self.verdict(compiled=True),
            "remedies": [asdict(advice) for advice in self.advice],
            "findings": [asdict(result) for result in self.findings],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Diagnosis":
        """Read what `to_dict` returned. Raises KeyError, TypeError or ValueError for anything else."""
        names = {field.name for field in fields(CheckResult)}
        if any(set(finding) != names for finding in values["findings"]):
            raise ValueError("the results have other fields")
        known = {name: values[name] for name in ("device", "name", "torch", "seconds", "version")}
        return cls(**known, findings=tuple(CheckResult(**finding) for finding in values["findings"]))

    def lines(self) -> list[str]:
        """Return a summary for people: a headline, a line per number format, and what failed."""
        refused = any(advice.name == "refuse" for advice in self.advice)
        verdict = "safe" if self.safe else "NOT SAFE, it computes wrong" if refused else "not known to be safe"
        lines = [f"{self.device} ({self.name}), torch {self.torch}: {verdict}", ""]
        lines += [f"{dtype:10}{self.verdict(dtype)}" for dtype in FORMATS]
        compiled = self.verdict(compiled=True)
        lines.append(f"{'compile':10}{compiled}{'; --compile checks it' * (compiled == 'not checked')}")
        lines += [f"{'wrong':10}{advice.because}; {advice.action}" for advice in self.advice]
        return lines + [f"{'skipped':10}{r.case}: {r.note}" for r in self.findings if not r.checked]


def describe(results: Sequence[CheckResult]) -> str:
    """Name the first failed operation. The checks run from single operations to whole models, so it is the cause."""
    more = f", and {len(results) - 1} more" if len(results) > 1 else ""
    return f"{results[0].case} is wrong ({results[0].note}){more}"
