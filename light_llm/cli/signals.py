"""Handle Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal, in any command and during training.

A command is ended by an exception, so that temporary files are removed and finished work is kept. A training is asked
to stop, and ends after the current step. Either way a second signal ends the process at once.
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..errors import Interrupted

Handler = Callable[[int, FrameType | None], None]
# Windows has neither.
SIGHUP = getattr(signal, "SIGHUP", None)
SIGUSR1 = getattr(signal, "SIGUSR1", None)


@dataclass
class ReceivedSignal:
    """The first signal that was received, if any."""

    number: int | None = None
    resent: bool = False  # the next signal is the first one again, and not a second one


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise `Interrupted` inside the block on the first SIGINT or SIGTERM, and exit on the second."""
    received, original_hook = ReceivedSignal(), sys.unraisablehook

    def handle(number: int, frame: FrameType | None) -> None:
        if received.number is not None and not received.resent:
            os._exit(128 + number)
        received.number, received.resent = number, False
        raise Interrupted(number)

    # Python drops an exception that is raised while it calls __del__ or another callback. Without this hook a signal
    # at that moment would be lost.
    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, Interrupted):
            return original_hook(what)
        # A thread of `_thread`, because Thread.start takes a lock that the interrupted code may hold.
        _thread.start_new_thread(_resend, (received,))

    sys.unraisablehook = unraisable
    try:
        with _handlers({signal.SIGINT: handle, signal.SIGTERM: handle}):
            yield
    finally:
        received.number = None
        sys.unraisablehook = original_hook


def _resend(received: ReceivedSignal) -> None:
    """Send the received signal to the main thread again, after 50 ms, so that it interrupts a blocking call there."""
    time.sleep(0.05)
    number = received.number
    # None: the block that would handle it has ended.
    if number is None:
        return
    received.resent = True
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextmanager
def postponed_signals() -> Iterator[None]:
    """Handle the first SIGINT or SIGTERM of the block at its end, and exit on the second.

    For imports of torch: an exception that is raised there in a call from C++ aborts the process.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    with _handlers({signal.SIGINT: handle, signal.SIGTERM: handle}):
        yield
    for number in received:
        signal.raise_signal(number)


@contextmanager
def default_sigint() -> Iterator[None]:
    """Make each Ctrl-C a KeyboardInterrupt inside the block: at a prompt it ends the answer and not the program."""
    with _handlers({signal.SIGINT: signal.default_int_handler}):
        yield


@contextmanager
def ignore_hangup() -> Iterator[None]:
    """Ignore SIGHUP and SIGUSR1 inside the block.

    A run survives its terminal, also while the text is prepared. SIGUSR1 asks a training to save; by default it would
    kill a process that is not training yet.
    """
    with _handlers({number: signal.SIG_IGN for number in (SIGHUP, SIGUSR1) if number is not None}):
        yield


@contextmanager
def stop_on_signals(
    request_stop: Callable[[], None], request_save: Callable[[], None] = lambda: None, *, quiet: bool = False
) -> Iterator[ReceivedSignal]:
    """Request a stop on the first SIGINT or SIGTERM, exit on the second, and request a save on SIGUSR1.

    Args:
        quiet: do not say so.
    """
    received = ReceivedSignal()

    def handle(number: int, frame: FrameType | None) -> None:
        if received.number is not None:
            os._exit(128 + number)
        received.number = number
        request_stop()
        if quiet:
            return
        # The terminal may be closed.
        with suppress(OSError):
            print(
                "\nstopping after this step, and saving; press Ctrl-C again to leave at once",
                file=sys.stderr,
                flush=True,
            )

    handlers: dict[int, Handler] = {signal.SIGINT: handle, signal.SIGTERM: handle}
    if SIGUSR1 is not None:
        handlers[SIGUSR1] = lambda number, frame: request_save()
    with _handlers(handlers):
        yield received


@contextmanager
def _handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Install signal handlers inside the block, and restore the previous ones. Only the main thread may have any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
