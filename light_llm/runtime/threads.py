"""Count the cores that this process may use, and limit torch's threads to them."""

import os
from pathlib import Path

import torch

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the container, on Linux


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
    """Lower torch's number of threads to the number of usable cores."""
    # torch respects the affinity mask but not a quota, and threads without a core of their own wait for each other at
    # every matrix product.
    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
