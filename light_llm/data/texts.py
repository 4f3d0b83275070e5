"""Which files a text is in, and how they are read: the same stream of documents whatever the kind of file."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .documents import jsonl_documents, story_documents, text_documents
from .parquet import parquet_documents
from .pieces import Piece, Progress, tidy
from .reading import Hooks

Reader = Callable[[Path, str, str, Hooks], Iterator[Piece]]


def _rows_of_one_text(path: Path, text_field: str, errors: str, hooks: Hooks) -> Iterator[Piece]:
    """The rows of a Parquet file as they are, one after the other: rows that are lines of one text."""
    return (piece for piece in parquet_documents(path, text_field, errors, hooks) if piece is not None)


READERS: dict[str, Reader] = {
    "text": text_documents,
    "stories": story_documents,
    "jsonl": jsonl_documents,
    "parquet": parquet_documents,
    "parquet-lines": _rows_of_one_text,
}
ENDINGS = {
    "text": (".txt", ".md", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
}


@dataclass(frozen=True)
class Texts:
    """Files of one kind, and what decides how they become documents."""

    kind: str  # a key of READERS
    files: tuple[Path, ...]
    text_field: str = "text"
    errors: str = "strict"
    plain: bool = False  # one text file, whose hash is that of its bytes

    def read(self, progress: Progress | None = None, hooks: Hooks | None = None) -> Iterator[Piece]:
        """All documents of all files, in order. Raises DataError."""
        return tidy(self._documents(progress, hooks or Hooks()))

    def _documents(self, progress: Progress | None, hooks: Hooks) -> Iterator[Piece]:
        try:
            sizes = [file.stat().st_size for file in self.files]
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from None
        before = 0
        for file, size in zip(self.files, sizes, strict=True):
            if progress:
                hooks = replace(hooks, position=_told(progress, before, sum(sizes)))
            yield from READERS[self.kind](file, self.text_field, self.errors, hooks)
            before += size


def _told(progress: Progress, before: int, total: int) -> Callable[[int], object]:
    """The position in one file as that in all of them."""
    return lambda at: progress(before + at, total)


def texts_at(path: Path, text_field: str, errors: str) -> Texts:
    """The texts of a file, or of a folder with files of one kind.

    Raises:
        DataError: a folder without any, or with several kinds, or one that cannot be read.
    """
    if not path.is_dir():
        named = kind_of(path) or "text"
        return Texts(named, (path,), text_field, errors, plain=named == "text")
    by_kind: dict[str, list[Path]] = {}
    for file in _files_below(path):
        if kind := kind_of(file):
            by_kind.setdefault(kind, []).append(file)
    if not by_kind:
        endings = ", ".join(e for kind in ENDINGS.values() for e in kind)
        raise DataError(
            f"{path} is a folder without a text: looked in it and the folders below for files that end in {endings}; "
            f"hidden ones, and folders that are links, are left out"
        )
    if len(by_kind) > 1:
        found = " and ".join(f"{kind} ({files[0].relative_to(path)})" for kind, files in sorted(by_kind.items()))
        raise DataError(
            f"{path} holds files of more than one kind: {found}; name one file, or keep them in two folders"
        )
    [(kind, files)] = by_kind.items()
    return Texts(kind, tuple(files), text_field, errors)


def kind_of(path: Path) -> str | None:
    """What the name of a file says it holds, or None.

    >>> kind_of(Path("a/b.JSONL")), kind_of(Path("b.jsonl.gz")), kind_of(Path("b.py"))
    ('jsonl', 'jsonl', None)
    """
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)


def _files_below(folder: Path) -> list[Path]:
    """Every file below a folder in the order of its path, the same on every system: by code points, with / between.

    Hidden files and folders are left out. A link to a file is that file; a link to a folder is not followed, so that
    no loop of links is one here and no document comes twice.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}")

    found: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for name in names if not name.startswith(".") and (path := Path(where, name)).is_file()]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
