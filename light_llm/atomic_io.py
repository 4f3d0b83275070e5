"""Atomic file writes: temporary file, fsync, rename, fsync of the folder.

Every operation that must survive a crash is a method of `Files`, so that tests can make any of them fail or play a
power cut after it.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

STALE_AFTER = 60.0  # seconds without a write
WriteFn = Callable[[BinaryIO], object]


class Files:
    """The real file system. Tests replace it to inject faults."""

    def write(self, path: Path, write_fn: WriteFn) -> str:
        """Create a file, let `write_fn` write it, and return the SHA-256 of the bytes it meant to write.

        Raises:
            OSError: the file cannot be written, even if `write_fn` turned that error into another one.
        """
        with open(path, "wb") as file:
            writer = HashingWriter(file)
            try:
                write_fn(writer)  # type: ignore[arg-type]
            except RuntimeError as error:
                # torch.save turns a full disk or a Ctrl-C into a RuntimeError about a position in its archive.
                if (cause := writer.error or find_interrupt(error)) is not None:
                    raise cause from None
                raise
        return writer.sha.hexdigest()

    @property
    def own(self) -> "Files":
        """Return the file operations for the files of a large checkpoint that this rank writes."""
        return self

    def size(self, path: Path) -> int:
        """Return the bytes of a file."""
        return path.stat().st_size

    def sync(self, path: Path) -> None:
        """Wait until the bytes of a file are on the disk."""
        _fsync(path, os.O_RDWR)  # Windows syncs only files that are open for writing

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk. Windows has no such call, so do nothing there."""
        if os.name != "nt":
            _fsync(path, os.O_RDONLY)

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents."""
        path.mkdir(parents=True)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or folder atomically, replacing a file that has the new name."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Delete a file, or a folder and its contents."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def free(self, path: Path) -> int | None:
        """Return the free bytes of the disk that holds a path; None if the system does not report them."""
        while not path.exists() and path != path.parent:
            path = path.parent
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            return None
        return usage.free if usage.total else None


REAL_FILES = Files()


class NullFile:
    """A write-only file that keeps nothing."""

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass


class NullFiles(Files):
    """A file system that changes nothing on disk: the one of every rank but the first.

    A write still calls its `write_fn`, with a `NullFile`, so that the rank takes part in the messages that gather what
    the first rank writes.

    Args:
        own: the file operations for the files of a large checkpoint that this rank writes.
    """

    def __init__(self, own: Files = REAL_FILES) -> None:
        self._own = own

    @property
    def own(self) -> Files:
        """Return the file operations for the files of a large checkpoint that this rank writes."""
        return self._own

    def write(self, path: Path, write_fn: WriteFn) -> str:
        """Call `write_fn`, and return the SHA-256 of no bytes."""
        write_fn(NullFile())  # type: ignore[arg-type]
        return hashlib.sha256().hexdigest()

    def size(self, path: Path) -> int:
        """Return 0."""
        return 0

    def sync(self, path: Path) -> None:
        """Do nothing."""

    def sync_folder(self, path: Path) -> None:
        """Do nothing."""

    def make_folder(self, path: Path) -> None:
        """Do nothing."""

    def rename(self, old: Path, new: Path) -> None:
        """Do nothing."""

    def remove(self, path: Path) -> None:
        """Do nothing."""

    def free(self, path: Path) -> None:
        """Return None: no free space is needed."""


def atomic_write(path: Path, content: bytes | WriteFn, files: Files = REAL_FILES) -> None:
    """Write a file so that readers see the old content or the new, never a part. Creates missing parent folders.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    with atomic_path(path, files) as partial:
        files.write(partial, content if callable(content) else lambda file: file.write(content))


@contextmanager
def atomic_path(path: Path, files: Files = REAL_FILES) -> Iterator[Path]:
    """Yield a temporary path to write to; sync it and rename it to `path` when the block ends without an error.

    Raises:
        OSError: the file or its folder cannot be written; the old file is unchanged.
    """
    _ensure_folder(path.parent, files)
    partial = _temporary(path)
    with _removed_on_error(partial, files):
        yield partial
        files.sync(partial)
        files.rename(partial, path)
    files.sync_folder(path.parent)


def write_by_digest(folder: Path, suffix: str, write_fn: WriteFn) -> Path:
    """Write `folder/<SHA-256 of the content><suffix>` atomically, and return its path. Raises OSError."""
    _ensure_folder(folder, REAL_FILES)
    partial = _temporary(folder / f"new{suffix}")
    with _removed_on_error(partial, REAL_FILES):
        path = folder / f"{REAL_FILES.write(partial, write_fn)}{suffix}"
        REAL_FILES.sync(partial)
        REAL_FILES.rename(partial, path)
    REAL_FILES.sync_folder(folder)
    return path


def move_into_place(new: Path, path: Path, files: Files, *, old: Path | None = None) -> None:
    """Rename a finished, synced file or folder to `path`, replacing a folder that has that name.

    A folder cannot be replaced by one rename: the existing one becomes `old` (by default a hidden name beside it), gets
    its name back if the second rename fails, and is deleted last.

    Raises:
        OSError: a rename failed; what had the name before has it still, unless that failed too.
    """
    old = old or path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        if path.is_dir():
            files.rename(path, old)
        files.rename(new, path)
    except (Exception, KeyboardInterrupt):
        with suppress(OSError):
            if old.exists() and not path.exists():
                files.rename(old, path)
        raise
    files.sync_folder(path.parent)
    if old.exists():
        with suppress(OSError):  # the new one is in place; `remove_stale` deletes the old one later
            files.remove(old)


def remove_stale(path: Path) -> None:
    """Delete temporary files and folders that dead processes left beside a path.

    A replaced folder (`.old-`) stays while nothing has its name: it may be the only copy. Recently written files stay
    too: they may belong to a process on another machine that shares this disk.
    """
    name = re.compile(rf"\.+{re.escape(path.name)}\.(?:tmp|partial|old)-(\d+)(?:\.tmp-\d+)?")
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    for sibling in siblings:
        match = name.fullmatch(sibling.name)
        if match and _is_dead(int(match[1])) and (path.exists() or ".old-" not in sibling.name):
            with suppress(OSError):
                if _file_system_time(path.parent) - sibling.stat().st_mtime > STALE_AFTER:
                    REAL_FILES.remove(sibling)


def find_interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt in an error's chain of causes, or None."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


class HashingWriter:
    """A write-only file that hashes the bytes given to it and remembers why a write failed."""

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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def _ensure_folder(folder: Path, files: Files) -> None:
    if not folder.is_dir():
        with suppress(FileExistsError):  # another process may create it at the same moment
            files.make_folder(folder)


@contextmanager
def _removed_on_error(partial: Path, files: Files) -> Iterator[None]:
    try:
        yield
    # Other BaseExceptions end the process; `remove_stale` deletes the temporary file at the next start.
    except (Exception, KeyboardInterrupt):
        with suppress(OSError):
            files.remove(partial)
        raise


def _file_system_time(folder: Path) -> float:
    """Return the time by the clock of the disk's machine: on a network disk, modification times come from there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _is_dead(pid: int) -> bool:
    # On Windows os.kill(pid, 0) would end the process, so assume that every process is alive.
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:  # the process of another user gives a PermissionError
        return isinstance(error, ProcessLookupError)
    except OverflowError:
        return True
    return False


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
