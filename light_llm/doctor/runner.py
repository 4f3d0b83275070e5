"""The table of checks, the functions that run it, and the results as plain values: what failed, what to do about it."""

import hashlib
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..atomic_io import atomic_write
from ..config.choices import OPTIMIZERS
from ..errors import DeviceError, mark_options
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir, choose_compile, device_name, is_out_of_memory
from ..runtime.machine_cache import machine_key
from . import models, operations
from .compare import Comparison

FORMATS = ("float32", "bfloat16", "float16")
# Verdicts, as they are stored in JSON, and how they are shown. Not checked: there was not enough memory.
RIGHT, WRONG, UNKNOWN = "right", "wrong", "not checked"
SHOWN = {RIGHT: "passed", WRONG: "FAILED", UNKNOWN: UNKNOWN}
# What to do if a check fails. A run that needs no more than float32 and AdamW depends on the checks with OTHER_DEVICE.
OTHER_DEVICE, OTHER_TORCH = "use --device cpu", "install another version of torch"
ADAMW, FLOAT32, EAGER = "use --optimizer adamw", "use --dtype float32", "use --compile off"


class CheckResult(NamedTuple):
    """The result of one check. `Diagnosis.to_dict` writes the fields under these names."""

    case: str  # name of the check
    dtype: str
    remedy: str  # what to do if it failed, or "" if no run depends on the check
    verdict: str
    error: float | None  # of the comparison with the largest ratio; None if not finite
    tolerance: float | None
    note: str


class Advice(NamedTuple):
    """A group of failed checks and what to do about it."""

    because: str
    action: str


@dataclass(frozen=True)
class Diagnosis:
    """The results for one device."""

    device: str
    name: str  # product name
    torch: str
    findings: tuple[CheckResult, ...]

    @property
    def advice(self) -> list[Advice]:
        """Return what to do about the failed checks, which is to use another device if a required one failed."""
        advice = []
        for action in (OTHER_DEVICE, ADAMW, FLOAT32, EAGER):
            if failed := [r for r in self.findings if r.remedy == action and r.verdict == WRONG]:
                # The checks run from single operations to whole models, so the first failed one is the cause.
                more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
                because = f"the check of {failed[0].case} failed ({failed[0].note}){more}"
                if action == OTHER_DEVICE:
                    return [Advice(because, OTHER_TORCH if self.device == "cpu" else OTHER_DEVICE)]
                advice.append(Advice(because, action))
        return advice

    @property
    def safe(self) -> bool:
        """True if every check that float32 training and generation need was run and passed."""
        return all(r.verdict == RIGHT for r in self.findings if r.remedy == OTHER_DEVICE)

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
        known = {name: values[name] for name in ("device", "name", "torch")}
        return cls(**known, findings=tuple(CheckResult(**result) for result in values["findings"]))

    def lines(self) -> list[str]:
        """Return a summary for people: a headline, a line per number format and per check, and what failed."""
        required = {r.verdict for r in self.findings if r.remedy == OTHER_DEVICE}
        unsafe = "NOT SAFE: it computes wrong results" if WRONG in required else "not known to be safe"
        lines = [f"{self.device} ({self.name}), torch {self.torch}: {'safe' if self.safe else unsafe}", ""]
        lines += [f"{name:10}{SHOWN[self.verdict(name)]}" for name in (*FORMATS, "compile")]
        lines += [f"{'problem':10}{advice.because}; {advice.action}" for advice in self.advice]
        lines += ["", f"{'check':26}{'format':10}{'error':>8} {'tolerance':>9}  result"]
        for r in self.findings:
            error, tolerance = ("-" if x is None else f"{x:.2g}" for x in (r.error, r.tolerance))
            note = f": {r.note}" if r.verdict == UNKNOWN else ""
            lines.append(f"{r.case:26}{r.dtype:10}{error:>8} {tolerance:>9}  {SHOWN[r.verdict]}{note}")
        return lines


# Increased when a check is added or changed, so that results cached by an earlier version are not used.
VERSION = 5
ProgressFn = Callable[[int, int], None]  # checks done, checks in all


class Check(NamedTuple):
    """Something that a device has to compute correctly."""

    name: str
    function: Callable[[str], Iterable[Comparison]]  # yields nothing on a device that does not have the operation
    dtype: str = "float32"
    remedy: str = OTHER_DEVICE


def low_precision(dtype: str, remedy: str) -> tuple[Check, ...]:
    """Return the checks of bfloat16 or float16."""
    step = partial(models.training_step, shapes=((9, 7),), dtype=dtype)
    return (
        Check(f"long sums, {dtype}", partial(operations.long_sums, dtype=dtype), dtype, remedy),
        Check(f"attention, {dtype}", partial(operations.attention, dtype=dtype), dtype, remedy),
        Check(f"training step, {dtype}", step, dtype, remedy),
    )


