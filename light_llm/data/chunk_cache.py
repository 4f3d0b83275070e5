"""Chunks of remote files in the cache of this machine: bounded, verified when they arrive, shared by its processes.

A chunk is a file `remote/<key>/<number>.bin`. It gets its name when all of its bytes are there and verified, under a
lock, so that each chunk is downloaded once however many processes of the machine need it. When the bound is reached the
chunks that were used longest ago are deleted; a chunk that a process is reading is locked and stays. Where the file
system has no locks, two processes may both download a chunk, which costs time and nothing else.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from ..atomic_io import REAL_FILES
from ..errors import ConfigError
from ..runtime import cache_dir, lock_folder, remote_cache_bytes, unlock
from ..text_format import format_bytes
from .download import cache_errors

FOLDER = "remote"  # below the cache folder
CHUNK_BYTES = 8 << 20  # a multiple of shards.BLOCK_BYTES
MAX_BYTES = 32 * 10**9  # of all chunks, or half of the disk's free space if that is less
# The least bound: a group of windows that order 3 permutes among each other is read from up to 48 chunks at random.
MIN_BYTES = 512_000_000
WAIT_SECONDS = 0.05  # before counting the room again

FetchFn = Callable[[], bytes]  # downloads and verifies a chunk


class ChunkCache:
    """The chunks in the cache folder.

    Args:
        max_bytes: bound of all chunks together; None: LIGHT_LLM_REMOTE_CACHE, or MAX_BYTES.
        chunk_bytes: of a whole chunk.

    Raises:
        ConfigError: the bound is too small for the chunks in use at one time.
    """

    def __init__(self, max_bytes: int | None = None, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.folder, self.chunk_bytes = cache_dir() / FOLDER, chunk_bytes
        if max_bytes is None:
            free = REAL_FILES.free(self.folder)
            available = MAX_BYTES if free is None else (free + self.size()) // 2
            max_bytes = remote_cache_bytes(max(min(MAX_BYTES, available), MIN_BYTES))
            if max_bytes < MIN_BYTES:
                raise ConfigError(
                    f"LIGHT_LLM_REMOTE_CACHE allows {format_bytes(max_bytes)} for chunks of remote shards; "
                    f"it must be at least {format_bytes(MIN_BYTES)}"
                )
        self.max_bytes = max_bytes

    def path(self, key: str, number: int) -> Path:
        """Return the file of a chunk, which need not exist."""
        return self.folder / key / f"{number:06d}.bin"

    def __contains__(self, chunk: tuple[str, int]) -> bool:
        return self.path(*chunk).is_file()

    def size(self) -> int:
        """Return the bytes of all chunks, those that are being downloaded included."""
        return sum(size for _, size, _ in self._files())

    @contextmanager
    def open(self, key: str, number: int, n_bytes: int, fetch: FetchFn) -> Iterator[int]:
        """Yield a file descriptor of a chunk, downloaded with `fetch` if it is missing. It is locked until the end.

        Raises:
            DataError: the chunk cannot be downloaded, or the cache cannot be written.
        """
        path = self.path(key, number)
        while (opened := _open_locked(path)) is None:
            self._download(path, n_bytes, fetch)
        handle, lock = opened
        try:
            # The time of the last use, by which chunks are deleted.
            with suppress(OSError):
                os.utime(path)
            yield handle
        finally:
            os.close(handle)
            unlock(lock)

    def remove(self, key: str, number: int) -> None:
        """Delete a chunk that was found to be damaged."""
        with suppress(OSError):
            self.path(key, number).unlink()

    def _download(self, path: Path, n_bytes: int, fetch: FetchFn) -> None:
        """Download a chunk, unless another process does so meanwhile: then wait for it."""
        with cache_errors("a chunk of a remote shard", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            lock = _lock_new(partial)
            if lock is None:
                # Without locks, each process writes to a file of its own.
                partial.unlink(missing_ok=True)
                partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            if path.is_file():
                partial.unlink(missing_ok=True)
                return
            self._reserve(partial, n_bytes)
            data = fetch()
            with cache_errors("a chunk of a remote shard", path):
                with open(partial, "r+b") as file:
                    file.write(data)
                # Not while another process counts: it would see neither name.
                with self._guard():
                    # Without locks, another process may have been faster, and may have the chunk open.
                    if path.is_file():
                        partial.unlink()
                    else:
                        REAL_FILES.rename(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        finally:
            unlock(lock)

    def _reserve(self, partial: Path, n_bytes: int) -> None:
        """Take room for a download with a file of its full size; delete the chunks used longest ago if need be.

        Waits while all the room is taken by chunks that are being read or downloaded.
        """
        with cache_errors("a chunk of a remote shard", partial):
            while True:
                # One process at a time: two that count before either has taken its room would exceed the bound.
                with self._guard() as is_locked:
                    if self._make_room(partial, n_bytes) or not is_locked:
                        with open(partial, "wb") as file:
                            file.truncate(n_bytes)
                        return
                time.sleep(WAIT_SECONDS)

    @contextmanager
    def _guard(self) -> Iterator[bool]:
        """Lock the names in the cache; yields False where there are no locks."""
        guard = lock_folder(self.folder, wait=True)
        try:
            yield guard is not None
        finally:
            unlock(guard)

    def _make_room(self, partial: Path, n_bytes: int) -> bool:
        """Delete the chunks used longest ago until n_bytes fit. Returns whether they do."""
        files = sorted(file for file in self._files() if file[2] != partial)
        total = sum(size for _, size, _ in files) + n_bytes
        for _, size, path in files:
            if total <= self.max_bytes:
                break
            total -= size * _delete_unused(path)
        return total <= self.max_bytes

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the time of last use, the size and the path of each chunk, those that are not complete included."""
        folders = [entry for entry in self.folder.iterdir() if entry.is_dir()] if self.folder.is_dir() else []
        for folder in folders:
            with suppress(OSError):
                for entry in os.scandir(folder):
                    if ".bin" in entry.name:
                        with suppress(OSError):  # it was deleted meanwhile
                            stat = entry.stat()
                            yield stat.st_mtime, stat.st_size, Path(entry.path)


