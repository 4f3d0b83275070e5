"""Pass rows to a sink that may be slow or fail, such as a tracker on the network, without affecting the run."""

import queue
import threading
from collections.abc import Callable

from .metrics import Row, Sink

MAX_WAITING_ROWS = 10_000
CLOSE_TIMEOUT = 5.0  # seconds that the end of a run waits for the last rows


class BackgroundSink:
    """A sink that passes rows to another in a thread, so that the run never waits for it or ends with it.

    A sink that raises gets no more rows, one that is too slow loses rows; either is reported once. `metrics.jsonl` has
    every row.

    Args:
        name: of the sink, for messages.
        make: returns the sink. It is called in the thread, because logging in to a tracker can fail or hang. If the
            sink has a `close` method, it is called after the last row.
        say: receives messages.
    """

    def __init__(self, name: str, make: Callable[[], Sink], say: Callable[[str], object]) -> None:
        self.name, self.make, self.say = name, make, say
        self.waiting: queue.Queue[Row | None] = queue.Queue(MAX_WAITING_ROWS)
        self.error: BaseException | None = None
        self.dropped, self.warned = 0, False
        self.finished = threading.Event()
        threading.Thread(target=self._work, name=f"tracker {name}", daemon=True).start()

    @classmethod
    def of(cls, sink: Sink, say: Callable[[str], object]) -> "BackgroundSink":
        """Wrap an existing sink, under the name of its function or class."""
        return cls(getattr(sink, "__name__", type(sink).__name__), lambda: sink, say)

    def __call__(self, row: Row) -> None:
        """Take a row without waiting or raising."""
        if not self.finished.is_set():
            try:
                self.waiting.put_nowait(dict(row))
            except queue.Full:
                self.dropped += 1
        self._report()

    def close(self) -> None:
        """Wait for the last rows until the timeout, and report those that were not delivered."""
        if not self.finished.is_set():
            try:
                self.waiting.put(None, timeout=CLOSE_TIMEOUT)
                self.finished.wait(CLOSE_TIMEOUT)
            except queue.Full:
                self.dropped += 1
        self._report()
        if not self.finished.is_set():
            self.say(f"notice   the tracker {self.name} did not take its last rows in {CLOSE_TIMEOUT:g} s")

    def _report(self) -> None:
        """Report a failure once. Called in the run's thread, because the log is not thread-safe."""
        if self.warned or not (self.error or self.dropped):
            return
        self.warned = True
        reason = "does not keep up: rows for it are dropped"
        if self.error:
            reason = f"failed ({type(self.error).__name__}: {self.error}): it gets no more rows"
        self.say(f"notice   the tracker {self.name} {reason}; the run continues, and metrics.jsonl has every row")

    def _work(self) -> None:
        # The thread is a daemon: a sink that hangs must not keep the process alive.
        try:
            sink = self.make()
            while (row := self.waiting.get()) is not None:
                sink(row)
            getattr(sink, "close", lambda: None)()
        # Also SystemExit, which would end this thread silently.
        except BaseException as error:
            self.error = error
        finally:
            self.finished.set()
