"""One run in one folder: a lock on the folder itself, which its owner's end releases, however it ends.

Where folders cannot be locked (Windows, some network file systems), two runs in one are the user's to avoid.
"""

from pathlib import Path

from ..errors import CheckpointError
from ..runtime import lock_folder, unlock


class FolderLock:
    """Held from its making to `release`, to the end of its `with` block, or to the end of the process.

    Raises:
        CheckpointError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.handle = lock_folder(folder)
        except BlockingIOError:
            raise CheckpointError(
                f"a run is going on in {folder}; wait for it, stop it, or name another folder with --out"
            ) from None

    def release(self) -> None:
        """Let another run have the folder."""
        unlock(self.handle)
        self.handle = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
