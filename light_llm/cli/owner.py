"""Who trains in a folder, and how that process is asked from another one on the same machine."""

import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..report.control import PROMISES

_BY_HAND = "press Ctrl-C where it was started: it saves, and leaves"


class SignalControl:
    """Ask a run of another process on this machine: SIGTERM to finish its step, save and leave; SIGUSR1 to save.

    A second SIGTERM would end a run at once, unsaved. So each process is asked to stop once.

    Args:
        send: the system's `kill`.
    """

    def __init__(self, send: Callable[[int, int], object] = os.kill) -> None:
        self.send = send
        self.stopping: set[tuple[int, str]] = set()

    def __call__(self, folder: Path, what: str) -> str:
        """Send the signal. Returns what comes next.

        Raises:
            CheckpointError: no process is known to train in this folder, or it cannot be asked; it says why.
        """
        owner = owner_of(folder)
        pid, started = owner["pid"], owner["started"]
        if (pid, started) in self.stopping:
            return f"{folder} is stopping already; it saves first"
        try:
            self.send(pid, signal.SIGTERM if what == "stop" else signal.SIGUSR1)
        except ProcessLookupError:
            raise CheckpointError(f"the run in {folder} has just ended") from None
        except PermissionError:
            raise CheckpointError(f"the run in {folder} is another user's; {_BY_HAND}") from None
        if what == "stop":
            self.stopping.add((pid, started))
        return PROMISES[what].format(folder)


def owner_of(folder: Path) -> dict[str, Any]:
    """Who trains in a folder: pid, host and start, as its `.lock` says, if the lock is held.

    Raises:
        CheckpointError: nobody does, or it is not known who; or the process would not take a signal for a request.
    """
    from ..checkpoint.lock import OWNER
    from ..runtime import lock_folder, unlock

    if sys.platform == "win32":
        raise CheckpointError(f"on Windows a run cannot be asked from another process; {_BY_HAND}")
    record = _record(folder / OWNER)
    if record is None:
        raise CheckpointError(f"no run is going on in {folder}")
    if record["host"] != platform.node():
        raise CheckpointError(f"the run in {folder} is on {record['host']}, and this is {platform.node()}; {_BY_HAND}")
    try:
        handle = lock_folder(folder)
    except BlockingIOError:
        pass  # held: the record is its holder's, which wrote over what a run that was killed had left there
    else:
        unlock(handle)
        if handle is None:
            raise CheckpointError(f"{folder} is on a file system without locks, so its run is not known; {_BY_HAND}")
        raise CheckpointError(f"no run is going on in {folder}; the last one was killed")
    if not record.get("takes_signals"):
        raise CheckpointError(f"the run in {folder} is a Python program that takes no signals; stop it there")
    if _record(folder / OWNER) != record:
        raise CheckpointError(f"the run in {folder} has just ended")
    return record


def _record(path: Path) -> dict[str, Any] | None:
    """What a `.lock` says; None where that cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_whole = record["pid"] > 1 and all(isinstance(record[key], str) for key in ("host", "started"))
        return record if is_whole and isinstance(record["pid"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
