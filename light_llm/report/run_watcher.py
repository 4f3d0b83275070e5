"""Keep runs up to date for the live page, within a limited share of one core."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import LightLLMError
from .find_runs import find_runs
from .liveness import last_update, seconds_since, training_since
from .page import page_state
from .run_log import RunLog, read_run_log

# Inode, size and time of change of each file; None for a missing one. Compared for equality only.
Stamp = tuple[tuple[int | bool, ...] | None, ...]
WATCHED_FILES = ("run.json", "metrics.jsonl", "analysis.json")


class RunWatcher:
    """The runs in and directly below some folders, which need not exist yet. For use in one thread.

    Runs keep their order, because the page refers to them by index.

    Args:
        share: limit on the share of one core spent on reading; slow reads happen less often.
        clock: monotonic seconds.
        work: seconds of processor time of this thread.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        share: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self.roots, self.share, self.clock, self.work = tuple(roots), share, clock, work
        self._runs: dict[Path, tuple[Stamp, RunLog]] = {}
        self._state, self._is_stale = (b"", ""), True
        self._next_read = float("-inf")

    def __len__(self) -> int:
        return len(self._runs)

    def state(self) -> tuple[bytes, str]:
        """Return the body of `/data.json`, as fresh as the share allows, and its ETag."""
        if self.clock() < self._next_read:
            return self._state
        start = self.work()
        try:
            self._read_changed()
            if self._is_stale:
                state = page_state([log for _, log in self._runs.values()])
                body = json.dumps(state, allow_nan=False, separators=(",", ":")).encode()
                self._state, self._is_stale = (body, etag(body)), False
        finally:
            self._next_read = self.clock() + (self.work() - start) * (1 / self.share - 1)
        return self._state

    def _read_changed(self) -> None:
        """Read the runs of which a file has changed."""
        for folder in find_runs(root for root in self.roots if root.is_dir()):
            stamp = (*(_file_stamp(folder / name) for name in WATCHED_FILES), _activity(folder))
            if folder not in self._runs or self._runs[folder][0] != stamp:
                # A run that has just begun or is damaged must not hide the others; its last state stays.
                with suppress(LightLLMError, OSError, ValueError, ArithmeticError, TypeError):
                    self._runs[folder] = (stamp, read_run_log(folder))
                    self._is_stale = True


def etag(body: bytes) -> str:
    """Return an ETag: a hash of the bytes."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _activity(folder: Path) -> tuple[int | bool, ...]:
    """Return whether a process trains into the folder, and if so the half minutes since its last row."""
    since, updated = training_since(folder), last_update(folder) or 0.0
    return (True, int(seconds_since(max(since, updated)) // 30)) if since is not None else (False,)


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
