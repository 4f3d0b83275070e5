"""The file seam: each write, sync and rename that must survive a crash goes through one small object.

A test can replace it: make any operation fail, or play a power cut after any of them.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

STILL = 60.0  # seconds that a file is not written to before it counts as left
Fill = Callable[[BinaryIO], object]


class Files:
    """The real file system."""

    def write(self, path: Path, fill: Fill) -> str:
        """Create a file and let `fill` write it. Returns the SHA-256 of what was meant to be in it.

        Raises:
            OSError: it cannot be written, whatever `fill` made of that error.
        """
        with open(path, "wb") as file:
            watched = _Watched(file)
            try:
                fill(watched)  # type: ignore[arg-type]
            except RuntimeError as error:  # torch.save makes one about a position of a full disk, and of a Ctrl-C
                if (cause := watched.error or interruption(error)) is not None:
                    raise cause from None
                raise
        return watched.sha.hexdigest()

    def sync(self, path: Path) -> None:
        """Wait until the bytes of a file are on the disk."""
        _sync(path, os.O_RDWR)  # Windows syncs only what is open for writing

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk; Windows has no such call and does without."""
        if os.name != "nt":
            _sync(path, os.O_RDONLY)

    def make_folder(self, path: Path) -> None:
        """Create a folder and those above it."""
        path.mkdir(parents=True)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder its final name, in one step."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Delete a file or a folder with all in it."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def free(self, path: Path) -> int | None:
        """Bytes that can still be written below a path; None where the system does not say."""
        while not path.exists() and path != path.parent:
            path = path.parent
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            return None
        return usage.free if usage.total else None


def commit_file(path: Path, fill: Fill, files: Files) -> None:
    """Write a file under a temporary name, rename it: a reader sees the old one or the new one, never half of one.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    commit_path(path, lambda partial: files.write(partial, fill), files)


def commit_path(path: Path, make: Callable[[Path], object], files: Files) -> None:
    """`commit_file` for what a library writes to a path of its own: `make` is given the temporary one."""
    partial = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        make(partial)
        files.sync(partial)
        files.rename(partial, path)
    except (Exception, KeyboardInterrupt):  # not the end of the process: leftovers are swept at the next start
        with suppress(OSError):
            files.remove(partial)
        raise
    files.sync_folder(path.parent)


def sweep(path: Path) -> None:
    """Remove what processes that are gone have left half made beside a file or folder.

    What was there before, and was put aside, stays where nothing has its name. What was written to a moment ago may be
    that of a process on another machine.
    """
    name = re.compile(rf"\.+{re.escape(path.name)}\.(?:tmp|partial|old)-(\d+)(?:\.tmp-\d+)?")
    found = [(p, name.fullmatch(p.name)) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    left = [p for p, match in found if match and _is_gone(int(match[1])) and (path.exists() or ".old-" not in p.name)]
    with suppress(OSError):
        now = _now_at(path.parent) if left else 0.0
        for other in left:
            if now - other.stat().st_mtime > STILL:
                Files().remove(other)


def _now_at(folder: Path) -> float:
    """The time by the clock that files in a folder get theirs from: on a shared disk, that of another machine."""
    with tempfile.TemporaryFile(dir=folder) as mark:
        return os.fstat(mark.fileno()).st_mtime


def _is_gone(pid: int) -> bool:
    """Whether no process has this number. On Windows, where asking would end it, nobody is gone."""
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C that an error came of, if it did."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


class _Watched:
    """A file that is only written: hashes what is meant to be written, and remembers why it could not be."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha = hashlib.sha256()
        self.error: OSError | KeyboardInterrupt | None = None

    def write(self, data: Any) -> int:
        self.sha.update(data)
        try:
            return self.file.write(data)
        except (OSError, KeyboardInterrupt) as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error
            raise


def _sync(path: Path, how: int) -> None:
    handle = os.open(path, how)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
