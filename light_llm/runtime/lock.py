"""Lock a folder until the process that holds the lock ends, in whatever way.

POSIX only: Windows has no `flock`, and some network file systems refuse it. There, nothing is locked.
"""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def lock_folder(folder: Path, *, wait: bool = False) -> int | None:
    """Lock a folder and return a handle for `unlock`; None where folders cannot be locked.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def unlock(handle: int | None) -> None:
    """Release a lock."""
    if handle is not None:
        os.close(handle)
