"""One run in one folder: a lock on the folder itself, which its owner's end releases, however it ends.

POSIX only: Windows has no `flock`, and there two runs in one folder are the user's to avoid. So it is on file systems
that refuse it, as some network ones do.
"""

import os
import sys
from pathlib import Path

from ..errors import CheckpointError

if sys.platform != "win32":
    import fcntl


class FolderLock:
    """Held from its making to `release`, to the end of its `with` block, or to the end of the process.

    Raises:
        CheckpointError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.handle: int | None = None
        if sys.platform == "win32":
            return
        self.handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise CheckpointError(
                f"a run is going on in {folder}; wait for it, stop it, or name another folder with --out"
            ) from None
        except OSError:
            self.release()  # this file system has no locks

    def release(self) -> None:
        """Let another run have the folder."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
