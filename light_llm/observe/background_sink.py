"""Rows for somebody else's program: a tracker on the network, a picture, a notebook. It can fail; the run cannot."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from .metrics import Row, Sink

ROOM = 10_000  # rows that may wait
PATIENCE = 5.0  # seconds that the end of a run waits for the last rows


class BackgroundSink:
    """Hands rows to a sink in a thread of its own: however slow or broken it is, the run neither waits nor ends.

    A sink that raises is dropped, one that does not keep up loses rows; either is said once. `metrics.jsonl` has all.

    Args:
        name: what to call it in a notice.
        make: gives the sink; called in the thread too, since logging in to a tracker can fail or hang. A sink that has
            a `close` is closed after the last row.
        say: where notices go.
        room: rows that may wait.
        patience: seconds to wait for the last rows.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        say: Callable[[str], object],
        *,
        room: int = ROOM,
        patience: float = PATIENCE,
    ) -> None:
        self.name, self.make, self.say, self.patience = name, make, say, patience
        self.waiting: queue.Queue[Row | None] = queue.Queue(room)
        self.problem: BaseException | None = None
        self.dropped, self.warned = 0, False
        self.over = threading.Event()
        threading.Thread(target=self._work, name=f"tracker {name}", daemon=True).start()

    @classmethod
    def of(cls, sink: Sink, say: Callable[[str], object], **how: Any) -> "BackgroundSink":
        """Around a sink that is there already, by the name it has."""
        return cls(getattr(sink, "__name__", type(sink).__name__), lambda: sink, say, **how)

    def __call__(self, row: Row) -> None:
        """Take a row; never waits, never raises."""
        if not self.over.is_set():
            try:
                self.waiting.put_nowait(dict(row))
            except queue.Full:
                self.dropped += 1
        self._notice()

    def close(self) -> None:
        """After the last row: wait for a while, and say what was not handed over."""
        if not self.over.is_set():
            try:
                self.waiting.put(None, timeout=self.patience)
                self.over.wait(self.patience)
            except queue.Full:
                self.dropped += 1
        self._notice()
        if not self.over.is_set():
            self.say(f"notice   the tracker {self.name} did not take its last rows in {self.patience:g} s: left behind")

    def _notice(self) -> None:
        """Said by the run's own thread: the log is its."""
        if self.warned or not (self.problem or self.dropped):
            return
        self.warned = True
        if self.problem:
            why = f"failed ({type(self.problem).__name__}: {self.problem}): it gets no more rows"
        else:
            why = "does not keep up: rows for it are dropped"
        self.say(f"notice   the tracker {self.name} {why}; the run goes on, metrics.jsonl has every row")

    def _work(self) -> None:
        try:
            sink = self.make()
            while (row := self.waiting.get()) is not None:
                sink(row)
            getattr(sink, "close", lambda: None)()
        except BaseException as error:  # also a SystemExit: it would end this thread without a word
            self.problem = error
        finally:
            self.over.set()
