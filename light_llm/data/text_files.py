"""Find the files of a text and read them as one stream of documents, whatever their kind."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .decode_utf8 import NO_CALLBACKS, ReadCallbacks
from .documents import jsonl_documents, story_documents, text_documents
from .output_folders import RUN, RUN_TEXTS, is_model_card, output_kind
from .parquet import parquet_documents
from .text_stream import Chunk, ProgressFn, drop_empty_chunks

Reader = Callable[[Path, str, str, ReadCallbacks], Iterator[Chunk]]


def _parquet_lines(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield the rows of a Parquet file as one document: without the breaks, because they are the lines of one text."""
    return (chunk for chunk in parquet_documents(path, text_field, errors, callbacks) if chunk is not None)


READERS: dict[str, Reader] = {
    "text": text_documents,
    "stories": story_documents,
    "jsonl": jsonl_documents,
    "parquet": parquet_documents,
    "parquet-lines": _parquet_lines,
}
SUFFIXES = {"text": (".txt", ".md", ".text"), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}


@dataclass(frozen=True)
class TextFiles:
    """Files of one kind, and the options that decide how they become documents."""

    kind: str  # a key of READERS
    files: tuple[Path, ...]
    text_field: str = "text"
    errors: str = "strict"
    hash_raw_bytes: bool = False  # identify the text by the bytes of its only file instead of its documents
    skipped: tuple[str, ...] = ()  # what light-llm wrote into the folder, for messages

    def read(self, progress: ProgressFn | None = None, callbacks: ReadCallbacks = NO_CALLBACKS) -> Iterator[Chunk]:
        """Yield all documents of all files, in order. Raises DataError."""
        return drop_empty_chunks(self._documents(progress, callbacks))

    def _documents(self, progress: ProgressFn | None, callbacks: ReadCallbacks) -> Iterator[Chunk]:
        # Read all sizes first: the total for the progress, and an early error for a file that was deleted.
        try:
            sizes = [file.stat().st_size for file in self.files]
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from None
        offset, total = 0, sum(sizes)
        if progress:
            callbacks = replace(callbacks, on_position=lambda position: progress(offset + position, total))
        for file, size in zip(self.files, sizes, strict=True):
            yield from READERS[self.kind](file, self.text_field, self.errors, callbacks)
            offset += size


def find_text_files(path: Path, text_field: str, errors: str) -> TextFiles:
    """Return the file at a path, or the files of a folder, which must all be of one kind.

    Raises:
        DataError: the folder has no text files, or several kinds, or cannot be read.
    """
    if not path.is_dir():
        kind = file_kind(path) or "text"
        return TextFiles(kind, (path,), text_field, errors, hash_raw_bytes=kind == "text")
    files, skipped = _files_below(path)
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        if file_type := file_kind(file):
            by_kind.setdefault(file_type, []).append(file)
    if not by_kind:
        suffixes = ", ".join(suffix for kind_suffixes in SUFFIXES.values() for suffix in kind_suffixes)
        reason = f"there is no file in it or below it that ends in {suffixes}" if files else "it is empty"
        also = f" (skipped: {list_skipped(skipped)})" if skipped else ""
        raise DataError(
            f"the folder {path} has no text: {reason}{also}; name a text file, or a folder that has some. Hidden files "
            "and linked folders are not read"
        )
    if len(by_kind) > 1:
        kinds = " and ".join(f"{kind} ({files[0].relative_to(path)})" for kind, files in sorted(by_kind.items()))
        raise DataError(f"{path} has files of more than one kind: {kinds}; name one file, or use one folder for each")
    [(kind, files)] = by_kind.items()
    return TextFiles(kind, tuple(files), text_field, errors, skipped=skipped)


def file_kind(path: Path) -> str | None:
    """Return the kind that a file's name indicates, or None.

    >>> file_kind(Path("a/b.JSONL")), file_kind(Path("b.jsonl.gz")), file_kind(Path("b.py"))
    ('jsonl', 'jsonl', None)
    """
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), None)


def list_skipped(skipped: tuple[str, ...], most: int = 4) -> str:
    """Return what was skipped as a list for a message, with at most `most` names.

    >>> list_skipped(("run (a run)", "model-hf (an export)"))
    'run (a run), model-hf (an export)'
    """
    more = [f"{len(skipped) - most} more"] if len(skipped) > most else []
    return ", ".join([*skipped[:most], *more])


def _files_below(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files of a text below a folder, and what light-llm wrote there, which is skipped.

    The files are sorted by the code points of their paths, the same on every system. Hidden files and folders are
    skipped. Links to files are followed, links to folders are not, so that loops are harmless and no document comes
    twice.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}")

    files: list[Path] = []
    skipped: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=False):
        here = Path(parent)
        if (kind := output_kind(here, folders, names)) and here != folder:
            skipped.append(f"{here.relative_to(folder)} ({kind})")
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = here / name
            # The folder of the text may itself hold a run (`--out .`), whose metrics are JSON Lines.
            if (kind == RUN and name in RUN_TEXTS) or is_model_card(path):
                skipped.append(str(path.relative_to(folder)))
            elif not name.startswith(".") and path.is_file():
                files.append(path)
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix()), tuple(sorted(skipped))
