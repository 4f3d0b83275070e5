"""Texts by name or path."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..errors import DataError, did_you_mean
from .fetch import KnownFile, find_or_fetch
from .pieces import Piece, Progress
from .pieces import at_safe_cuts as at_safe_cuts
from .pieces import split_at as split_at
from .reading import read_text

SHAKESPEARE = KnownFile(
    name="shakespeare.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
)
SOURCES: dict[str, KnownFile] = {"shakespeare": SHAKESPEARE}


def _nothing(progress: Progress | None) -> Iterator[Piece]:
    return iter(())


@dataclass(frozen=True)
class Source:
    """A text that is on this machine, and what one pass over it found out."""

    name: str  # as it was asked for
    title: str  # for print
    path: Path  # the file or folder, for messages
    sha256: str  # decides the text: of a plain file's bytes; else of the documents' UTF-8, with 0xff after each
    n_bytes: int  # of the text in UTF-8
    n_chars: int
    alphabet: str  # each character that occurs, once, sorted
    documents: int
    replaced: int = 0  # bytes that were no UTF-8 and became U+FFFD
    held_out: "Source | None" = None  # the files a dataset marks as validation, or the user does
    # Of each document -log2 of its true probability, and its kind: only a text we made knows them.
    limits: tuple[tuple[float, str], ...] = field(default=(), repr=False, compare=False)
    reader: Callable[[Progress | None], Iterator[Piece]] = field(default=_nothing, repr=False, compare=False)

    def read(self, progress: Progress | None = None) -> Iterator[Piece]:
        """The text in pieces, None between documents: never first, last or doubled; the same at every call.

        Args:
            progress: called with (bytes read, bytes in all).

        Raises:
            DataError: the file cannot be read, or is no longer what it was.
        """
        return self.reader(progress)


def find_source(
    data: str,
    *,
    text_field: str = "text",
    errors: str = "strict",
    val_data: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Source:
    """The text called `data`: the name of a source, or the path of a UTF-8 text file.

    Raises:
        DataError: no such source or file, a folder, an empty text, or bytes that are not UTF-8 (file and offset).
    """
    if data in SOURCES:
        return scan(data, data, find_or_fetch(SOURCES[data], offline=offline), errors, progress)
    path = Path(data)
    if path.is_file():
        return scan(data, path.name, path, errors, progress)
    if path.is_dir():
        raise DataError(f"{data} is a folder; name one text file in it")
    near = did_you_mean(data, SOURCES)
    if near == "." and path.parent.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
    raise DataError(f"there is no source or file {data!r}{near} The sources are {', '.join(SOURCES)}; or give a path")


def scan(name: str, title: str, path: Path, errors: str = "strict", progress: Progress | None = None) -> Source:
    """Read a file once: its hash, its length, its alphabet, and that it is text at all. Raises DataError."""
    digest, n_bytes, n_chars, alphabet = hashlib.sha256(), 0, 0, set[str]()
    replaced: list[int] = []
    for text in read_text(path, errors=errors, on_bytes=digest.update, on_replaced=replaced.append, progress=progress):
        n_bytes += len(text.encode())
        n_chars += len(text)
        alphabet.update(text)
    if n_chars == 0:
        raise DataError(f"{path} holds no text; training needs a file with some thousand characters")
    return Source(
        name,
        title,
        path,
        digest.hexdigest(),
        n_bytes,
        n_chars,
        "".join(sorted(alphabet)),
        documents=1,
        replaced=sum(replaced),
        reader=partial(_read_file, path, errors),
    )


def _read_file(path: Path, errors: str, progress: Progress | None) -> Iterator[Piece]:
    return read_text(path, errors=errors, progress=progress)
