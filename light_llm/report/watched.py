"""Runs as they are now: read again when a file of theirs has changed, and never for more than a share of the time."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import LightLLMError
from .page import state_of
from .shelf import find_runs
from .view import View, read_view

Stamp = tuple[tuple[int, int, int] | None, ...]
FILES = ("run.json", "metrics.jsonl", "analysis.json")  # what a view is made of


@dataclass(frozen=True)
class State:
    """What `/data.json` answers."""

    body: bytes
    tag: str  # the same for the same body


class Watched:
    """The runs in and directly below some folders, which may be still to come. For one thread.

    A run that was seen once keeps its number: a page names runs by it.

    Args:
        share: of one core, at most, for reading; what takes longer is done less often.
        clock: seconds on the wall.
        work: seconds that this thread has computed.
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
        self._known: dict[Path, tuple[Stamp, View]] = {}
        self._state, self._is_stale = State(b"", ""), True
        self._rests_until = float("-inf")

    @property
    def folders(self) -> list[Path]:
        """The runs by number."""
        return list(self._known)

    def views(self) -> list[View]:
        """The runs by number, as fresh as the share allows."""
        self._refresh()
        return [view for _, view in self._known.values()]

    def state(self) -> State:
        """The same as the page asks for it."""
        self._refresh()
        return self._state

    def _refresh(self) -> None:
        if self.clock() < self._rests_until:
            return
        began = self.work()
        try:
            self._read()
            if self._is_stale:
                state = state_of([view for _, view in self._known.values()])
                body = json.dumps(state, allow_nan=False, separators=(",", ":")).encode()
                self._state, self._is_stale = State(body, tag_of(body)), False
        finally:
            self._rests_until = self.clock() + (self.work() - began) * (1 / self.share - 1)

    def _read(self) -> None:
        """Read the runs of which a file has changed."""
        for folder in find_runs(root for root in self.roots if root.is_dir()):
            stamp = _stamp(folder)
            if folder not in self._known or self._known[folder][0] != stamp:
                # Just begun, or damaged in whatever way: what was seen of it last is shown, and the others as they are.
                with suppress(LightLLMError, OSError, ValueError, ArithmeticError, TypeError):
                    self._known[folder] = (stamp, read_view(folder))
                    self._is_stale = True


def tag_of(body: bytes) -> str:
    """An ETag: another for other bytes."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _stamp(folder: Path) -> Stamp:
    """What changes when a file does: which it is, its size, when it was written. Only whether they differ counts."""
    return tuple(_facts(folder / name) for name in FILES)


def _facts(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
