"""Measure the memory of this process, and keep glibc from returning freed memory between steps."""

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

# Options of mallopt in glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Blocks of 16 MB and more stay mappings of their own: with 32 MB, glibc's upper bound, every second run of micro had a
# heap that was 0.35 GB larger (docs/log.md).
MMAP_THRESHOLD, NO_TRIM = 16 << 20, (1 << 31) - 1


def configure_malloc() -> bool:
    """Tell glibc to keep freed memory in the process. Return True if it does; musl, macOS and Windows do not.

    Each training step allocates the blocks of the step before it. By default every large block is returned to the
    kernel and mapped again, which then has to clear its pages. This changes the whole process, so commands call it and
    library code must not.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, NO_TRIM))


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the largest resident size of the process so far, in bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    # Linux has a mark per process. Its ru_maxrss would not do: it starts with that of the parent process.
    with suppress(OSError):
        if match := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE):
            return 1024 * int(match.group(1))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_memory() -> int | None:
    """Return the memory of this machine in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Return True if Python or torch raised an error because it could not allocate memory."""
    # Only CUDA has a type for it; on MPS and the CPU the message has to tell.
    messages = ("MPS backend out of memory", "can't allocate memory", "not enough memory")
    by_message = isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    return by_message or isinstance(error, (MemoryError, torch.OutOfMemoryError))
