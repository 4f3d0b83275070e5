"""Find the files of a text and read them as one stream of documents, whatever their kind."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .csv_rows import csv_documents
from .decode_utf8 import NO_CALLBACKS, ReadCallbacks, check_is_text, decode_bytes, open_file
from .documents import jsonl_documents, split_documents, story_documents, text_documents, text_of_field
from .file_formats import PARQUET, START_BYTES
from .json_records import DETECT_BYTES, Records, detect_records, json_documents
from .output_folders import RUN, RUN_FILES, RUN_TEXTS, STEP_FOLDER, is_model_card, output_kind
from .parquet import parquet_documents
from .piped_text import is_saved_stdin
from .text_stream import Chunk, ProgressFn, drop_empty_chunks

Reader = Callable[[Path, str, str, ReadCallbacks], Iterator[Chunk]]


def _parquet_lines(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield the rows of a Parquet file as one document: without the breaks, because they are the lines of one text."""
    return (chunk for chunk in parquet_documents(path, text_field, errors, callbacks) if chunk is not None)


READERS: dict[str, Reader] = {
    "text": text_documents,
    "stories": story_documents,
    "jsonl": jsonl_documents,
    "json": json_documents,
    "csv": csv_documents,
    "parquet": parquet_documents,
    "parquet-lines": _parquet_lines,
}
# Of a folder, only files of the first three kinds are read, unless `suffixes` names others.
SUFFIXES = {
    "text": (".txt", ".md", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "json": (".json",),
    "csv": (".csv", ".tsv"),
}
FOLDER_SUFFIXES = tuple(suffix for kind in ("text", "jsonl", "parquet") for suffix in SUFFIXES[kind])
NO_FIELD = "none"  # as text_field: whatever a file looks like, it is plain text
NOTEBOOK = ".ipynb"


@dataclass(frozen=True)
class ReadOptions:
    """The settings that decide which files are read and how they become documents; see `config.DataConfig`."""

    text_field: str = "text"
    errors: str = "strict"
    separator: str | None = None
    suffixes: str = ""

    @property
    def endings(self) -> tuple[str, ...]:
        """The endings of the files to read in a folder; empty: those of `FOLDER_SUFFIXES`.

        >>> ReadOptions(suffixes="py, .MD,*.js").endings
        ('.py', '.md', '.js')
        """
        words = self.suffixes.replace(",", " ").lower().split()
        return tuple(f".{word.removeprefix('*').removeprefix('.')}" for word in words)


@dataclass(frozen=True)
class OtherFiles:
    """Files of a folder that are not read: those with one ending."""

    suffix: str  # "" for files without one
    count: int
    bytes: int
    example: Path


@dataclass(frozen=True)
class TextFiles:
    """Files of one kind, and the options that decide how they become documents."""

    kind: str  # a key of READERS
    files: tuple[Path, ...]
    options: ReadOptions = ReadOptions()
    hash_raw_bytes: bool = False  # identify the text by the bytes of its only file instead of its documents
    skipped: tuple[str, ...] = ()  # what light-llm wrote into the folder, for messages
    others: tuple[OtherFiles, ...] = ()  # what the folder holds besides, the largest first
    records: Records | None = None  # by which the kind was recognized, if the name of the file does not say it

    def read(self, progress: ProgressFn | None = None, callbacks: ReadCallbacks = NO_CALLBACKS) -> Iterator[Chunk]:
        """Yield all documents of all files, in order. Raises DataError."""
        chunks = self._documents(progress, callbacks)
        if self.options.separator:
            chunks = split_documents(chunks, self.options.separator)
        return drop_empty_chunks(chunks)

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
            yield from READERS[self.kind](file, self.options.text_field, self.options.errors, callbacks)
            offset += size


def find_text_files(path: Path, options: ReadOptions) -> TextFiles:
    """Return the file at a path, or the files of a folder, which must all be of one kind.

    Raises:
        DataError: the folder has no text files, or several kinds, or cannot be read; the file is a notebook, or has
            JSON records without the text field.
    """
    if path.is_dir():
        return _files_of_folder(path, options)
    kind, records = _kind_of_file(path, options)
    raw = kind == "text" and not options.separator
    return TextFiles(kind, (path,), options, hash_raw_bytes=raw, records=records)


def _kind_of_file(path: Path, options: ReadOptions) -> tuple[str, Records | None]:
    """Return the kind of a file by its name, or else by its beginning, with the records that it begins with."""
    kind, is_piped = file_kind(path), is_saved_stdin(path)
    if options.text_field == NO_FIELD:
        return "text", None
    _check_no_notebook(path)
    # What came through a pipe was recognized when it was saved.
    if kind in ("csv", "parquet") or (kind == "text" and is_piped) or (kind == "json" and not is_piped):
        return kind, None
    with open_file(path) as (file, _):
        start = file.read(DETECT_BYTES)
    if kind is None and start.startswith(PARQUET):
        return "parquet", None
    records = detect_records(start, is_whole=len(start) < DETECT_BYTES)
    if records is None:
        return kind or "text", None
    # An array by the name of JSON Lines, or objects that take several lines, are no plain text either way.
    if kind == "jsonl" and not is_piped:
        return records.kind, None
    if isinstance(records.first, dict):
        _check_field(records.first, "standard input" if is_piped else str(path), options)
    return records.kind, records


def _check_field(record: dict[str, object], name: str, options: ReadOptions) -> None:
    """Raise DataError if the first record of a file that could be meant as plain text has no text field."""
    try:
        text_of_field(record, options.text_field, f"the first record of {name}")
    except DataError as error:
        raise DataError(f"{error.message}; or use {{--text-field {NO_FIELD}}} to read it as plain text") from None


def _check_no_notebook(path: Path) -> None:
    if path.suffix.lower() == NOTEBOOK:
        name = shlex.quote(str(path))
        raise DataError(
            f"{path} is a Jupyter notebook; convert it, for example with: jupyter nbconvert --to markdown {name}"
        )


def _files_of_folder(folder: Path, options: ReadOptions) -> TextFiles:
    files, skipped = _files_below(folder)
    suffixes = options.endings or FOLDER_SUFFIXES
    by_kind: dict[str, list[Path]] = {}
    others: list[Path] = []
    for file in files:
        if not _plain_name(file).name.endswith(suffixes):
            others.append(file)
        elif options.text_field == NO_FIELD:
            by_kind.setdefault("text", []).append(file)
        else:
            _check_no_notebook(file)
            by_kind.setdefault(file_kind(file) or "text", []).append(file)
    grouped = _group_by_suffix(others)
    if not by_kind:
        raise DataError(_no_text(folder, grouped, skipped, suffixes))
    if len(by_kind) > 1:
        kinds = " and ".join(f"{kind} ({files[0].relative_to(folder)})" for kind, files in sorted(by_kind.items()))
        raise DataError(
            f"{folder} has files of more than one kind: {kinds}; name one file, use one folder for each, or choose "
            "with {--suffixes}, such as {--suffixes .txt}"
        )
    [(kind, files)] = by_kind.items()
    return TextFiles(kind, tuple(files), options, skipped=skipped, others=grouped)


def _group_by_suffix(files: list[Path]) -> tuple[OtherFiles, ...]:
    """Return files by their suffix, the most bytes first."""
    counts, sizes = Counter[str](), Counter[str]()
    largest: dict[str, tuple[int, Path]] = {}
    for file in files:
        suffix, size = _plain_name(file).suffix, file.stat().st_size
        counts[suffix] += 1
        sizes[suffix] += size
        largest[suffix] = max(largest.get(suffix, (-1, file)), (size, file))
    return tuple(OtherFiles(suffix, counts[suffix], size, largest[suffix][1]) for suffix, size in sizes.most_common())


def _no_text(folder: Path, others: tuple[OtherFiles, ...], skipped: tuple[str, ...], suffixes: tuple[str, ...]) -> str:
    """Return the message for a folder in which no file has one of the suffixes."""
    reason = "it is empty"
    if others:
        reason = f"no file in it or below it ends in {', '.join(suffixes)}; it has {list_others(others)}"
    also = f" (skipped: {list_skipped(skipped)})" if skipped else ""
    advice = "name a text file, or a folder that has some"
    if any(other.suffix == ".arrow" for other in others):
        advice = "write it as Parquet: datasets.load_from_disk(FOLDER).to_parquet('rows.parquet')"
    elif suggestion := suffix_to_read(others):
        advice = f"{{--suffixes {suggestion}}} reads those"
    return f"the folder {folder} has no text: {reason}{also}; {advice}. Hidden files and linked folders are not read"


def suffix_to_read(others: tuple[OtherFiles, ...], min_bytes: int = 1) -> str:
    """Return the suffix of the most bytes, `min_bytes` at least, whose largest file begins as a text does, or ""."""
    large = (other for other in others if other.suffix and other.bytes >= min_bytes)
    return next((other.suffix for other in large if _begins_as_text(other.example)), "")


def _begins_as_text(path: Path) -> bool:
    try:
        with open_file(path) as (file, _):
            start = file.read(START_BYTES)
        check_is_text(path, start)
        text = decode_bytes(start, "strict", final=False)[0]
    except (DataError, UnicodeDecodeError):
        return False
    return bool(text) and "\0" not in text


def list_others(others: tuple[OtherFiles, ...], most: int = 4) -> str:
    """Return the number of files by their ending as a list for a message: `38 .py, 2 .json`."""
    parts = [f"{other.count:,} {other.suffix or 'without an ending'}" for other in others[:most]]
    rest = sum(other.count for other in others[most:])
    return ", ".join([*parts, *([f"{rest:,} more"] if rest else [])])


def file_kind(path: Path) -> str | None:
    """Return the kind that a file's name indicates, or None.

    >>> file_kind(Path("a/b.JSONL")), file_kind(Path("b.jsonl.gz")), file_kind(Path("b.py"))
    ('jsonl', 'jsonl', None)
    """
    name = _plain_name(path).name
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), None)


def _plain_name(path: Path) -> Path:
    """Return the name of a file in small letters, without .gz."""
    return Path(path.name.lower().removesuffix(".gz"))


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
        # The folder of the text may itself hold a run (`--out .`).
        is_run = kind == RUN
        folders[:] = [name for name in folders if not (name.startswith(".") or (is_run and STEP_FOLDER.match(name)))]
        for name in names:
            path = here / name
            if is_run and name in RUN_FILES:
                skipped += [str(path.relative_to(folder))] * (name in RUN_TEXTS)
            elif is_model_card(path):
                skipped.append(str(path.relative_to(folder)))
            elif not name.startswith(".") and path.is_file():
                files.append(path)
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix()), tuple(sorted(skipped))
