"""The table of checks, and the functions that run it."""

import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ..atomic_io import atomic_write
from ..config.choices import OPTIMIZERS
from ..errors import DeviceError
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir, choose_compile, device_name, is_out_of_memory
from ..runtime.machine_cache import machine_key
from . import models, operations
from .compare import Comparison
from .diagnosis import ADAMW, EAGER, FLOAT32, REFUSE, RIGHT, UNKNOWN, WRONG, CheckResult, Diagnosis

# Increased when a check is added or changed, so that results cached by an earlier version are not used.
VERSION = 4
ProgressFn = Callable[[int, int], None]  # checks done, checks in all


class Check(NamedTuple):
    """Something that a device has to compute correctly."""

    name: str
    function: Callable[[str], Iterable[Comparison]]  # yields nothing on a device that does not have the operation
    dtype: str = "float32"
    remedy: str = REFUSE


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
    Check("fused attention", operations.fused_attention),
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


def check_device(device: str, *, dtype: str = "float32", optimizer: str = "adamw") -> Diagnosis:
    """Run the quick checks, or read their cached results, and refuse a run that depends on one that failed.

    Only results without a failure are cached: a device that failed is checked again, because it may have been fixed.

    Raises:
        DeviceError: a check failed that the run depends on; the message names the flag that helps.
    """
    try:
        diagnosis = Diagnosis.from_dict(load_verified(cache_path(device)))
    except (OSError, ValueError, KeyError, TypeError):  # not checked yet, damaged, or of another version
        diagnosis = quick_check(device)
        if all(result.verdict == RIGHT for result in diagnosis.findings):
            with suppress(OSError):  # a cache that cannot be written costs the checks again
                atomic_write(cache_path(device), dump_with_digest(diagnosis.to_dict()))
    needed = {REFUSE: True, FLOAT32: dtype == "bfloat16", ADAMW: OPTIMIZERS[optimizer].orthogonalizes}
    for advice in diagnosis.advice:
        if needed.get(advice.name):
            raise DeviceError(f"device {device!r} computes wrong: {advice.because}; {advice.action}")
    return diagnosis


def has_cached_check(device: str) -> bool:
    """Return True if `check_device` has cached results for this device, torch, system and table of checks."""
    return cache_path(device).exists()


def cache_path(device: str) -> Path:
    """Return the cache file of a device. Its name is a digest, so that it does not tell the machine's name."""
    key = " | ".join([device, device_name(device), str(VERSION), platform.platform(), machine_key()])
    return cache_dir() / "doctor" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def quick_check(device: str, *, compile: bool = False, progress: ProgressFn | None = None) -> Diagnosis:
    """Run the checks that detect the known faults, in seconds and less than 1 GB. Arguments as of `run_checks`."""
    return run_checks(device, QUICK, compile=compile, progress=progress)


def full_check(device: str, *, compile: bool = False, progress: ProgressFn | None = None) -> Diagnosis:
    """Run all checks: about a minute on a CPU, and 3 GB. Arguments as of `run_checks`."""
    return run_checks(device, FULL, compile=compile, progress=progress)


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
    start, results = time.perf_counter(), []
    if compile:
        choose_compile("on", device)
        checks = (*checks, *COMPILE)
    report = progress or (lambda done, total: None)
    with torch.inference_mode(False), torch.enable_grad():
        for done, check in enumerate(checks):
            report(done, len(checks))
            results += run_check(check, device)
    report(len(checks), len(checks))
    seconds = round(time.perf_counter() - start, 2)
    return Diagnosis(device, device_name(device), torch.__version__, seconds, tuple(results))


def run_check(check: Check, device: str) -> list[CheckResult]:
    """Return the worst comparison of a check; nothing if there was nothing to compare on this device."""
    result = partial(CheckResult, check.name, check.dtype, check.remedy)
    try:
        worst = max(check.function(device), key=lambda comparison: comparison.ratio, default=None)
    except Exception as error:  # whatever a device raises for an operation it cannot do is its result
        message = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if is_out_of_memory(error):
            return [result(UNKNOWN, None, None, f"not enough memory: {message}")]
        return [result(WRONG, None, None, f"fails: {message}")]
    if worst is None:
        return []
    finite, verdict = worst.error < torch.inf, RIGHT if worst.ratio <= 1 else WRONG
    note = worst.where if finite else f"{worst.where}; not a finite number"
    return [result(verdict, worst.error if finite else None, worst.tolerance, note)]
