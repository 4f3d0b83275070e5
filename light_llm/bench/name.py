"""What the machine is called: the product names of its parts, and nothing of whose it is."""

import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import torch

from ..runtime import device_name

_CPUINFO = Path("/proc/cpuinfo")


def machine_name(device: str, cpuinfo: Path = _CPUINFO) -> str:
    """The GPU's or the processor's product name; the processor's architecture where the system does not say it."""
    if torch.device(device).type != "cpu":
        return printable(device_name(device))
    return printable(_linux(cpuinfo) or _mac() or platform.processor() or platform.machine()) or "unknown"


def system_name() -> str:
    """The operating system and the architecture, without a version: those of kernels are often someone's own."""
    return printable(f"{platform.system()} {platform.machine()}") or "unknown"


def printable(text: str, most: int = 60) -> str:
    """One line without marks of trade, double spaces and what cannot be printed, not too long.

    >>> printable("Some(R) Processor(TM)  CPU @ 2.60GHz")
    'Some Processor CPU @ 2.60GHz'
    """
    for mark in ("(R)", "(TM)", "(r)", "(tm)"):
        text = text.replace(mark, "")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most].strip()


def _linux(cpuinfo: Path) -> str:
    with suppress(OSError, UnicodeError):
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return ""


def _mac() -> str:
    if platform.system() != "Darwin":
        return ""
    words = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603
    return ""
