"""Save a text that comes through a pipe: it is read more than once, and a resumed run must find it again."""

import gzip
import sys
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from ..atomic_io import write_by_digest
from ..errors import DataError
from ..runtime import cache_dir
from .decode_utf8 import READ_BYTES, check_is_text
from .download import cache_errors
from .file_formats import GZIP, PARQUET, START_BYTES
from .json_records import DETECT_BYTES, detect_records

STDIN = "-"


class _NoInput(DataError):
    """Standard input without any text."""


class _PeekableStream:
    """A pipe whose first bytes can be read twice."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe, self._start = pipe, b""

    def peek(self, size: int) -> bytes:
        """Return the first bytes, `size` of them unless the stream has fewer, which `read` will return again."""
        while len(self._start) < size and (more := self._pipe.read(size - len(self._start))):
            self._start += more
        return self._start[:size]

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; all of them for -1; none at the end."""
        start, self._start = (self._start, b"") if size < 0 else (self._start[:size], self._start[size:])
        return start if start and size >= 0 else start + self._pipe.read(size)


def save_stdin(pipe: Path | BinaryIO | None = None) -> Path:
    """Copy a pipe, by default standard input, to `<cache>/stdin/<sha256><suffix>`, and return that path.

    gzip is unpacked. The suffix says what the text is: .txt, .jsonl, .json or .parquet.

    Raises:
        DataError: the pipe is empty, or no text; standard input is closed or a terminal; the file cannot be written.
    """
    if isinstance(pipe, Path):
        with open(pipe, "rb") as file:
            return save_stdin(file)
    if pipe is None:
        if sys.stdin is None or sys.stdin.closed:
            raise _NoInput("{--data -} reads standard input, which is closed; pipe a text into it, or name a file")
        if sys.stdin.isatty():
            raise _NoInput(
                "{--data -} reads standard input, which is a terminal; pipe a text into it, as in cat my.txt | ..., "
                "or name a file"
            )
        pipe = sys.stdin.buffer
    folder = _folder()
    with cache_errors("the text of the pipe", folder):
        try:
            return _save(_unpacked(pipe), folder)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"standard input (or the pipe) is damaged gzip data ({error}); send it again") from None


def _unpacked(pipe: BinaryIO) -> _PeekableStream:
    """Return the stream of a pipe, without its compression by gzip. Raises DataError if nothing can be read."""
    stream = _PeekableStream(pipe)
    try:
        is_packed = stream.peek(len(GZIP)) == GZIP
    except OSError as error:
        raise _NoInput(f"standard input (or the pipe) cannot be read: {error.strerror or error}") from None
    return _PeekableStream(cast(BinaryIO, gzip.GzipFile(fileobj=cast(BinaryIO, stream)))) if is_packed else stream


def _save(stream: _PeekableStream, folder: Path) -> Path:
    start = stream.peek(DETECT_BYTES)
    if not start:
        raise _NoInput("standard input (or the pipe) is empty; pipe a text into it, or name a file")
    is_parquet = start.startswith(PARQUET)
    if not is_parquet:
        check_is_text("standard input (or the pipe)", start[:START_BYTES])
    records = detect_records(start, is_whole=len(start) < DETECT_BYTES)
    suffix = "parquet" if is_parquet else records.kind if records else "txt"

    def copy(file: BinaryIO) -> None:
        while block := stream.read(READ_BYTES):
            file.write(block)

    return write_by_digest(folder, f".{suffix}", copy)


def stdin_or_saved(saved: str) -> str:
    """Return the path of the text on standard input, or `saved`, that of a run, if standard input has no text."""
    try:
        return str(save_stdin())
    except _NoInput:  # empty, closed or a terminal, as under a job scheduler that repeats a command
        return saved


def check_saved_stdin(path: Path, sha256: str) -> None:
    """Raise DataError if a file that `save_stdin` wrote no longer has the SHA-256 in its name."""
    if is_saved_stdin(path) and path.stem != sha256:
        raise DataError(
            f"{path} is damaged: its SHA-256 is {sha256[:12]}..., not the one in its name; "
            "delete it and pipe the text in again"
        )


def is_saved_stdin(path: Path) -> bool:
    """Return whether `save_stdin` wrote a file."""
    return path.absolute().parent == _folder().absolute()


def title_of(path: Path) -> str:
    """Return the name of a text for messages: of a copy in the cache, whose name is a hash, what was copied."""
    if is_saved_stdin(path):
        return "standard input"
    return "the list of documents" if path.absolute().parent == documents_folder().absolute() else path.absolute().name


def is_copy(path: Path) -> bool:
    """Return whether a text is a copy in the cache, of standard input or of a list of documents."""
    return path.absolute().parent in (_folder().absolute(), documents_folder().absolute())


def documents_folder() -> Path:
    """Return the folder of the documents that were given as Python objects."""
    return cache_dir() / "texts"


def _folder() -> Path:
    return cache_dir() / "stdin"
