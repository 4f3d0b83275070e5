"""How much memory the process has taken, and whether it gives it back between steps."""

import ctypes
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

# From glibc's <malloc.h>. Blocks of 16 MB and more stay mappings of their own: with 32 MB, glibc's upper bound,
# every second run of micro had a heap that was 0.35 GB larger (docs/log.md).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT, _NEVER = 16 << 20, (1 << 31) - 1


def configure_malloc() -> bool:
    """Tell glibc to keep the memory that is freed: a step asks for the same blocks as the one before it.

    Otherwise each large block is given back and mapped again, and the kernel has to clear its pages. For the whole
    process, so a program's decision and never a library's. Returns whether it was done; not on musl, macOS, Windows.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """The largest resident size of the whole process so far, in bytes; None on Windows.

    On Linux its own high-water mark: `ru_maxrss` begins with that of whoever started the process.
    """
    if sys.platform == "win32":
        return None
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE):
            return 1024 * int(found.group(1))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_memory() -> int | None:
    """Bytes of memory this machine has; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory could not be had: on a GPU by its type, on MPS and the CPU by its words."""
    words = ("MPS backend out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
