"""A diagnosis in plain words."""

from ..errors import DeviceError
from .diagnosis import Diagnosis
from .remedies import REFUSE

FORMATS = ("float32", "bfloat16", "float16")


def verdict_lines(diagnosis: Diagnosis) -> list[str]:
    """What is safe, what is not, and what light-llm does about it: whole sentences and a line for each format."""
    lines = [headline(diagnosis), ""]
    for dtype in FORMATS:
        lines.append(f"{dtype:10}{_format(diagnosis, dtype)}")
    lines.append(f"{'compile':10}{_compiled(diagnosis)}")
    if diagnosis.remedies:
        lines.append("")
    for remedy in diagnosis.remedies:
        lines += [f"wrong     {remedy.because}", f"  instead {remedy.action}"]
    left = [f for f in diagnosis.findings if not f.checked]
    return [*lines, *(f"left out  {f.operation.rstrip(',')}: {f.note}" for f in left)]


def check_device(diagnosis: Diagnosis) -> None:
    """Raise DeviceError for a device on which nothing may be computed, with what is wrong and the way out."""
    remedy = diagnosis.remedy(REFUSE)
    if remedy is not None:
        raise DeviceError(f"device {diagnosis.device!r} computes wrong: {remedy.because}; {remedy.action}")


def headline(diagnosis: Diagnosis) -> str:
    """One sentence: the device, and whether it can be trusted."""
    where = f"{diagnosis.device} ({diagnosis.name}), torch {diagnosis.torch}"
    if not diagnosis.safe:
        return f"{where}: {'NOT SAFE, it computes wrong' if diagnosis.refused else 'not known to be safe'}"
    return f"{where}: safe{', but not in every way' if diagnosis.remedies else ''}"


def _format(diagnosis: Diagnosis, dtype: str) -> str:
    word = diagnosis.of_format(dtype)
    return f"{word}; light-llm does not train in it" if dtype == "float16" and word != "not checked" else word


def _compiled(diagnosis: Diagnosis) -> str:
    word = diagnosis.compiled
    return "not checked; --compile does it" if word == "not checked" else word
