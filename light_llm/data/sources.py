"""Texts by name or path, and reading them in pieces: a text is never in memory as a whole."""

import codecs
import hashlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, did_you_mean
from .fetch import KnownFile, find_or_fetch

SHAKESPEARE = KnownFile(
    name="shakespeare.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
)
SOURCES: dict[str, KnownFile] = {"shakespeare": SHAKESPEARE}

PIECE = 1 << 20  # bytes read at a time
LONGEST_RUN = 100_000  # characters without a safe cut before one is made all the same

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Source:
    """A text that is on this machine, and what one pass over it found out."""

    name: str  # as it was asked for
    path: Path
    sha256: str
    n_bytes: int
    n_chars: int
    alphabet: str  # each character that occurs, once, sorted
    documents: int = 1

    @property
    def title(self) -> str:
        """How the source is called in print: its name, or the file's."""
        return self.name if self.name in SOURCES else self.path.name


def find_source(data: str, *, offline: bool = False, progress: Progress | None = None) -> Source:
    """The text called `data`: the name of a source, or the path of a UTF-8 text file.

    Raises:
        DataError: no such source or file, a folder, an empty text, or bytes that are not UTF-8 (file and offset).
    """
    if data in SOURCES:
        return scan(data, find_or_fetch(SOURCES[data], offline=offline), progress)
    path = Path(data)
    if path.is_file():
        return scan(data, path, progress)
    if path.is_dir():
        raise DataError(f"{data} is a folder; name one text file in it")
    near = did_you_mean(data, SOURCES)
    if near == "." and path.parent.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
    raise DataError(f"there is no source or file {data!r}{near} The sources are {', '.join(SOURCES)}; or give a path")


def scan(name: str, path: Path, progress: Progress | None = None) -> Source:
    """Read a file once: its hash, its length, its alphabet, and that it is text at all. Raises DataError."""
    digest, n_chars, alphabet = hashlib.sha256(), 0, set[str]()
    for text in read_text(path, on_bytes=digest.update, progress=progress):
        n_chars += len(text)
        alphabet.update(text)
    if n_chars == 0:
        raise DataError(f"{path} holds no text; training needs a file with some thousand characters")
    return Source(name, path, digest.hexdigest(), path.stat().st_size, n_chars, "".join(sorted(alphabet)))


def read_text(
    path: Path, *, on_bytes: Callable[[bytes], object] | None = None, progress: Progress | None = None
) -> Iterator[str]:
    """The characters of a UTF-8 file, with or without a byte-order mark, a piece at a time.

    Raises:
        DataError: bytes that are not UTF-8, with the file and the offset of the first one.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, done, started = path.stat().st_size, 0, False
    try:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                held = len(decoder.getstate()[0])  # bytes of an unfinished character, from the piece before
                if on_bytes:
                    on_bytes(piece)
                try:
                    text = decoder.decode(piece)
                except UnicodeDecodeError as error:
                    raise _not_utf8(path, done - held + error.start, error) from None
                if text and not started:
                    text, started = text.removeprefix("\ufeff"), True
                done += len(piece)
                if text:
                    yield text
                if progress:
                    progress(done, size)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, done - held + error.start, error) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def at_safe_cuts(pieces: Iterator[str]) -> Iterator[str]:
    """The same text, cut only where a word ends and a space or line break begins.

    Every pre-tokenizer of the GPT-2 family also splits there, so that encoding the pieces one by one gives the very
    ids that encoding the whole gives. A run of 100,000 characters without such a place is cut all the same.
    """
    held = ""
    for piece in pieces:
        text = held + piece
        cut = _last_safe_cut(text)
        while cut == 0 and len(text) > LONGEST_RUN:
            yield text[:LONGEST_RUN]
            text = text[LONGEST_RUN:]
        if cut:
            yield text[:cut]
            text = text[cut:]
        held = text
    if held:
        yield held


def split_at(pieces: Iterator[str], n_chars: int) -> tuple[Iterator[str], Callable[[], Iterator[str]]]:
    """Two iterators over one: the first n_chars characters, then (once those are read) a call for the rest."""
    left = [""]

    def head() -> Iterator[str]:
        wanted = n_chars
        for piece in pieces:
            if len(piece) >= wanted:
                left[0] = piece[wanted:]
                if wanted:
                    yield piece[:wanted]
                return
            wanted -= len(piece)
            yield piece

    def tail() -> Iterator[str]:
        if left[0]:
            yield left[0]
        yield from pieces

    return head(), tail


def _last_safe_cut(text: str) -> int:
    end = len(text)
    while end > 0:
        cut = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
        if cut <= 0:
            return 0
        if not text[cut - 1].isspace():
            return cut
        end = cut
    return 0


def _not_utf8(path: Path, offset: int, error: UnicodeDecodeError) -> DataError:
    with open(path, "rb") as file:
        encoding = "UTF-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
    found = f"byte 0x{error.object[error.start]:02x}"
    return DataError(
        f"{path} is not UTF-8 text: {found} at offset {offset:,} ({error.reason}); "
        f"convert it, for example with: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > utf8.txt"
    )
