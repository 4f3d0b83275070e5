"""Lock a run folder, so that no two runs write into it. The system releases the lock however its owner ends.

Windows and some network file systems cannot lock folders; there, users must avoid two runs in one folder. The file
`.lock` only names the owner for error messages: one that a killed run left behind locks nothing.
"""

import json
import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ..errors import CheckpointError
from ..runtime import lock_folder, unlock

OWNER_FILE = ".lock"


class FolderLock:
    """A lock that is held from construction to `release`, the end of its `with` block, or the end of the process.

    Inside the `with` block the folder has a file that names the owner.

    Raises:
        CheckpointError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.owner = folder / OWNER_FILE
        try:
            self.handle = lock_folder(folder)
        except BlockingIOError:
            raise CheckpointError(
                f"another process is training in {folder}{_owner(self.owner)}; wait for it, stop it, or name another "
                "folder with {--out}"
            ) from None

    def release(self) -> None:
        """Release the lock."""
        unlock(self.handle)
        self.handle = None

    def __enter__(self) -> "FolderLock":
        if self.handle is not None:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            record = {"pid": os.getpid(), "host": platform.node(), "started": started}
            # On a full disk the lock holds without the file.
            with suppress(OSError):
                self.owner.write_text(json.dumps(record), encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        if self.handle is not None:
            with suppress(OSError):
                self.owner.unlink(missing_ok=True)
        self.release()


def _owner(file: Path) -> str:
    """Return the owner of a lock, in brackets; an empty string if the file cannot be read."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        since = datetime.fromisoformat(record["started"]).astimezone()
        return f" (process {int(record['pid'])} on {record['host']} since {since:%Y-%m-%d %H:%M})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
