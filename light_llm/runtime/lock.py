"""Lock a folder or file until the process that holds the lock ends, in whatever way.

POSIX only: Windows has no `flock`, and some network file systems refuse it. There, nothing is locked.
"""

import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .env import cache_dir

if sys.platform != "win32":
    import fcntl


# The handles of this process. A child that is forked, such as a worker of torch's DataLoader, closes its copies: the
# lock would otherwise last until the child ends.
_held: set[int] = set()


def _close_copies() -> None:
    """Close the handles that a forked child has inherited; the locks stay with the parent."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def lock_folder(folder: Path, *, wait: bool = False, shared: bool = False) -> int | None:
    """Lock a folder or file and return a handle for `unlock`; None where that is not possible.

    Args:
        wait: for a process that holds a lock which excludes this one.
        shared: exclude only locks that are not shared.

    Raises:
        BlockingIOError: another process holds such a lock, and `wait` is False.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    _held.add(handle)
    return handle


def unlock(handle: int | None) -> None:
    """Release a lock."""
    # A handle of the parent of a forked process is closed already, and its number may be that of another file.
    if handle in _held:
        _held.discard(handle)
        os.close(handle)


def lock_while_alive(owner: object, path: Path) -> None:
    """Hold a shared lock on a file as long as an object exists: `light-llm cache clear` does not delete the file."""
    with suppress(OSError):
        weakref.finalize(owner, unlock, lock_folder(path, wait=True, shared=True))


@contextmanager
def cache_in_use() -> Iterator[None]:
    """Hold a shared lock on the cache folder: meanwhile `light-llm cache clear` deletes nothing."""
    handle = None
    with suppress(OSError):  # a cache that cannot be created is reported by what needs it
        cache_dir().mkdir(parents=True, exist_ok=True)
        handle = lock_folder(cache_dir(), wait=True, shared=True)
    try:
        yield
    finally:
        unlock(handle)
