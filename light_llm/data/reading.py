"""From the bytes of a file to characters, a piece at a time: a text is never in memory as a whole."""

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

PIECE = 1 << 20  # bytes read at a time
REPLACEMENT = "\ufffd"


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What a reader tells while it reads."""

    position: Callable[[int], object] = _ignore  # how far the file on disk has been read, in bytes
    raw: Callable[[bytes], object] = _ignore  # the file's bytes as they are (text files only)
    replaced: Callable[[int], object] = _ignore  # bytes that were no UTF-8 and became U+FFFD


SILENT = Hooks()


def decode(data: bytes, errors: str, *, final: bool) -> tuple[str, int, int]:
    """The characters of `data`, how many of its bytes they take (all, if final), and how many of those were no UTF-8.

    >>> decode(b"caf\\xe9!", "replace", final=True)
    ('caf\ufffd!', 5, 1)

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


def read_text(path: Path, *, errors: str = "strict", hooks: Hooks = SILENT) -> Iterator[str]:
    """The characters of a UTF-8 file, with or without a byte-order mark, a piece at a time.

    NUL and the other control characters, and line ends of any kind, are characters like all others.

    Args:
        path: the file.
        errors: "strict", or "replace": bytes that are not UTF-8 become U+FFFD.
        hooks: what to call while reading.

    Raises:
        DataError: bytes that are not UTF-8, with the file and the offset of the first one; a file that cannot be read.
    """
    held, done, started, final = b"", 0, False, False
    with opened(path) as (file, tell):
        while not final:
            piece = file.read(PIECE)
            if done == 0:
                refuse_utf16(path, piece[:4096])
            final = not piece
            hooks.raw(piece)
            data = held + piece
            try:
                text, used, replaced = decode(data, errors, final=final)
            except UnicodeDecodeError as error:
                raise not_utf8(path, done - len(held) + error.start, error) from None
            held, done = data[used:], done + len(piece)
            if replaced:
                hooks.replaced(replaced)
            if text and not started:
                text, started = text.removeprefix("\ufeff"), True
            if text:
                yield text
            if piece:
                hooks.position(tell())


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """A file for reading, unpacked on the way if its name ends in .gz, and a call for how far on disk it has been read.

    Raises:
        DataError: it cannot be opened, or reading it fails inside the `with`.
    """
    try:
        with open(path, "rb") as file:
            if path.suffix.lower() == ".gz":
                with gzip.open(file, "rb") as unpacked:
                    yield cast(IO[bytes], unpacked), file.tell
            else:
                yield file, file.tell
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged or no gzip file ({error}); fetch or pack it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def not_utf8(path: Path, offset: int, error: UnicodeDecodeError, where: str = "") -> DataError:
    """What to say of a byte that is not UTF-8, and the two ways out: convert the file, or replace such bytes."""
    found = f"byte 0x{error.object[error.start]:02x}"
    return DataError(
        f"{path} is not UTF-8 text: {found} at offset {offset:,}{where} ({error.reason}); "
        f"{_convert(path, 'LATIN1')}; or use --errors replace, which puts U+FFFD in place of such bytes"
    )


def refuse_utf16(path: Path, start: bytes) -> None:
    """UTF-16 is refused, with errors="replace" too: it is a text, and what would be left of it is none.

    Without a byte-order mark it can be valid UTF-8, with a NUL in every second place. Quotes, dashes and foreign
    letters have no NUL there; three in four are enough, if the other places have few.

    Raises:
        DataError: the first bytes of the file look like that.
    """
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            f"{path} is not UTF-8 text: byte 0x{start[0]:02x} at offset 0 begins the byte-order mark of UTF-16; "
            f"{_convert(path, 'UTF-16')}"
        )
    even, odd = start[0::2], start[1::2]
    for order, nul, other in (("LE", odd, even), ("BE", even, odd)):
        if len(start) >= 4 and nul.count(0) >= 0.75 * len(nul) and other.count(0) <= 0.1 * len(other):
            raise DataError(
                f"{path} looks like UTF-16 without a byte-order mark: every second byte of its beginning is NUL; "
                f"{_convert(path, f'UTF-16{order}')}"
            )


def _convert(path: Path, encoding: str) -> str:
    name = shlex.quote(str(path))
    if path.suffix.lower() == ".gz":
        return f"convert it, for example with: gunzip -c {name} | iconv -f {encoding} -t UTF-8 > utf8.txt"
    return f"convert it, for example with: iconv -f {encoding} -t UTF-8 {name} > utf8.txt"
