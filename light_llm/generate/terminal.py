"""Input and output of the REPL: a terminal with history and Tab completion, or plain pipes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from ..atomic_io import atomic_path
from ..runtime import cache_dir

PROMPT = "> "
HISTORY_LINES = 1_000
# A model may generate any character. A terminal would obey control characters, so they are replaced by visible ones
# (an escape by ␛).
VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n\r"} | {ord("\r"): None, 127: 0x2421}
VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
BOLD, DIM = "1", "2"


@dataclass(frozen=True)
class Terminal:
    """Two output streams and their capabilities."""

    out: TextIO  # for answers
    err: TextIO  # for messages
    interactive: bool = False  # lines are typed, so prompts and notes are shown
    live: bool = False  # `out` is a terminal
    styled: bool = False  # it supports bold and dim, and NO_COLOR is not set

    def text(self, text: str, style: str = "") -> None:
        """Write a part of an answer."""
        self._write(self.out, text.translate(VISIBLE) if self.live else text, style)

    def note(self, text: str) -> None:
        """Write a line that is not part of an answer: to `err` if the answers go to a file or a program."""
        to_out = self.interactive and self.live
        self._write(self.out if to_out else self.err, text, DIM if to_out else "", end="\n")

    def error(self, message: str) -> None:
        """Write an error message."""
        self._write(self.err, f"error: {message}", end="\n")

    def _write(self, stream: TextIO, text: str, style: str = "", end: str = "") -> None:
        if style and self.styled and text:
            text = f"\x1b[{style}m{text}\x1b[0m"
        stream.write(text + end)
        stream.flush()


def detect_terminal(source: TextIO, out: TextIO, err: TextIO) -> Terminal:
    """Return the capabilities of a process's streams."""
    from rich.console import Console as RichConsole

    rich = RichConsole(file=out)  # it knows NO_COLOR, dumb terminals and old Windows
    styled = rich.is_terminal and not rich.no_color and rich.color_system is not None and not rich.legacy_windows
    return Terminal(out, err, interactive=source.isatty(), live=out.isatty(), styled=styled)


def line_reader(source: TextIO, terminal: Terminal, commands: Sequence[str]) -> Callable[[], str]:
    """Return a function that returns the next line without its line break, and raises EOFError after the last.

    In a terminal lines can be edited, Tab completes the commands, and the arrow keys recall lines of this session and
    earlier ones, if Python has `readline`.
    """

    def piped() -> str:
        line = source.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def prompted() -> str:
        terminal.err.write(PROMPT)
        terminal.err.flush()
        return piped()

    def typed() -> str:
        with interruptible_wait():
            line = input(PROMPT)
        add_to_history(line)
        return line

    if not terminal.interactive:
        return piped
    if not terminal.live:  # Python's line editor needs a terminal at both ends
        return prompted
    edit_lines(commands)
    return typed


def edit_lines(commands: Sequence[str]) -> None:
    """Give `input` the history of earlier sessions and completion of commands, if Python has `readline`."""
    try:
        import readline
    except ImportError:  # Windows, and some builds
        return

    def complete(prefix: str, n: int) -> str | None:
        return dict(enumerate(completions(prefix, commands) if readline.get_begidx() == 0 else [])).get(n)

    for line in read_history():
        readline.add_history(line)
    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    # On macOS the same module uses another library, with a syntax of its own.
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def completions(prefix: str, commands: Sequence[str]) -> list[str]:
    """Return the commands with this prefix. A line without a slash is text and has no completions.

    >>> completions("/to", ["/top-k", "/top-p", "/quit"]), completions("To be", ["/top-k"])
    (['/top-k', '/top-p'], [])
    """
    return [name for name in commands if prefix.startswith("/") and name.startswith(prefix)]


def read_history() -> list[str]:
    """Return the last lines of earlier sessions; [] if the file cannot be read."""
    try:
        lines = _history().read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, RuntimeError):
        return []
    return [line for line in lines if line][-HISTORY_LINES:]


def add_to_history(line: str) -> None:
    """Add a line to the history file. A failure is silent."""
    # At once and not at the end, so that closing the window loses no line.
    lines = read_history()
    if not line or "\n" in line or lines[-1:] == [line]:
        return
    with suppress(OSError, RuntimeError):
        path = _history()
        with atomic_path(path) as new:
            new.touch(mode=0o600)  # typed text may be private
            new.write_text("\n".join([*lines, line][-HISTORY_LINES:]) + "\n", encoding="utf-8", errors="replace")


def _history() -> Path:
    return cache_dir() / "interactive-history.txt"


@contextmanager
def interruptible_wait() -> Iterator[None]:
    """Let Ctrl-C end the wait for a key inside the block at once, whenever it is pressed.

    The line editor waits in a `select` that a signal ends only if it arrives during that call; a Ctrl-C just before
    the call would go unnoticed until the next key. A thread that is woken by the signal (`set_wakeup_fd`) therefore
    interrupts the call until the block ends. It sends SIGWINCH, which only makes the editor read the window size again.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main or not hasattr(signal, "pthread_kill"):  # Windows waits differently
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()

    def interrupt_select() -> None:
        if os.read(reader, 1):
            while not ended.wait(0.05):
                signal.pthread_kill(main.ident or 0, signal.SIGWINCH)
        os.close(reader)

    threading.Thread(target=interrupt_select, name="ctrl-c", daemon=True).start()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        os.close(writer)


@contextmanager
def delayed_interrupt() -> Iterator[Callable[[], None]]:
    """Delay Ctrl-C inside the block to the next call of the yielded function. A second Ctrl-C is not delayed.

    Raises:
        KeyboardInterrupt: at the call after a Ctrl-C.
    """
    # Without the delay it may be raised inside a library's callback, where Python drops it, and the answer continues.
    pressed = 0

    def count_press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    def raise_if_pressed() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield raise_if_pressed
        return
    previous = signal.signal(signal.SIGINT, count_press)
    try:
        yield raise_if_pressed
    finally:
        signal.signal(signal.SIGINT, previous)
