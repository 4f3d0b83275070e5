"""Text output that survives a closed pipe or terminal and a full disk."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO


class SafeStream:
    """A text stream that falls silent, instead of raising, once it cannot be written.

    Rich draws progress lines in a thread of its own, where no caller could catch the error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; discard it once the stream has failed."""
        try:
            self.stream.write(text)
        # A UnicodeError is a ValueError, but means a character that the encoding lacks, not a lost stream.
        except UnicodeError:
            raise
        except (OSError, ValueError):
            self.redirect_to_null()
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it has failed."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.redirect_to_null()

    def redirect_to_null(self) -> None:
        """Redirect the stream to the null device, so that text in its buffer cannot fail when Python exits."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class LogFile:
    """A file of whole lines that keeps in memory what it cannot write, and tries again with the next line.

    A disk that fills up takes a part of a line; the rest follows at that byte, so no line is torn or written twice.

    Args:
        fresh: empty an existing file.
        warn: called when the file cannot be written, and at the end if lines are missing.
    """

    def __init__(self, path: Path, *, fresh: bool, warn: Callable[[str], object]) -> None:
        self.path, self.warn = path, warn
        self.unwritten = bytearray()
        self.warned = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        # Unbuffered: os.write returns how many bytes the disk took, which a buffered file hides.
        self.handle = os.open(path, flags | (os.O_TRUNC if fresh else 0), 0o666)

    def add(self, line: str) -> None:
        """Append a line, its ending included, after any lines that wait."""
        self.unwritten += line.encode(errors="replace")
        try:
            while self.unwritten:
                del self.unwritten[: os.write(self.handle, self.unwritten)]
        except OSError as error:
            if not self.warned:
                # Set before the call: the warning itself may be logged to this file.
                self.warned = True
                self.warn(
                    f"notice   {self.path} cannot be written ({error.strerror}): its lines are kept in memory and "
                    "tried again at each step"
                )

    def close(self) -> None:
        """Try to write waiting lines once more, and close the file."""
        self.add("")
        os.close(self.handle)
        if self.unwritten:
            self.warn(f"notice   {self.path} lacks its last {self.unwritten.count(10):,} lines: it cannot be written")
