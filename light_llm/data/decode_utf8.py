"""Read UTF-8 files in chunks, so that a text is never in memory as a whole; refuse or replace invalid bytes."""

import codecs
import gzip
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ..errors import DataError
from .file_formats import GZIP, START_BYTES, format_of

READ_BYTES = 1 << 20  # per read of a file
REPLACEMENT = "\ufffd"
# In this order: the mark of UTF-16LE begins that of UTF-32LE.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
SAMPLE_BYTES = 4096  # from the first byte that is not UTF-8, to suggest an encoding
MANY_HIGH = 0.3  # share of bytes above 0x7f; German in Latin-1 has 2%, Japanese in Shift-JIS 75%
ASCII = bytes(range(128))
C1_BYTES = re.compile(b"[\x80-\x9f]")  # letters and quotes in Windows-1252, control characters in Latin-1
UNUSED_IN_1252 = re.compile(b"[\x81\x8d\x8f\x90\x9d]")


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True)
class ReadCallbacks:
    """Callbacks of a reader: progress, the raw bytes, and counts, which `fingerprint.TextStats` collects."""

    on_position: Callable[[int], object] = _ignore  # bytes of the file on disk read so far
    on_raw_bytes: Callable[[bytes], object] = _ignore  # of text files only
    on_replaced: Callable[[int], object] = _ignore  # invalid bytes that became U+FFFD


NO_CALLBACKS = ReadCallbacks()


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
        path: the file; gzip is unpacked.
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
                check_is_text(path, block[:START_BYTES])
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
    """Open a file, unpacked if it is a gzip file; yield it and a function for its position on disk in bytes.

    Raises:
        DataError: the file cannot be opened, or reading it fails inside the `with` block.
    """
    try:
        with open(path, "rb") as file:
            # Neither byte of the mark of gzip begins a text in UTF-8.
            packed = path.suffix.lower() == ".gz" or file.read(len(GZIP)) == GZIP
            file.seek(0)
            if packed:
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
    """Return the error for a byte that is not UTF-8, with the remedies that its neighbours suggest.

    Args:
        offset: of the byte in the file.
        error: its object is the part of the file around the byte.
    """
    before, after = error.object[: error.start], error.object[error.start : error.start + SAMPLE_BYTES]
    high = sum(byte > 0x7F for byte in after)
    replace = "or use {--errors replace}, which replaces such bytes by U+FFFD"
    if after.count(0) or sum(byte < 9 for byte in after) > len(after) / 20:
        advice = f"it is binary data, with other control characters too: name a text file; {replace}"
    elif high > len(after) * MANY_HIGH and high > 4:
        advice = (
            f"{100 * high // len(after)}% of the bytes from there on are above 0x7f, as in GBK, Big5, Shift-JIS or "
            "KOI8-R: find out its encoding, and convert it with iconv -f ENCODING -t UTF-8"
        )
    elif before[-SAMPLE_BYTES:].strip(ASCII):
        advice = f"what is before it is UTF-8, so correct it there; {replace}"
    elif UNUSED_IN_1252.search(after):
        advice = f"find out its encoding, and convert it with iconv -f ENCODING -t UTF-8; {replace}"
    else:
        encoding = "WINDOWS-1252" if C1_BYTES.search(after) else "LATIN1"
        advice = f"{_convert_hint(path, encoding)}; {replace}"
    byte = f"byte 0x{error.object[error.start]:02x}"
    return DataError(f"{path} is not UTF-8 text: {byte} at offset {offset:,}{where} ({error.reason}); {advice}")


def check_is_text(path: Path | str, start: bytes) -> None:
    """Refuse other formats, UTF-16, UTF-32 and zeros, even with errors="replace", which would turn them into garbage.

    Args:
        path: the file, or the name of a pipe.
        start: the first `START_BYTES` bytes of it.

    Raises:
        DataError: with what the file is, and how to make a text of it.
    """
    if found := format_of(start):
        advice = found.advice if isinstance(path, str) else found.advice.replace("FILE", shlex.quote(str(path)))
        raise DataError(f"{path} is not plain text but {found.name}; {advice}")
    if start and not start.strip(b"\0"):
        what = "its beginning is" if len(start) >= START_BYTES else "it is"
        raise DataError(f"{path} holds no text: {what} {len(start):,} zero bytes; restore it, or name another file")
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            raise DataError(
                f"{path} is not UTF-8 text: byte 0x{start[0]:02x} at offset 0 begins the byte-order mark of "
                f"{encoding}; {_convert_hint(path, encoding)}"
            )
    if encoding := _wide_encoding(start):
        zeros = "every second byte of its beginning is" if "16" in encoding else "three of four bytes are"
        raise DataError(
            f"{path} looks like {encoding[:6]} without a byte-order mark: {zeros} NUL; {_convert_hint(path, encoding)}"
        )


def _wide_encoding(start: bytes) -> str:
    """Return which form of UTF-16 or UTF-32 without a mark a beginning looks like, or "". Both can be valid UTF-8."""
    if len(start) < 4:
        return ""
    # A character of UTF-32 is below 0x110000, so that its first byte is NUL and its second at most 16.
    whole = start[: len(start) // 4 * 4]
    for order, first, second, last in (("LE", 3, 2, 0), ("BE", 0, 1, 3)):
        if not any(whole[first::4]) and max(whole[second::4]) <= 16 and whole[last::4].count(0) <= 0.1 * len(whole) / 4:
            return f"UTF-32{order}"
    # UTF-16 has a NUL in every second place. Quotes, dashes and foreign letters have none there, so three in four are
    # enough, if the other places have few.
    even, odd = start[0::2], start[1::2]
    for order, nul, other in (("LE", odd, even), ("BE", even, odd)):
        if nul.count(0) >= 0.75 * len(nul) and other.count(0) <= 0.1 * len(other):
            return f"UTF-16{order}"
    return ""


def _convert_hint(path: Path | str, encoding: str) -> str:
    name = "FILE" if isinstance(path, str) else shlex.quote(str(path))
    convert = f"iconv -f {encoding} -t UTF-8"
    command = f"gunzip -c {name} | {convert}" if name.rstrip("'").lower().endswith(".gz") else f"{convert} {name}"
    return f"convert it, for example with: {command} > utf8.txt"
