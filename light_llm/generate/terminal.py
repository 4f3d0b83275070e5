"""Where lines come from and where text goes: a terminal with history and Tab, or plain pipes."""

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
# A model may write any character; in a terminal those that command it are shown instead (an escape as ␛).
VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n\r"} | {ord("\r"): None, 127: 0x2421}
VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
BOLD, DIM = "1", "2"


@dataclass(frozen=True)
class Screen:
    """Two streams, and what is known of them.

    Attributes:
        out: gets the answers.
        err: gets the messages.
        asks: somebody types the lines, so prompts and remarks are welcome.
        live: `out` is a terminal.
        styled: it understands bold and dim, and nobody asked for plain text.
    """

    out: TextIO
    err: TextIO
    asks: bool = False
    live: bool = False
    styled: bool = False

    def text(self, text: str, style: str = "") -> None:
        """A part of an answer, shown at once."""
        self._write(self.out, text.translate(VISIBLE) if self.live else text, style)

    def remark(self, text: str) -> None:
        """A line that is no answer: out of the way where the answers go to a file or a program."""
        at_hand = self.asks and self.live
        self._write(self.out if at_hand else self.err, text, DIM if at_hand else "", end="\n")

    def error(self, message: str) -> None:
        """A line about something that cannot be done."""
        self._write(self.err, f"error: {message}", end="\n")

    def _write(self, stream: TextIO, text: str, style: str = "", end: str = "") -> None:
        if style and self.styled and text:
            text = f"\x1b[{style}m{text}\x1b[0m"
        stream.write(text + end)
        stream.flush()


def screen_of(source: TextIO, out: TextIO, err: TextIO) -> Screen:
    """What the streams of a process are: terminals or not."""
    from rich.console import Console as RichConsole

    look = RichConsole(file=out)  # it knows NO_COLOR, dumb terminals and old Windows
    styled = look.is_terminal and not look.no_color and look.color_system is not None and not look.legacy_windows
    return Screen(out, err, asks=source.isatty(), live=out.isatty(), styled=styled)


def line_reader(source: TextIO, screen: Screen, commands: Sequence[str]) -> Callable[[], str]:
    """A function that gives the next line without its end, and raises EOFError after the last.

    In a terminal a line can be edited, Tab completes the commands, and the arrows bring back what was typed before,
    today or earlier: wherever Python has `readline`; without it lines are plain.
    """

    def piped() -> str:
        line = source.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def prompted() -> str:
        screen.err.write(PROMPT)
        screen.err.flush()
        return piped()

    def typed() -> str:
        with ctrl_c_heard():
            line = input(PROMPT)
        remember(line)
        return line

    if not screen.asks:
        return piped
    if not screen.live:  # Python edits lines only where both ends are a terminal
        return prompted
    edit_lines(commands)
    return typed


def edit_lines(commands: Sequence[str]) -> None:
    """Give `input` the history of earlier sessions and completion of commands, where Python has `readline`."""
    try:
        import readline
    except ImportError:  # Windows, and some builds
        return

    def complete(prefix: str, n: int) -> str | None:
        return dict(enumerate(completions(prefix, commands) if readline.get_begidx() == 0 else [])).get(n)

    for line in recall():
        readline.add_history(line)
    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    libedit = "libedit" in (readline.__doc__ or "")  # macOS: the same module over another library
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def completions(prefix: str, commands: Sequence[str]) -> list[str]:
    """The commands that begin so. What does not begin with a slash is text, and nobody's to complete.

    >>> completions("/to", ["/top-k", "/top-p", "/quit"]), completions("To be", ["/top-k"])
    (['/top-k', '/top-p'], [])
    """
    return [name for name in commands if prefix.startswith("/") and name.startswith(prefix)]


def recall() -> list[str]:
    """The last lines typed at earlier starts; none where they cannot be read."""
    try:
        lines = _history().read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, RuntimeError):
        return []
    return [line for line in lines if line][-HISTORY_LINES:]


def remember(line: str) -> None:
    """Keep a line for the next start, at once, so that a closed window loses none. A failure is silent."""
    lines = recall()
    if not line or "\n" in line or lines[-1:] == [line]:
        return
    with suppress(OSError, RuntimeError):
        path = _history()
        with atomic_path(path) as new:
            new.touch(mode=0o600)  # what was typed may be private
            new.write_text("\n".join([*lines, line][-HISTORY_LINES:]) + "\n", encoding="utf-8", errors="replace")


def _history() -> Path:
    return cache_dir() / "interactive-history.txt"


@contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """Inside the block Ctrl-C ends the waiting for a key, whenever it comes.

    Python's line editor waits in a `select` that a signal ends only if it arrives during that call; between two keys
    it would be noticed at the next key. So a thread is told of the signal where it arrives (`set_wakeup_fd`) and
    interrupts the call until somebody has looked. It does so with SIGWINCH, which means "look at the window again" and
    harms nobody.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main or not hasattr(signal, "pthread_kill"):  # Windows waits otherwise
        yield
        return
    pressed, tell = os.pipe()
    os.set_blocking(tell, False)
    over = threading.Event()

    def nudge() -> None:
        if os.read(pressed, 1):
            while not over.wait(0.05):
                signal.pthread_kill(main.ident or 0, signal.SIGWINCH)
        os.close(pressed)

    threading.Thread(target=nudge, name="ctrl-c", daemon=True).start()
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(tell)


@contextmanager
def between_tokens() -> Iterator[Callable[[], None]]:
    """Inside the block Ctrl-C waits for a call of the given function, which raises it.

    Raised just anywhere it may come up inside a library's callback, where Python drops it, and the answer would go on.
    A second Ctrl-C does not wait.

    Raises:
        KeyboardInterrupt: at the call after a Ctrl-C.
    """
    pressed = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    def stop_here() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there does Python hand out signals
        yield stop_here
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_here
    finally:
        signal.signal(signal.SIGINT, before)
