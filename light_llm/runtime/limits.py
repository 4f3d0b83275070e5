"""How much memory a process may come to have: of the machine, a container, a limit of the shell, or a GPU."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from .memory import peak_memory, total_memory

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # bytes; older kernels say "none" with a number like this
THREADS = 256 << 20  # bytes of addresses that the stacks and heaps of threads take beyond what they use


@dataclass(frozen=True)
class Room:
    """The most bytes this process may come to have, and what says so."""

    bytes: int
    reason: str


def resident_memory(proc: Path = PROC) -> int:
    """Bytes this process has in memory now; where the system does not say, the most it ever had, or 0."""
    with suppress(OSError, ValueError, IndexError):
        import resource

        return int((proc / "self/statm").read_text().split()[1]) * resource.getpagesize()
    return peak_memory() or 0


def memory_room(device: str, *, proc: Path = PROC, cgroup: Path = CGROUP) -> Room | None:
    """The tightest of the limits on the memory of a device; None where nothing says one."""
    kind = torch.device(device).type
    if kind == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Room(free + torch.cuda.memory_reserved(device), f"free of the {_gb(total)} of this GPU")
    if kind == "mps":
        with suppress(RuntimeError):
            return Room(torch.mps.recommended_max_memory(), "what macOS lets this GPU use")
        return None
    mine = resident_memory(proc)
    rooms = [_of_the_machine(proc, mine), _of_the_container(cgroup, mine), _of_the_shell(proc, mine)]
    return min((room for room in rooms if room), key=lambda room: room.bytes, default=None)


def _of_the_machine(proc: Path, mine: int) -> Room | None:
    """What is free, swap included; elsewhere than on Linux all there is."""
    total = total_memory()
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = (line.partition(":") for line in (proc / "meminfo").read_text().splitlines())
        kilobytes = {name: int(value.split()[0]) for name, _, value in lines}
        free = 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
        return Room(free + mine, f"free of the {_gb(1024 * kilobytes['MemTotal'])} of this machine")
    return Room(total, "this machine's memory") if total else None


def _of_the_container(cgroup: Path, mine: int) -> Room | None:
    """The smallest limit of the control groups that this process is in."""
    with suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        if limit < NO_LIMIT:
            used = int((cgroup / "memory.current").read_text())
            return Room(min(limit, limit - used + mine + _file_pages(cgroup)), f"left of this container's {_gb(limit)}")
    with suppress(OSError, ValueError):  # the older kind
        limit = int((cgroup / "memory/memory.limit_in_bytes").read_text())
        if limit < NO_LIMIT:
            used = int((cgroup / "memory/memory.usage_in_bytes").read_text())
            return Room(min(limit, limit - used + mine), f"left of this container's {_gb(limit)}")
    return None


def _file_pages(cgroup: Path) -> int:
    """Bytes of files that are kept in memory and would be given up first."""
    with suppress(OSError, ValueError):
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return int(stat.get("inactive_file", 0))
    return 0


def _of_the_shell(proc: Path, mine: int) -> Room | None:
    """`ulimit -v` bounds addresses; a process has more of them than memory, and its threads take some more."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= NO_LIMIT:
        return None
    with suppress(OSError, ValueError, IndexError):
        addresses = int((proc / "self/statm").read_text().split()[0]) * resource.getpagesize()
        return Room(max(0, limit - addresses - THREADS) + mine, f"left of the {_gb(limit)} that ulimit -v allows")
    return Room(limit, f"ulimit -v allows {_gb(limit)}")


def _gb(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
