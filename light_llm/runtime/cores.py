"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """The cores of this process's own set, which a container or `taskset` may have made smaller than the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux; macOS and Windows do not say
    return len(affinity(0)) if affinity else os.cpu_count() or 1
