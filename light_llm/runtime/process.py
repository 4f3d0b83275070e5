"""Configure this process for training: no more threads than usable cores, and memory that glibc keeps between steps."""

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from .world import env_number, in_world

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the container, on Linux
# Options of mallopt in glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Blocks of 16 MB and more stay mappings of their own: with 32 MB, glibc's upper bound, every second run of micro had a
# heap that was 0.35 GB larger (docs/log.md).
MMAP_THRESHOLD, NO_TRIM = 16 << 20, (1 << 31) - 1


def configure_process() -> None:
    """Limit the threads and configure malloc: for commands, because both change the whole process."""
    configure_malloc()
    limit_threads()


def usable_cores() -> int:
    """Return the number of cores this process may use: its affinity mask, within the quota of its container."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores, cpu_quota(CPU_QUOTA) or cores)


def cpu_quota(path: Path) -> int | None:
    """Return the whole cores that a container's quota allows, at least 1; None without a quota."""
    try:
        allowed, period = path.read_text().split()
        return max(1, int(allowed) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def limit_threads() -> None:
    """Give torch no more threads than this process has cores: its share, if it is one of several on this machine."""
    processes = env_number("LOCAL_WORLD_SIZE", 1) if in_world() else 1
    share = max(1, usable_cores() // processes)
    asked = os.environ.get("OMP_NUM_THREADS")
    # torchrun sets 1 where the user has set nothing.
    if processes > 1 and (not asked or (asked == "1" and "TORCHELASTIC_RUN_ID" in os.environ)):
        torch.set_num_threads(share)
    # torch respects the affinity mask but not a quota, and threads without a core of their own wait for each other at
    # every matrix product.
    elif torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def configure_malloc() -> bool:
    """Tell glibc to keep freed memory in the process. Return True if it does; musl, macOS and Windows do not.

    Each training step allocates the blocks of the step before it. By default every large block is returned to the
    kernel and mapped again, which then has to clear its pages. This changes the whole process, so library code must not
    call it.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, NO_TRIM))