class Prefetcher:
    """Downloads chunks in a thread, in the order in which they were asked for. A failure is left to the reader."""

    queue: SimpleQueue[tuple[tuple[str, int], Callable[[], object]]]
    pending: set[tuple[str, int]]  # in the queue or being downloaded
    thread: threading.Thread | None
    lock: threading.Lock
    pid: int

    def __init__(self) -> None:
        self._reset()

    def want(self, chunk: tuple[str, int], download: Callable[[], object]) -> None:
        """Call `download` in the thread, unless that chunk is waiting already."""
        if self.pid != os.getpid():  # a forked child has no thread, and may have a copy of a lock that is held
            self._reset()
        with self.lock:
            if chunk not in self.pending:
                self.pending.add(chunk)
                self.queue.put((chunk, download))
            if self.pending and self.thread is None:
                self.thread = threading.Thread(target=self._run, daemon=True, name="prefetching chunks")
                self.thread.start()

    def _reset(self) -> None:
        self.queue, self.pending, self.thread = SimpleQueue(), set(), None
        self.lock, self.pid = threading.Lock(), os.getpid()

    def _run(self) -> None:
        while True:
            with self.lock:
                if self.queue.empty():
                    self.thread = None
                    return
                chunk, download = self.queue.get()
            with suppress(Exception):
                download()
            with self.lock:
                self.pending.discard(chunk)


def _open_locked(path: Path) -> tuple[int, int | None] | None:
    """Return the file descriptor of a chunk and its shared lock, or None if the chunk is not cached."""
    while True:
        try:
            lock = lock_folder(path, wait=True, shared=True)
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return None
        # Between the two calls the chunk may have been deleted and downloaded again: then lock that one.
        if lock is None or os.fstat(lock).st_ino == os.fstat(handle).st_ino:
            return handle, lock
        os.close(handle)
        unlock(lock)


def _lock_new(path: Path) -> int | None:
    """Create a file if necessary and lock it; None where there are no locks.

    Another process may rename or delete the file while this one waits for the lock: then begin again.
    """
    while True:
        path.touch()
        try:
            lock = lock_folder(path, wait=True)
        except FileNotFoundError:
            continue
        with suppress(FileNotFoundError):
            if lock is None or os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        unlock(lock)


def _delete_unused(path: Path) -> bool:
    """Delete a chunk unless a process reads or downloads it. Returns whether it is gone."""
    try:
        lock = lock_folder(path)
    except FileNotFoundError:
        return True
    except OSError:  # BlockingIOError: it is in use
        return False
    if lock is None and "partial" in path.name:  # without locks, another process may be writing it
        return False
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows does not delete a file that is open
        return False
    finally:
        unlock(lock)
    return True
