"""Save standard input to a file: a text is read more than once, and a resumed run must find it again."""

import sys
from pathlib import Path
from typing import BinaryIO

from ..atomic_io import write_by_digest
from ..errors import DataError
from ..runtime import cache_dir
from .decode_utf8 import READ_BYTES

STDIN = "-"


def save_stdin(stream: BinaryIO | None = None) -> Path:
    """Copy a pipe, by default standard input, to `<cache>/stdin/<sha256>.txt`, and return that path.

    Raises:
        DataError: the pipe is empty, standard input is closed or a terminal, or the file cannot be written.
    """
    if stream is None:
        if sys.stdin is None or sys.stdin.closed:
            raise DataError("--data - reads standard input, which is closed; pipe a text into it, or name a file")
        if sys.stdin.isatty():
            raise DataError("--data - reads standard input, which is a terminal; pipe a text into it: cat my.txt | ...")
        stream = sys.stdin.buffer
    folder = cache_dir() / "stdin"

    def copy(file: BinaryIO) -> None:
        empty = True
        while block := stream.read(READ_BYTES):
            file.write(block)
            empty = False
        if empty:
            raise DataError("the pipe holds no text; training needs some thousand characters")

    try:
        return write_by_digest(folder, ".txt", copy)
    except OSError as error:
        raise DataError(
            f"the text of the pipe cannot be kept at {folder}: {error.strerror or error}; "
            f"set LIGHT_LLM_CACHE to a folder with room"
        ) from None


def check_saved_stdin(path: Path, sha256: str) -> None:
    """Raise DataError if a file that `save_stdin` wrote no longer has the SHA-256 in its name."""
    if path.absolute().parent == (cache_dir() / "stdin").absolute() and path.stem != sha256:
        raise DataError(
            f"{path} is damaged: its SHA-256 is {sha256[:12]}..., not the one it is named by; "
            "delete it and pipe the text in again"
        )
