"""Results of the checks as plain values: what failed, and which flag avoids it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FORMATS = ("float32", "bfloat16", "float16")
RIGHT, WRONG, UNKNOWN = "right", "wrong", "not checked"  # unknown: there was not enough memory
# Names of what to do if a check fails.
REFUSE, ADAMW, FLOAT32, EAGER = "refuse", "adamw", "float32", "eager"
ACTIONS = {
    REFUSE: "use --device cpu",
    ADAMW: "use --optimizer adamw",
    FLOAT32: "use --dtype float32",
    EAGER: "use --compile off",
}


class CheckResult(NamedTuple):
    """The result of one check. `Diagnosis.to_dict` writes the fields under these names."""

    case: str  # name of the check
    dtype: str
    remedy: str  # a key of ACTIONS, or "" if no run depends on the check
    verdict: str
    error: float | None  # of the comparison with the largest ratio; None if not finite
    tolerance: float | None
    note: str


class Advice(NamedTuple):
    """A group of failed checks and what to do about it."""

    name: str  # a key of ACTIONS
    because: str
    action: str


@dataclass(frozen=True)
class Diagnosis:
    """The results for one device."""

    device: str
    name: str  # product name
    torch: str
    seconds: float
    findings: tuple[CheckResult, ...]

    @property
    def advice(self) -> list[Advice]:
        """Return what to do about the failed checks, which is to use another device if a required one failed."""
        advice = []
        for name, action in ACTIONS.items():
            if failed := [r for r in self.findings if r.remedy == name and r.verdict == WRONG]:
                if self.device == "cpu" and name == REFUSE:
                    action = "install another version of torch"
                # The checks run from single operations to whole models, so the first failed one is the cause.
                more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
                advice.append(Advice(name, f"{failed[0].case} is wrong ({failed[0].note}){more}", action))
        return advice[:1] if advice and advice[0].name == REFUSE else advice

    @property
    def safe(self) -> bool:
        """True if every check that float32 training and generation need was run and passed."""
        return all(r.verdict == RIGHT for r in self.findings if r.remedy == REFUSE)

    def verdict(self, name: str) -> str:
        """Return RIGHT, WRONG or UNKNOWN for a number format, or for "compile": compiled training steps."""
        verdicts = {r.verdict for r in self.findings if ("compile" if r.remedy == EAGER else r.dtype) == name}
        return next((verdict for verdict in (WRONG, RIGHT) if verdict in verdicts), UNKNOWN)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, derived properties included."""
        return asdict(self) | {
            "safe": self.safe,
            "formats": {dtype: self.verdict(dtype) for dtype in FORMATS},
            "compile": self.verdict("compile"),
            "remedies": [advice._asdict() for advice in self.advice],
            "findings": [result._asdict() for result in self.findings],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Diagnosis":
        """Read what `to_dict` returned. Raises KeyError or TypeError for anything else."""
        known = {name: values[name] for name in ("device", "name", "torch", "seconds")}
        return cls(**known, findings=tuple(CheckResult(**result) for result in values["findings"]))

    def lines(self) -> list[str]:
        """Return a summary for people: a headline, a line per number format and per check, and what failed."""
        verdict = "safe" if self.safe else "not known to be safe"
        verdict = "NOT SAFE, it computes wrong" if any(a.name == REFUSE for a in self.advice) else verdict
        lines = [f"{self.device} ({self.name}), torch {self.torch}: {verdict}", ""]
        lines += [f"{name:10}{self.verdict(name)}" for name in (*FORMATS, "compile")]
        lines += [f"{'wrong':10}{advice.because}; {advice.action}" for advice in self.advice]
        lines += ["", f"{'check':26}{'format':10}{'error':>8} {'allowed':>8}  verdict"]
        for r in self.findings:
            error, tolerance = ("-" if x is None else f"{x:.2g}" for x in (r.error, r.tolerance))
            note = f": {r.note}" if r.verdict == UNKNOWN else ""
            verdict = r.verdict.upper() if r.verdict == WRONG else r.verdict
            lines.append(f"{r.case:26}{r.dtype:10}{error:>8} {tolerance:>8}  {verdict}{note}")
        return lines
