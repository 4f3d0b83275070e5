"""How many cores this process may use, and using no more of them."""

import os
from pathlib import Path

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the container, as Linux shows it from inside


def usable_cores() -> int:
    """The cores of this process's own set, which a container or `taskset` may have made smaller than the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux; macOS and Windows do not say
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, cpu_quota(_QUOTA) or cores))


def cpu_quota(path: Path) -> int | None:
    """The whole cores that a container's quota amounts to; None where there is none."""
    try:
        allowed, period = path.read_text().split()
        return max(1, int(allowed) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def limit_threads() -> None:
    """Compute with no more threads than there are cores for: more of them wait for each other at every product.

    torch counts the cores of the process's set itself, and knows nothing of a quota.
    """
    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
