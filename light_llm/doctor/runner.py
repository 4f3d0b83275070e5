"""The table of checks, and the functions that run it."""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..atomic_io import atomic_write
from ..errors import DeviceError
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir, choose_compile, device_name, is_out_of_memory
from ..runtime.machine_cache import machine_key
from . import models, operations
from .diagnosis import COMPILED, MUON, REQUIRED, VERSION, CheckResult, Comparison, Diagnosis

ProgressFn = Callable[[int, int, str], None]  # checks done, checks in all, name of the next one


@dataclass(frozen=True)
class Check:
    """Something that a device has to compute correctly."""

    name: str
    function: Callable[..., Iterable[Comparison]]  # yields nothing on a device that does not have the operation
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    part: str = REQUIRED


def low_precision(dtype: str) -> tuple[Check, ...]:
    """Return the checks of bfloat16 or float16."""
    options = {"dtype": dtype}
    return (
        Check(f"long sums, {dtype}", operations.long_sums, options, dtype),
        Check(f"attention, {dtype}", operations.attention, options, dtype),
        Check(f"training step, {dtype}", models.training_step, options | {"shapes": ((9, 7),)}, dtype),
    )


# From single operations to whole models: the first check that fails names the cause.
QUICK = (
    Check("linear", operations.linear),
    Check("softmax", operations.softmax),
    Check("LayerNorm", operations.norm, {"function": operations.LAYER_NORM}),
    Check("RMSNorm", operations.norm, {"function": operations.RMS_NORM}),
    Check("GELU", operations.activations, {"functions": operations.GELU}),
    Check("gates", operations.activations, {"functions": operations.GATES}),
    Check("rotation", operations.rotation),
    Check("embedding", operations.embedding),
    Check("lerp", operations.lerp, part=MUON),
    Check("attention", operations.attention),
    Check("fused attention", operations.fused_attention),
    Check("masked attention", operations.masked_attention),
    Check("save and load", operations.save_and_load),
    Check("training step", models.training_step),
    Check("AdamW", models.optimizer_steps, {"optimizer": "adamw"}),
    Check("Muon", models.optimizer_steps, {"optimizer": "muon"}, part=MUON),
    Check("cache", models.cached_forward),
    Check("greedy", models.greedy),
    Check("sampling", models.sampled),
    *low_precision("bfloat16"),
)
FULL = (
    *QUICK,
    Check("training step, more", models.training_step, {"shapes": models.MORE_STEPS}),
    *low_precision("float16"),
)
STEP = {"shapes": ((9, 7),), "compile": True}
COMPILE = tuple(
    Check(f"compiled, {dtype}", models.training_step, STEP | {"dtype": dtype}, dtype, COMPILED)
    for dtype in ("float32", "bfloat16")
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
        if diagnosis.sound:
            with suppress(OSError):  # a cache that cannot be written costs the checks again
                atomic_write(cache_path(device), dump_with_digest(diagnosis.to_dict()))
    for advice in diagnosis.advice:
        if advice.concerns(dtype, optimizer):
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
    with torch.inference_mode(False), torch.enable_grad():
        for done, check in enumerate(checks):
            if progress is not None:
                progress(done, len(checks), check.name)
            result = run_check(check, device)
            results += [result] if result else []
    if progress is not None:
        progress(len(checks), len(checks), "")
    seconds = round(time.perf_counter() - start, 2)
    return Diagnosis(device, device_name(device), torch.__version__, tuple(results), seconds)


def run_check(check: Check, device: str) -> CheckResult | None:
    """Return the worst comparison of a check; None if there was nothing to compare on this device."""
    ok, checked, error, limit = False, True, None, None
    try:
        worst = max(check.function(device, **check.options), key=lambda comparison: comparison.ratio, default=None)
        if worst is None:
            return None
        ok, limit, note = worst.ratio <= 1, worst.tolerance, worst.where
        if math.isfinite(worst.error):
            error = worst.error
        else:
            note += "; not a finite number"
    except Exception as caught:  # whatever a device raises for an operation it cannot do is its result
        message = (str(caught).strip() or type(caught).__name__).splitlines()[0][:200]
        checked = not is_out_of_memory(caught)
        note = f"fails: {message}" if checked else f"not enough memory: {message}"
    return CheckResult(check.name, check.part, check.dtype, ok, checked, error, limit, note)