# From single operations to whole models: the first check that fails names the cause.
QUICK = (
    Check("linear", operations.linear),
    Check("softmax", operations.softmax),
    Check("LayerNorm", partial(operations.norm, function=operations.LAYER_NORM)),
    Check("RMSNorm", partial(operations.norm, function=operations.RMS_NORM)),
    Check("GELU", partial(operations.activation, function=operations.GELU)),
    Check("SiLU", partial(operations.activation, function=torch.nn.functional.silu)),
    Check("squared ReLU", partial(operations.activation, function=operations.SQUARED_RELU)),
    Check("rotation", operations.rotation),
    Check("embedding", operations.embedding),
    Check("lerp", operations.lerp, remedy=ADAMW),
    Check("attention", operations.attention),
    Check("fused attention", partial(operations.attention, function=operations.fused_attention)),
    Check("save and load", operations.save_and_load),
    Check("training step", models.training_step),
    Check("AdamW", partial(models.optimizer_steps, optimizer="adamw")),
    Check("Muon", partial(models.optimizer_steps, optimizer="muon"), remedy=ADAMW),
    Check("cache", models.cached_forward),
    Check("sampling", models.sampled),
    *low_precision("bfloat16", FLOAT32),
)
FULL = (
    *QUICK,
    Check("training step, more", partial(models.training_step, shapes=models.MORE_STEPS)),
    *low_precision("float16", ""),
)
COMPILE = tuple(
    Check(f"compiled, {d}", partial(models.training_step, shapes=((9, 7),), dtype=d, compile=True), d, EAGER)
    for d in ("float32", "bfloat16")
)


def check_device(
    device: str, *, dtype: str = "float32", optimizer: str = "adamw", progress: ProgressFn | None = None
) -> Diagnosis:
    """Run the quick checks, or read their cached results, and refuse a run that depends on one that failed.

    Only results without a failure are cached: a device that failed is checked again, because it may have been fixed.

    Args:
        progress: as for `run_checks`.

    Raises:
        DeviceError: a check failed that the run depends on; the message names the flag that helps.
    """
    try:
        diagnosis = Diagnosis.from_dict(load_verified(cache_path(device)))
    except (OSError, ValueError, KeyError, TypeError):  # not checked yet, damaged, or of another version
        diagnosis = quick_check(device, progress=progress)
        if all(result.verdict == RIGHT for result in diagnosis.findings):
            with suppress(OSError):  # a cache that cannot be written costs the checks again
                atomic_write(cache_path(device), dump_with_digest(diagnosis.to_dict()))
    unneeded = {EAGER} | ({FLOAT32} if dtype == "float32" else set())
    unneeded |= set() if OPTIMIZERS[optimizer].orthogonalizes else {ADAMW}
    for advice in diagnosis.advice:
        if advice.action not in unneeded:
            action = mark_options(advice.action)
            raise DeviceError(f"device {device!r} computes wrong results: {advice.because}; {action}")
    return diagnosis


def has_cached_check(device: str) -> bool:
    """Return True if `check_device` has cached results for this device, torch, system and table of checks."""
    return cache_path(device).exists()


def cache_path(device: str) -> Path:
    """Return the cache file of a device. Its name is a digest, so that it does not tell the machine's name."""
    key = " | ".join([device, device_name(device), str(VERSION), platform.platform(), machine_key()])
    return cache_dir() / "doctor" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def run_checks(
    device: str, checks: Sequence[Check], *, compile: bool = False, progress: ProgressFn | None = None
) -> Diagnosis:
    """Run some checks. Errors of the device become results; generators and grad modes are left alone.

    Args:
        compile: also check the compiled training step, which takes a minute.
        progress: called before each check, and at the end.

    Raises:
        DeviceError: `compile` without a compiler.
    """
    results: list[CheckResult] = []
    if compile:
        choose_compile("on", device)
        checks = (*checks, *COMPILE)
    report = progress or (lambda done, total: None)
    with torch.inference_mode(False), torch.enable_grad():
        for done, check in enumerate(checks):
            report(done, len(checks))
            results += run_check(check, device)
    report(len(checks), len(checks))
    return Diagnosis(device, device_name(device), torch.__version__, tuple(results))


# In seconds and less than 1 GB, those that detect the known faults; in about a minute on a CPU and 3 GB, all of them.
quick_check, full_check = partial(run_checks, checks=QUICK), partial(run_checks, checks=FULL)


def run_check(check: Check, device: str) -> list[CheckResult]:
    """Return the worst comparison of a check; nothing if there was nothing to compare on this device."""
    result = partial(CheckResult, check.name, check.dtype, check.remedy)
    try:
        worst = max(check.function(device), key=lambda comparison: comparison.ratio, default=None)
    except Exception as error:  # an operation that the device does not have is its result
        message = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if is_out_of_memory(error):
            return [result(UNKNOWN, None, None, f"not enough memory: {message}")]
        return [result(WRONG, None, None, f"error: {message}")]
    if worst is None:
        return []
    finite, verdict = worst.error < torch.inf, RIGHT if worst.ratio <= 1 else WRONG
    note = worst.where if finite else f"{worst.where}; not a finite number"
    return [result(verdict, worst.error if finite else None, worst.tolerance, note)]
