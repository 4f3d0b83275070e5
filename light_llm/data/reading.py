"""From the bytes of a file to characters, a piece at a time: a text is never in memory as a whole."""

import codecs
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DataError
from .pieces import Progress

PIECE = 1 << 20  # bytes read at a time
REPLACEMENT = "\ufffd"


def decode(data: bytes, errors: str, *, final: bool) -> tuple[str, int, int]:
    """The characters of `data`, how many of its bytes they take (all, if final), and how many of those were no UTF-8.

    Raises:
        UnicodeDecodeError: with errors="strict", at the first byte that is not UTF-8.
    """
    text, used = codecs.utf_8_decode(data, errors, final)
    if errors == "strict" or REPLACEMENT not in text:
        return text, used, 0
    # U+FFFD may stand in the text itself; what the decoder put in is the rest of them. One mark can stand for
    # several bytes, so the bad bytes are counted as those that the good characters leave over.
    put_in = text.count(REPLACEMENT) - data.count(REPLACEMENT.encode(), 0, used)
    return text, used, used - (len(text.encode()) - len(REPLACEMENT.encode()) * put_in)


def read_text(
    path: Path,
    *,
    errors: str = "strict",
    on_bytes: Callable[[bytes], object] | None = None,
    on_replaced: Callable[[int], object] | None = None,
    progress: Progress | None = None,
) -> Iterator[str]:
    """The characters of a UTF-8 file, with or without a byte-order mark, a piece at a time.

    Args:
        path: the file.
        errors: "strict", or "replace": bytes that are not UTF-8 become U+FFFD.
        on_bytes: called with each piece of the file as it is.
        on_replaced: called with the number of bytes that were replaced.
        progress: called with (bytes read, bytes in all).

    Raises:
        DataError: bytes that are not UTF-8, with the file and the offset of the first one; a file that cannot be read.
    """
    held, done, started = b"", 0, False
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            final = False
            while not final:
                piece = file.read(PIECE)
                final = not piece
                if on_bytes:
                    on_bytes(piece)
                data = held + piece
                try:
                    text, used, replaced = decode(data, errors, final=final)
                except UnicodeDecodeError as error:
                    raise not_utf8(path, done - len(held) + error.start, error) from None
                held, done = data[used:], done + len(piece)
                if replaced and on_replaced:
                    on_replaced(replaced)
                if text and not started:
                    text, started = text.removeprefix("\ufeff"), True
                if text:
                    yield text
                if progress and piece:
                    progress(done, size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def not_utf8(path: Path, offset: int, error: UnicodeDecodeError) -> DataError:
    """What to say of a byte that is not UTF-8, and how to convert the file."""
    with open(path, "rb") as file:
        encoding = "UTF-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
    found = f"byte 0x{error.object[error.start]:02x}"
    return DataError(
        f"{path} is not UTF-8 text: {found} at offset {offset:,} ({error.reason}); "
        f"convert it, for example with: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > utf8.txt"
    )
