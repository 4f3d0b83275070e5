"""Streams that may go away: a pipe nobody reads any more, a terminal that was closed, a disk that is full."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO


class SafeStream:
    """A text stream for people: once it cannot be written it falls silent, whichever thread wrote.

    A progress line is drawn by a thread of its own, where an error could not be caught.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write if it is still possible."""
        try:
            self.stream.write(text)
        except UnicodeError:  # a letter that the stream lacks is another matter
            raise
        except (OSError, ValueError):
            self.redirect_to_null()
        return len(text)

    def flush(self) -> None:
        """Flush if it is still possible."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.redirect_to_null()

    def redirect_to_null(self) -> None:
        """Lead the stream to nowhere, so that nothing that is still buffered fails later."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class LogFile:
    """Appends whole lines to a file. What cannot be written is kept, and written as soon as it can be again.

    A line of which the disk took a part is gone on with at that byte, so none is ever cut or there twice.

    Args:
        fresh: an old file is emptied first.
        warn: told once that the file cannot be written, and at the end what it lacks.
    """

    def __init__(self, path: Path, *, fresh: bool, warn: Callable[[str], object]) -> None:
        self.path, self.warn = path, warn
        self.unwritten = bytearray()
        self.warned = False
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self.handle = os.open(path, how | (os.O_TRUNC if fresh else 0), 0o666)

    def add(self, line: str) -> None:
        """Append a line, ending included; and what waits before it."""
        self.unwritten += line.encode(errors="replace")
        try:
            while self.unwritten:
                del self.unwritten[: os.write(self.handle, self.unwritten)]
        except OSError as error:
            if not self.warned:
                self.warned = True  # first: what is said may come here as a line
                self.warn(
                    f"notice   {self.path} cannot be written ({error.strerror}): its lines are kept in memory and "
                    "tried again at each step"
                )

    def close(self) -> None:
        """Try a last time."""
        self.add("")
        os.close(self.handle)
        if self.unwritten:
            self.warn(f"notice   {self.path} lacks its last {self.unwritten.count(10):,} lines: it cannot be written")
