"""Read UTF-8 files in chunks, so that a text is never in memory as a whole; refuse or replace invalid bytes."""

import codecs
import gzip
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ..errors import DataError

READ_BYTES = 1 << 20  # per read of a file
REPLACEMENT = "\ufffd"


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True)
class ReadCallbacks:
    """Callbacks of a reader: progress, the raw bytes, and counts, which `fingerprint.TextStats` collects."""

    on_position: Callable[[int], object] = _ignore  # bytes of the file on disk read so far
    on_raw_bytes: Callable[[bytes], object] = _ignore  # of text files only
    on_replaced: Callable[[int], object] = _ignore  # invalid bytes that became U+FFFD


NO_CALLBACKS = ReadCallbacks()
# The first bytes of files that people take for texts.
DOCUMENTS = {
    b"PK\x03\x04": "a zip archive, as Word and LibreOffice documents and e-books are",
    b"\xd0\xcf\x11\xe0": "an old Word or Office document",
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
}


def decode_bytes(data: bytes, errors: str, *, final: bool) -> tuple[str, int, int]:
    """Return the characters of `data`, the number of bytes used (all, if final), and how many of those were invalid.

    >>> decode_bytes(b"caf\\xe9!", "replace", final=True)
    ('caf\ufffd!', 5, 1)

    Raises:
        UnicodeDecodeError: with errors="strict", at the first byte that is not UTF-8.
    """
    text, used = codecs.utf_8_decode(data, errors, final)
    if errors == "strict" or REPLACEMENT not in text:
        return text, used, 0
    # The text itself may contain U+FFFD; the decoder inserted the others. One U+FFFD can replace several bytes, so
    # count the invalid bytes as those that the valid characters leave over.
    inserted = text.count(REPLACEMENT) - data.count(REPLACEMENT.encode(), 0, used)
    return text, used, used - (len(text.encode()) - len(REPLACEMENT.encode()) * inserted)


def read_text(path: Path, *, errors: str = "strict", callbacks: ReadCallbacks = NO_CALLBACKS) -> Iterator[str]:
    """Yield the characters of a UTF-8 file in chunks, without a byte-order mark.

    NUL and other control characters, and line ends of any kind, are kept as they are.

    Args:
        path: the file; `.gz` is unpacked.
        errors: "strict", or "replace": bytes that are not UTF-8 become U+FFFD.
        callbacks: called while reading.

    Raises:
        DataError: bytes that are not UTF-8, with the file and the offset of the first one; a file that cannot be read.
    """
    held, n_read, started, final = b"", 0, False, False
    with open_file(path) as (file, position):
        while not final:
            block = file.read(READ_BYTES)
            if n_read == 0:
                check_is_text(path, block[:4096])
            final = not block
            callbacks.on_raw_bytes(block)
            # A block may end in the middle of a character; its bytes wait in `held` for the next block.
            data = held + block
            try:
                text, used, replaced = decode_bytes(data, errors, final=final)
            except UnicodeDecodeError as error:
                raise utf8_error(path, n_read - len(held) + error.start, error) from None
            held, n_read = data[used:], n_read + len(block)
            if replaced:
                callbacks.on_replaced(replaced)
            if text and not started:
                text, started = text.removeprefix("\ufeff"), True
            if text:
                yield text
            if block:
                callbacks.on_position(position())


@contextmanager
def open_file(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """Open a file, unpacked if its name ends in .gz; yield it and a function for its position on disk in bytes.

    Raises:
        DataError: the file cannot be opened, or reading it fails inside the `with` block.
    """
    try:
        with open(path, "rb") as file:
            if path.suffix.lower() == ".gz":
                # The position is that of the packed file, so that progress can be compared with its size on disk.
                with gzip.open(file, "rb") as unpacked:
                    yield cast(IO[bytes], unpacked), file.tell
            else:
                yield file, file.tell
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged or not a gzip file ({error}); download or compress it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def utf8_error(path: Path, offset: int, error: UnicodeDecodeError, where: str = "") -> DataError:
    """Return the error for a byte that is not UTF-8, with both remedies: convert the file, or replace such bytes."""
    byte = f"byte 0x{error.object[error.start]:02x}"
    return DataError(
        f"{path} is not UTF-8 text: {byte} at offset {offset:,}{where} ({error.reason}); "
        f"{_convert_hint(path, 'LATIN1')}; or use {{--errors replace}}, which replaces such bytes by U+FFFD"
    )


def check_is_text(path: Path, start: bytes) -> None:
    """Refuse documents, archives and UTF-16, even with errors="replace", which would turn them into garbage.

    Raises:
        DataError: the first bytes of the file are those of such a format, have a UTF-16 byte-order mark, or NUL in
            almost every second place.
    """
    for magic, kind in DOCUMENTS.items():
        if start.startswith(magic):
            raise DataError(f"{path} is not plain text but {kind}; save it as plain text (UTF-8) and name that file")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            f"{path} is not UTF-8 text: byte 0x{start[0]:02x} at offset 0 begins the byte-order mark of UTF-16; "
            f"{_convert_hint(path, 'UTF-16')}"
        )
    # Without a mark, UTF-16 can be valid UTF-8 with a NUL in every second place. Quotes, dashes and foreign letters
    # have none there, so three in four are enough, if the other places have few.
    even, odd = start[0::2], start[1::2]
    for order, nul, other in (("LE", odd, even), ("BE", even, odd)):
        if len(start) >= 4 and nul.count(0) >= 0.75 * len(nul) and other.count(0) <= 0.1 * len(other):
            raise DataError(
                f"{path} looks like UTF-16 without a byte-order mark: every second byte of its beginning is NUL; "
                f"{_convert_hint(path, f'UTF-16{order}')}"
            )


def _convert_hint(path: Path, encoding: str) -> str:
    name, convert = shlex.quote(str(path)), f"iconv -f {encoding} -t UTF-8"
    command = f"gunzip -c {name} | {convert}" if path.suffix.lower() == ".gz" else f"{convert} {name}"
    return f"convert it, for example with: {command} > utf8.txt"
