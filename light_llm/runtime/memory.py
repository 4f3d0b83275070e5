"""How much memory the process has taken."""

import sys


def peak_memory() -> int | None:
    """The largest resident size so far, in bytes (`ru_maxrss` of the whole process); None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
