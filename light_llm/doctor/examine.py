"""The examination: each case on the device, in an order in which what helps can be tried on the way."""

import math
import time
from collections.abc import Callable, Sequence

import torch

from ..model import attend_by_formula
from ..runtime import choose_compile, device_name, is_out_of_memory
from . import attention, choices, formats, keeping, operations, optimizers, whole, writing
from .diagnosis import Diagnosis
from .subject import Reference, Subject
from .values import ADAMW, ATTENTION, FORMULA, OPERATION, PLAIN_ADAMW, Case, Finding

Progress = Callable[[int, int, str], None]  # done, all, name of the case that comes

CORE: tuple[Case, ...] = (
    *operations.OPERATIONS,
    *choices.CHOICES,
    *attention.CORE,
    *whole.CORE,
    *optimizers.CORE,
    *writing.CORE,
    *keeping.CORE,
    *formats.of_format("bfloat16"),
)
FULL: tuple[Case, ...] = (*CORE, *attention.MORE, *whole.MORE, *writing.MORE, *formats.of_format("float16"))

TWINS = {ATTENTION: attention.WRITTEN, ADAMW: optimizers.PLAIN}  # what is tried where the quick way is wrong


def core(device: str, *, compile: bool = False, progress: Progress | None = None) -> Diagnosis:
    """The cases that catch the known faults: seconds, and less than 1 GB.

    Args:
        device: as `choose_device` names it.
        compile: examine the compiled step too, which takes a minute.
        progress: is told how many cases are done, of how many, and the name of the next one.

    Raises:
        DeviceError: compiling was asked for, and there is no compiler.
    """
    return _examined(device, CORE, compile, progress)


def full(device: str, *, compile: bool = False, progress: Progress | None = None) -> Diagnosis:
    """Everything: about a minute on a CPU, and 3 GB. Arguments and errors as of `core`."""
    return _examined(device, FULL, compile, progress)


def _examined(device: str, cases: tuple[Case, ...], compile: bool, progress: Progress | None) -> Diagnosis:
    if compile:
        choose_compile("on", device)
    return examine(device, cases + whole.COMPILE if compile else cases, progress=progress)


def examine(
    device: str, cases: Sequence[Case], *, reference: Reference | None = None, progress: Progress | None = None
) -> Diagnosis:
    """Some cases on a device by name. No error of the device comes out of here, and no generator is moved.

    Single operations and attention come first. Where a quick way is wrong, its plain twin is tried, and where that is
    right it takes its place in what follows.

    Args:
        reference: the exact side, for several examinations in a row.
    """
    start = time.perf_counter()
    subject = Subject(device, reference or Reference())
    findings: list[Finding] = []
    ordered = sorted(cases, key=lambda case: case.part not in (OPERATION, ATTENTION) or case.dtype != "float32")
    with torch.inference_mode(False), torch.enable_grad():
        for done, case in enumerate(ordered):
            if progress is not None:
                progress(done, len(cases), case.name)
            findings += (found := find(case, subject))
            twin = TWINS.get(case.part)
            if twin and any(f.wrong for f in found) and all(f.case != twin.name for f in findings):
                findings += (found := find(twin, subject))
                subject = _by_twin(subject, twin) if found[0].ok else subject
    if progress is not None:
        progress(len(cases), len(cases), "")
    seconds = round(time.perf_counter() - start, 2)
    return Diagnosis(device, device_name(device), torch.__version__, tuple(findings), seconds)


def _by_twin(subject: Subject, twin: Case) -> Subject:
    """The same device with the plain way in the place of the quick one."""
    attend = attend_by_formula if twin.part == FORMULA else subject.attention
    return Subject(subject.device, subject.reference, attend, subject.plain_update or twin.part == PLAIN_ADAMW)


def find(case: Case, subject: Subject) -> list[Finding]:
    """What comes of a case: a finding, or none where it does not concern the device."""
    known = {"case": case.name, "operation": case.operation, "part": case.part, "dtype": case.dtype}
    try:
        worst = max(case.measure(subject), key=lambda measured: measured.ratio, default=None)
    except Exception as error:  # whatever a device says of what it cannot do is the finding
        words = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            note = f"not enough memory: {words}"
            return [Finding(**known, ok=case.large, checked=False, error=None, tolerance=None, note=note)]
        return [Finding(**known, ok=False, checked=True, error=None, tolerance=None, note=f"fails: {words}")]
    if worst is None:
        return []
    number = worst.error if math.isfinite(worst.error) else None
    note = worst.where if number is not None else f"{worst.where}; not a finite number"
    return [Finding(**known, ok=worst.ratio <= 1, checked=True, error=number, tolerance=worst.tolerance, note=note)]
