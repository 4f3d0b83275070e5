"""Measure the memory of this process, and find its limit: of the machine, a container, the shell, or a GPU."""

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ..text_format import format_bytes

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # bytes; older kernels write "no limit" as a number above this
THREAD_ADDRESSES = 256 << 20  # bytes of address space reserved by the stacks and heaps of threads, beyond what they use


@dataclass(frozen=True)
class MemoryLimit:
    """The largest size that this process can reach, and what limits it."""

    bytes: int
    reason: str  # completes "23 GB are ..."


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
    """Return the memory of this machine in bytes; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Return True if Python or torch raised an error because it could not allocate memory."""
    # Only CUDA has a type for it; on MPS and the CPU the message has to do.
    messages = ("MPS backend out of memory", "can't allocate memory", "not enough memory")
    by_message = isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    return by_message or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def resident_memory(proc: Path = PROC) -> int:
    """Return the bytes of this process in memory now; its peak if the system does not report that, or 0."""
    with suppress(OSError, ValueError, IndexError):
        return _statm(proc)[1]
    return peak_memory() or 0


def memory_limit(device: str, *, processes: int = 1, proc: Path = PROC, cgroup: Path = CGROUP) -> MemoryLimit | None:
    """Return the tightest limit on the memory of a device; None if no limit is known.

    Args:
        processes: of this run on this machine. Each gets an equal share of the memory of a machine or a container.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return MemoryLimit(free + torch.cuda.memory_reserved(device), f"free on this GPU (of {format_bytes(total)})")
    if kind == "mps":
        with suppress(RuntimeError):
            return MemoryLimit(torch.mps.recommended_max_memory(), "allowed by macOS for this GPU")
        return None
    resident = resident_memory(proc)
    shared = (_machine_limit(proc, resident), _container_limit(cgroup, resident))
    # A limit of the shell holds for each process by itself.
    limits = [*(_share(limit, processes) for limit in shared), _shell_limit(proc, resident)]
    return min((limit for limit in limits if limit), key=lambda limit: limit.bytes, default=None)


def _share(limit: MemoryLimit | None, processes: int) -> MemoryLimit | None:
    if limit is None or processes == 1:
        return limit
    reason = f"each process's share of {format_bytes(limit.bytes)} {limit.reason}"
    return MemoryLimit(limit.bytes // processes, reason)


def _machine_limit(proc: Path, resident: int) -> MemoryLimit | None:
    available, total = _meminfo("MemAvailable", proc), total_memory()
    if available is None:
        return MemoryLimit(total, "in this machine") if total else None
    free = available + (_meminfo("SwapFree", proc) or 0)
    total = _meminfo("MemTotal", proc) or total or available
    return MemoryLimit(free + resident, f"free (of {format_bytes(total)})")


def _container_limit(cgroup: Path, resident: int) -> MemoryLimit | None:
    # Of cgroups version 2 and version 1.
    limit = _read_int(cgroup / "memory.max") or _read_int(cgroup / "memory/memory.limit_in_bytes")
    used = _read_int(cgroup / "memory.current") or _read_int(cgroup / "memory/memory.usage_in_bytes")
    if limit is None or limit >= NO_LIMIT or used is None:
        return None
    # The page cache counts as used, but the kernel drops it before it refuses memory.
    file_pages = _read_int(cgroup / "memory.stat", r"^inactive_file (\d+)$") or 0
    return MemoryLimit(
        min(limit, limit - used + resident + file_pages), f"left in this container (of {format_bytes(limit)})"
    )


def _shell_limit(proc: Path, resident: int) -> MemoryLimit | None:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, AttributeError, OSError, ValueError):  # Windows, or a system without this limit
        return None
    if limit in (resource.RLIM_INFINITY, -1) or limit >= NO_LIMIT:
        return None
    # `ulimit -v` limits address space, of which a process has more than resident memory.
    with suppress(OSError, ValueError, IndexError):
        free = max(0, limit - _statm(proc)[0] - THREAD_ADDRESSES)
        return MemoryLimit(free + resident, f"left of the {format_bytes(limit)} that ulimit -v allows")
    return MemoryLimit(limit, "allowed by ulimit -v")


def _statm(proc: Path) -> tuple[int, int]:
    """Return address space and resident memory of this process in bytes."""
    import resource

    pages = (proc / "self/statm").read_text().split()
    return int(pages[0]) * resource.getpagesize(), int(pages[1]) * resource.getpagesize()


def _meminfo(name: str, proc: Path) -> int | None:
    kilobytes = _read_int(proc / "meminfo", rf"^{name}:\s+(\d+) kB")
    return None if kilobytes is None else 1024 * kilobytes


def _read_int(path: Path, pattern: str = r"^(\d+)$") -> int | None:
    """Return the number that a pattern finds in a file; None without one."""
    with suppress(OSError):
        match = re.search(pattern, path.read_text(), re.MULTILINE)
        return int(match[1]) if match else None
    return None
