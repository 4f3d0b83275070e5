"""What the findings about a device mean: what is safe, and what is done about the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .remedies import REFUSE, Remedy, remedies_for
from .values import COMPILED, Finding

# Raised when a case is added or changed: what is remembered of a device is then found out anew.
VERSION = 2


@dataclass(frozen=True)
class Diagnosis:
    """What is safe on a device, what is not, and what is done about it."""

    device: str
    name: str  # what the device is called
    torch: str
    findings: tuple[Finding, ...]
    seconds: float
    version: int = VERSION

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What has to be done differently here; none on a sound device."""
        return remedies_for(self.device, self.findings)

    @property
    def refused(self) -> bool:
        """Whether something is wrong that nothing helps against."""
        return any(remedy.name == REFUSE for remedy in self.remedies)

    @property
    def safe(self) -> bool:
        """Whether light-llm computes right here, with the remedies in place; False too where that is not known."""
        needed = [f for f in self.findings if f.dtype == "float32" and f.part != COMPILED]
        return not self.refused and all(f.checked or f.ok for f in needed)

    @property
    def sound(self) -> bool:
        """Whether everything was checked and right, and nothing has to be done differently."""
        return all(finding.ok for finding in self.findings)

    def of_format(self, dtype: str) -> str:
        """A number format: right, wrong, right with a remedy, or not checked. A compiled model is no part of it."""
        word = _in_a_word([f for f in self.findings if f.dtype == dtype and f.part != COMPILED])
        remedied = word == "wrong" and dtype == "float32" and not self.refused
        return "right with a remedy" if remedied else word

    @property
    def compiled(self) -> str:
        """Of the compiled model: right, wrong or not checked."""
        return _in_a_word([f for f in self.findings if f.part == COMPILED])

    def remedy(self, name: str) -> Remedy | None:
        """The remedy of that name, where it is needed."""
        return next((remedy for remedy in self.remedies if remedy.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. What follows from the findings stands there too, for whoever reads it."""
        return {
            **{name: getattr(self, name) for name in ("device", "name", "torch", "version", "seconds", "safe")},
            "formats": {dtype: self.of_format(dtype) for dtype in ("float32", "bfloat16", "float16")},
            "compile": self.compiled,
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "findings": [asdict(finding) for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Diagnosis:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        findings = tuple(_finding(found) for found in values["findings"])
        names = ("device", "name", "torch", "seconds", "version")
        return cls(**{name: values[name] for name in names}, findings=findings)


def _finding(values: Mapping[str, Any]) -> Finding:
    known = {field.name for field in fields(Finding)}
    if set(values) != known:
        raise ValueError("no finding of this version")
    return Finding(**values)


def _in_a_word(found: list[Finding]) -> str:
    if any(f.wrong for f in found):
        return "wrong"
    return "right" if any(f.checked for f in found) else "not checked"
