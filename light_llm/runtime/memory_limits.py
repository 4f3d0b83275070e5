"""How much memory a process may come to have: of the machine, a container, a limit of the shell, or a GPU."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ..text_format import format_bytes
from .memory import peak_memory, total_memory

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # bytes; older kernels say "none" with a number like this
THREADS = 256 << 20  # bytes of addresses that the stacks and heaps of threads take beyond what they use


@dataclass(frozen=True)
class MemoryLimit:
    """The most bytes this process may come to have, and what says so."""

    bytes: int
    reason: str


def resident_memory(proc: Path = PROC) -> int:
    """Bytes this process has in memory now; where the system does not say, the most it ever had, or 0."""
    with suppress(OSError, ValueError, IndexError):
        import resource

        return int((proc / "self/statm").read_text().split()[1]) * resource.getpagesize()
    return peak_memory() or 0


def memory_limit(device: str, *, proc: Path = PROC, cgroup: Path = CGROUP) -> MemoryLimit | None:
    """The tightest of the limits on the memory of a device; None where nothing says one."""
    kind = torch.device(device).type
    if kind == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return MemoryLimit(free + torch.cuda.memory_reserved(device), f"free of the {format_bytes(total)} of this GPU")
    if kind == "mps":
        with suppress(RuntimeError):
            return MemoryLimit(torch.mps.recommended_max_memory(), "what macOS lets this GPU use")
        return None
    mine = resident_memory(proc)
    rooms = [_of_the_machine(proc, mine), _of_the_container(cgroup, mine), _of_the_shell(proc, mine)]
    return min((room for room in rooms if room), key=lambda room: room.bytes, default=None)


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes that can be had without swapping, as Linux counts them; None elsewhere."""
    return _of_meminfo("MemAvailable", proc)


def container_limit(cgroup: Path = CGROUP) -> int | None:
    """Bytes that this process's container allows, as Linux shows it from inside; None where there is no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # the second version of its files, and the first
        limit = _number(cgroup / name)
        if limit is not None and limit < NO_LIMIT:
            return limit
    return None


def shell_limit(name: str = "RLIMIT_AS") -> int | None:
    """Bytes that a limit of the shell allows, `ulimit -v` by default; None where there is none."""
    try:
        import resource

        limit, _ = resource.getrlimit(getattr(resource, name))
    except (ImportError, AttributeError, OSError, ValueError):  # Windows, or a system without this one
        return None
    return None if limit in (resource.RLIM_INFINITY, -1) or limit >= NO_LIMIT else limit


def _of_the_machine(proc: Path, mine: int) -> MemoryLimit | None:
    """What is free, swap included; elsewhere than on Linux all there is."""
    available, total = available_memory(proc), total_memory()
    if available is not None:
        whole = _of_meminfo("MemTotal", proc) or total or available
        return MemoryLimit(
            available + (_of_meminfo("SwapFree", proc) or 0) + mine,
            f"free of the {format_bytes(whole)} of this machine",
        )
    return MemoryLimit(total, "this machine's memory") if total else None


def _of_the_container(cgroup: Path, mine: int) -> MemoryLimit | None:
    """What its limit leaves; copies of files that it keeps in memory would be given up first."""
    limit = container_limit(cgroup)
    used = _number(cgroup / "memory.current") or _number(cgroup / "memory/memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    return MemoryLimit(
        min(limit, limit - used + mine + _file_pages(cgroup)), f"left of this container's {format_bytes(limit)}"
    )


def _file_pages(cgroup: Path) -> int:
    with suppress(OSError, ValueError):
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return int(stat.get("inactive_file", 0))
    return 0


def _of_the_shell(proc: Path, mine: int) -> MemoryLimit | None:
    """`ulimit -v` bounds addresses; a process has more of them than memory, and its threads take some more."""
    limit = shell_limit()
    if limit is None:
        return None
    with suppress(OSError, ValueError, IndexError):
        import resource

        addresses = int((proc / "self/statm").read_text().split()[0]) * resource.getpagesize()
        return MemoryLimit(
            max(0, limit - addresses - THREADS) + mine, f"left of the {format_bytes(limit)} that ulimit -v allows"
        )
    return MemoryLimit(limit, f"ulimit -v allows {format_bytes(limit)}")


def _of_meminfo(name: str, proc: Path) -> int | None:
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
        return 1024 * int(found.group(1)) if found else None
    return None


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
