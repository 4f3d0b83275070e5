"""Find out whether a process is training into a run folder, without disturbing it."""

import os
import platform
import sys
import time
from pathlib import Path

from ..json_io import load_json
from .coerce import as_mapping

OWNER_FILE = ".lock"  # names the process that trains, as checkpoint/lock.py writes it; a killed run leaves it behind
# Where a lock cannot be tested, a run counts as training for so long after its last row.
RECENT_SECONDS = 600


def seconds_since(moment: float) -> float:
    """Return the time since a moment that is given in seconds since the epoch."""
    return time.time() - moment


def training_since(folder: Path) -> float | None:
    """Return when the process that trains into a folder began, in seconds since the epoch; None without one.

    Where the lock cannot be tested (on Windows, or for a process of another machine), a recent row decides.
    """
    owner = folder / OWNER_FILE
    try:
        since, host = owner.stat().st_mtime, as_mapping(load_json(owner)).get("host")
    except (OSError, ValueError):
        return None
    held = _is_locked(folder)
    if held is None or (not held and host != platform.node()):
        held = seconds_since(max(since, last_update(folder) or 0.0)) < RECENT_SECONDS
    return since if held else None


def last_update(folder: Path) -> float | None:
    """Return when metrics.jsonl was last written, in seconds since the epoch; None without that file."""
    try:
        return (folder / "metrics.jsonl").stat().st_mtime
    except OSError:
        return None


def _is_locked(folder: Path) -> bool | None:
    """Return whether a process holds the lock of a folder; None if that cannot be tested here."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        # A shared lock, so that two readers do not take each other for a run.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False
