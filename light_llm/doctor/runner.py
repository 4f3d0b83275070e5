"""The table of checks, and the functions that run it."""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..atomic_io import atomic_write
from ..errors import DeviceError
from ..json_io import dump_with_digest, load_verified
from ..layers.attention import attend
from ..runtime import cache_dir, choose_compile, device_name, is_out_of_memory
from ..runtime.machine_cache import machine_key
from . import models, operations
from .diagnosis import COMPILED, MUON, REQUIRED, VERSION, CheckResult, Comparison, Diagnosis

ProgressFn = Callable[[int, int, str], None]  # checks done, checks in all, name of the next one


@dataclass(frozen=True)
class Check:
    """Something that a device has to compute correctly."""

    name: str
    operation: str  # in words, for messages
    run: Callable[[str], Iterable[Comparison]]  # yields nothing on a device that does not have the operation
    dtype: str = "float32"
    part: str = REQUIRED


def low_precision(name: str) -> tuple[Check, ...]:
    """Return the checks of bfloat16 or float16."""
    dtype = getattr(torch, name)
    attention = partial(operations.causal_attention, attention=attend, dtype=dtype)
    forward = partial(models.forward, shapes=((1, 1), (9, 7)), dtype=name)
    step = partial(models.training_step, shapes=((9, 7),), dtype=name)
    return (
        Check(f"long sums, {name}", f"a matrix product in {name}", partial(operations.long_sums, dtype=dtype), name),
        Check(f"attention, {name}", f"attention in {name}", attention, name),
        Check(f"forward, {name}", f"the forward pass in {name}", forward, name),
        Check(f"training step, {name}", f"a gradient in {name}", step, name),
    )


MORE = operations.MORE_ATTENTION_SHAPES
# From single operations to whole models: the first check that fails names the cause.
QUICK = (
    Check("linear", "linear, x W^T + b,", operations.linear),
    Check("linear, strided", "linear of inputs that are not contiguous", operations.strided_linear),
    Check("matmul", "batched matrix products", operations.matmul),
    Check("softmax", "softmax", operations.softmax),
    Check("layer norm", "layer norm", operations.layer_norm),
    Check("RMSNorm", "RMSNorm", operations.rmsnorm),
    Check("GELU", "GELU", partial(operations.activations, functions=operations.GELU)),
    Check("gates", "a gated MLP", partial(operations.activations, functions=operations.GATES)),
    Check("rotation", "the rotation of queries and keys", operations.rotation),
    Check("embedding", "embedding", operations.embedding),
    Check("lerp", "lerp, the moving average of an optimizer,", operations.lerp, part=MUON),
    Check(
        "fused attention",
        "the fused attention kernel",
        partial(operations.causal_attention, attention=operations.fused_causal),
    ),
    Check("block attention", "attention by blocks of queries", operations.block_attention),
    Check("masked attention", "attention on a cache and under a mask", operations.masked_attention),
    Check("packed linear", "a product with packed weights", partial(operations.packed_linear, dtype=torch.float32)),
    Check("save and load", "saving and loading", operations.save_and_load),
    Check("forward", "the forward pass", models.forward),
    Check("training step", "a gradient", models.training_step),
    Check("AdamW", "the fused update of AdamW", partial(models.optimizer_steps, optimizer="adamw")),
    Check("Muon", "the update of Muon", partial(models.optimizer_steps, optimizer="muon"), part=MUON),
    Check("cache", "logits on a cache", models.cached_forward),
    Check("greedy", "greedy decoding", models.greedy),
    Check("sampling", "sampling", models.sampled),
    *low_precision("bfloat16"),
    Check(
        "packed linear, bfloat16",
        "a product with packed weights in bfloat16",
        partial(operations.packed_linear, dtype=torch.bfloat16),
        "bfloat16",
    ),
)
FULL = (
    *QUICK,
    Check(
        "fused attention, more",
        "the fused attention kernel",
        partial(operations.causal_attention, attention=operations.fused_causal, shapes=MORE),
    ),
    Check("block attention, more", "attention by blocks of queries", partial(operations.block_attention, shapes=MORE)),
    Check("forward, large", "the forward pass of large batches", partial(models.forward, shapes=models.LARGE)),
    Check("training step, more", "a gradient", partial(models.training_step, shapes=models.LARGE_STEPS)),
    *low_precision("float16"),
)
COMPILE = tuple(
    Check(
        f"compiled, {dtype}",
        f"the compiled step in {dtype}",
        partial(models.training_step, shapes=((9, 7),), dtype=dtype, compile=True),
        dtype,
        COMPILED,
    )
    for dtype in ("float32", "bfloat16")
)


def check_device(device: str, *, dtype: str = "float32", optimizer: str = "adamw") -> Diagnosis:
    """Run the quick checks, or read their cached results, and refuse what a run needs and the device gets wrong.

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
    """Run the checks that detect the known faults, in seconds and less than 1 GB.

    Args:
        device: as `choose_device` names it.
        compile: also check the compiled training step, which takes a minute.
        progress: called before each check, and at the end.

    Raises:
        DeviceError: `compile` without a compiler.
    """
    return run_checks(device, with_compile(QUICK, device, compile), progress=progress)


def full_check(device: str, *, compile: bool = False, progress: ProgressFn | None = None) -> Diagnosis:
    """Run all checks: about a minute on a CPU, and 3 GB. Arguments and errors as of `quick_check`."""
    return run_checks(device, with_compile(FULL, device, compile), progress=progress)


def with_compile(checks: tuple[Check, ...], device: str, compile: bool) -> tuple[Check, ...]:
    """Append the checks of the compiled step if asked to. Raises DeviceError if there is no compiler."""
    if not compile:
        return checks
    choose_compile("on", device)
    return checks + COMPILE


def run_checks(device: str, checks: Sequence[Check], *, progress: ProgressFn | None = None) -> Diagnosis:
    """Run some checks. Errors of the device become results; global generators and grad modes stay as they were."""
    start, results = time.perf_counter(), []
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
        worst = max(check.run(device), key=lambda comparison: comparison.ratio, default=None)
        if worst is None:
            return None
        ok, limit, note = worst.ratio <= 1, worst.tolerance, worst.where
        if math.isfinite(worst.error):
            error = worst.error
        else:
            note += "; not a finite number"
    except Exception as caught:  # whatever a device raises for an operation it cannot do is its result
        message = (str(caught).strip() or type(caught).__name__).splitlines()[0][:200]
        checked = not (
            isinstance(caught, MemoryError) or (isinstance(caught, RuntimeError) and is_out_of_memory(caught))
        )
        note = f"fails: {message}" if checked else f"not enough memory: {message}"
    return CheckResult(check.name, check.operation, check.part, check.dtype, ok, checked, error, limit, note)
