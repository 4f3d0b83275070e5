"""One run in one folder: a lock on the folder itself, which its owner's end releases, however it ends.

Where folders cannot be locked (Windows, some network file systems), two runs in one are the user's to avoid. Who holds
the lock stands in `.lock`, for the one who is refused to read. The file itself locks nothing: one that is left behind
by a run that was killed is of no account.
"""

import json
import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ..errors import CheckpointError
from ..runtime import lock_folder, unlock

OWNER = ".lock"


class FolderLock:
    """Held from its making to `release`, to the end of its `with` block, or to the end of the process.

    Inside the `with` block the folder says whose it is.

    Raises:
        CheckpointError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.owner = folder / OWNER
        try:
            self.handle = lock_folder(folder)
        except BlockingIOError:
            raise CheckpointError(
                f"a run is going on in {folder}{_owner(self.owner)}; wait for it, stop it, or name another folder "
                "with --out"
            ) from None

    def release(self) -> None:
        """Let another run have the folder."""
        unlock(self.handle)
        self.handle = None

    def __enter__(self) -> "FolderLock":
        if self.handle is not None:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            record = {"pid": os.getpid(), "host": platform.node(), "started": started}
            with suppress(OSError):  # a full disk: the lock holds all the same
                self.owner.write_text(json.dumps(record), encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        if self.handle is not None:
            with suppress(OSError):
                self.owner.unlink(missing_ok=True)
        self.release()


def _owner(file: Path) -> str:
    """Who holds a lock, in brackets; nothing where that cannot be read."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        since = datetime.fromisoformat(record["started"]).astimezone()
        return f" (process {int(record['pid'])} on {record['host']} since {since:%Y-%m-%d %H:%M})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
