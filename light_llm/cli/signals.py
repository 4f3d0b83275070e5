"""Signals: what Ctrl-C, SIGTERM, a closed terminal and a wish to save do to a verb, and what to a training.

A verb is ended by an exception, so that temporary files go and nothing that was complete is lost. A training is asked,
and ends after a step. Either way the second signal leaves at once.
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
CLOSED_TERMINAL = getattr(signal, "SIGHUP", None)
SAVE = getattr(signal, "SIGUSR1", None)


@dataclass
class ReceivedSignal:
    """The signal that came first, if one came."""

    number: int | None = None
    sent_again: bool = False  # what comes now is the first signal once more, and no second one


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Inside the block the first SIGINT or SIGTERM raises `Interrupted`; the second leaves at once.

    Where an exception could be lost it is raised a moment later: in a callback, where Python drops exceptions, and in
    an import, because many a package tries another one and takes whatever is raised for its absence.
    """
    caught, hook_before = ReceivedSignal(), sys.unraisablehook

    def handle(number: int, frame: FrameType | None) -> None:
        if caught.number is not None and not caught.sent_again:
            os._exit(128 + number)
        caught.number, caught.sent_again = number, False
        if is_importing(frame):
            return _send_again(caught)
        raise Interrupted(number)

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, Interrupted):
            return hook_before(what)
        _send_again(caught)

    sys.unraisablehook = dropped
    try:
        with _handled({signal.SIGINT: handle, signal.SIGTERM: handle}):
            yield
    finally:
        caught.number = None
        sys.unraisablehook = hook_before


def is_importing(frame: FrameType | None) -> bool:
    """Whether what a frame does is part of an import."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


@contextmanager
def default_sigint() -> Iterator[None]:
    """Inside the block each Ctrl-C is a KeyboardInterrupt: at a prompt it ends an answer and not the program."""
    with _handled({signal.SIGINT: signal.default_int_handler}):
        yield


@contextmanager
def ignore_hangup() -> Iterator[None]:
    """Inside the block a terminal that is closed ends nothing, and neither does a wish to save that comes too early."""
    with _handled({number: signal.SIG_IGN for number in (CLOSED_TERMINAL, SAVE) if number is not None}):
        yield


@contextmanager
def stop_on_signals(
    request_stop: Callable[[], None], request_save: Callable[[], None] = lambda: None
) -> Iterator[ReceivedSignal]:
    """Inside the block SIGINT and SIGTERM ask for a stop, the second leaves at once; SIGUSR1 asks for a save."""
    caught = ReceivedSignal()

    def handle(number: int, frame: FrameType | None) -> None:
        if caught.number is not None:
            os._exit(128 + number)
        caught.number = number
        request_stop()
        with suppress(OSError):  # the terminal may be gone
            print("\nstopping after this step, and saving; once more leaves at once", file=sys.stderr, flush=True)

    handlers: dict[int, Handler] = {signal.SIGINT: handle, signal.SIGTERM: handle}
    if SAVE is not None:
        handlers[SAVE] = lambda number, frame: request_save()
    with _handled(handlers):
        yield caught


def _send_again(caught: ReceivedSignal) -> None:
    """The signal that was caught once more, in a moment, to the main thread: it also ends what that waits in.

    A thread of the lower module takes no lock to start, and what was interrupted may hold any.
    """
    _thread.start_new_thread(_send, (caught,))


def _send(caught: ReceivedSignal) -> None:
    time.sleep(0.05)
    number = caught.number
    if number is None:  # the block is over
        return
    caught.sent_again = True
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextmanager
def _handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Inside the block these handlers act; those from before are put back. Only a main thread has any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
