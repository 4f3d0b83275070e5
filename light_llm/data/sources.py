"""Find a text by name or path: a named source, the built-in corpus, standard input, a file or a folder."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ..atomic_io import write_by_digest
from ..errors import DataError, did_you_mean
from ..runtime import cache_dir
from .decode_utf8 import READ_BYTES
from .download import PinnedFile, cache_errors, ensure_file
from .fingerprint import TextStats, read_verified, text_stats
from .hub import HubFile, ensure_hub_file
from .tales import corpus
from .text_files import TextFiles, find_text_files
from .text_stream import Chunk, LogFn, ProgressFn, no_log

STDIN = "-"
SHAKESPEARE = PinnedFile(
    name="shakespeare.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
)


@dataclass(frozen=True)
class NamedSource:
    """A named source: where its files come from, and how they are read."""

    kind: str  # a key of text_files.READERS
    training: tuple[PinnedFile | HubFile, ...]
    validation: tuple[PinnedFile | HubFile, ...] = ()
    hash_raw_bytes: bool = False  # see TextFiles


# The revisions and file names come from public repositories; these downloads have never been tested.
_TINYSTORIES = partial(
    HubFile, "roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", folder="tinystories"
)
_WIKITEXT = partial(HubFile, "Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", folder="wikitext")


def _wikitext_source(config: str, parts: int) -> NamedSource:
    """Return a WikiText source. Its rows are the lines of one long text; headings have = signs."""
    training = [_WIKITEXT(f"{config}/train-{i:05d}-of-{parts:05d}.parquet") for i in range(parts)]
    validation = _WIKITEXT(f"{config}/validation-00000-of-00001.parquet")
    return NamedSource("parquet-lines", tuple(training), (validation,))


SOURCES: dict[str, NamedSource] = {
    "shakespeare": NamedSource("text", (SHAKESPEARE,), hash_raw_bytes=True),
    "tinystories": NamedSource(
        "stories", (_TINYSTORIES("TinyStoriesV2-GPT4-train.txt"),), (_TINYSTORIES("TinyStoriesV2-GPT4-valid.txt"),)
    ),
    "wikitext-2": _wikitext_source("wikitext-2-raw-v1", parts=1),
    "wikitext-103": _wikitext_source("wikitext-103-raw-v1", parts=2),
}


def _read_nothing(progress: ProgressFn | None) -> Iterator[Chunk]:
    """Yield no text: of a source whose tokens are all in memory."""
    return iter(())


@dataclass(frozen=True, kw_only=True)
class Source(TextStats):
    """A text on this machine: the facts that one pass over it computed, and a way to read it."""

    name: str  # as the user gave it; for standard input, the path of the saved copy
    title: str  # for messages
    path: Path  # the file or folder, for messages
    held_out: "Source | None" = None  # the validation files of the data set, or the user's --val-data
    # -log2 of the true probability of each document, and its kind; known only for the built-in corpus.
    limits: tuple[tuple[float, str], ...] = field(default=(), repr=False, compare=False)
    reader: Callable[[ProgressFn | None], Iterator[Chunk]] = field(default=_read_nothing, repr=False, compare=False)

    def read(self, progress: ProgressFn | None = None) -> Iterator[Chunk]:
        """Yield the text in chunks, with None between documents (never first, last or repeated).

        Args:
            progress: called with (bytes read, bytes in all).

        Raises:
            DataError: a file cannot be read or has changed.
        """
        return self.reader(progress)


def find_source(
    data: str,
    *,
    text_field: str = "text",
    errors: str = "strict",
    val_data: str | None = None,
    offline: bool = False,
    progress: ProgressFn | None = None,
    log: LogFn = no_log,
) -> Source:
    """Find the text called `data` and compute its facts.

    Args:
        data, text_field, errors, offline: as in `prepare_dataset`; the field `meta.text` is "text" in "meta".
        val_data: the name or path of a text to hold out; by default the validation files of the source, if it has any.
        progress: called with (bytes done, bytes in total) of each download and of each pass over files.
        log: called with a message for each damaged file that was skipped.

    Raises:
        DataError: an unknown source or file, a folder without texts, an empty text, a failed download, or a file that
            cannot be read, with the place in it.
    """
    if errors not in ("strict", "replace"):
        raise DataError(f"errors={errors!r} cannot be used; it must be strict or replace")
    source = _find(data, text_field, errors, offline, progress, log)
    if val_data is None:
        return source
    # The validation files of a source that is itself used for validation are ignored.
    held_out = replace(_find(val_data, text_field, errors, offline, progress, log), held_out=None)
    if held_out.sha256 == source.sha256:
        raise DataError(
            f"{val_data} is the very text of {data}; a model is judged by a text it was not trained on: name another "
            f"with --val-data, or leave that out, and the end of the text is held out"
        )
    return replace(source, held_out=held_out)


def source_from_files(
    name: str, title: str, path: Path, texts: TextFiles, progress: ProgressFn | None = None
) -> Source:
    """Return the source that consists of these files, with their (possibly cached) facts. Raises DataError."""
    stats = text_stats(texts, progress)
    reader = partial(read_verified, texts, stats.sha256)
    return Source(name=name, title=title, path=path, reader=reader, **vars(stats))


def _find(data: str, text_field: str, errors: str, offline: bool, progress: ProgressFn | None, log: LogFn) -> Source:
    if data in SOURCES:
        return _named_source(data, SOURCES[data], offline, progress, log)
    if data.partition(":")[0] == corpus.NAME:
        path, limits = corpus.ensure_corpus(corpus.corpus_bytes(data), progress)
        source = source_from_files(data, "tales, the built-in corpus", path, TextFiles("stories", (path,)), progress)
        return replace(source, limits=limits)
    if data == STDIN:
        path = save_stdin()
        return source_from_files(str(path), "standard input", path, find_text_files(path, text_field, errors), progress)
    path, name, source_names = Path(data), data, [*SOURCES, corpus.NAME]
    try:
        # Process substitution of the shell, as in --data <(zcat my.txt.gz), gives a pipe that can be read only once.
        if path.is_fifo():
            with open(path, "rb") as pipe:
                path = save_stdin(pipe)
            name = str(path)
        if path.is_file() or path.is_dir():
            source = source_from_files(
                name, path.absolute().name, path, find_text_files(path, text_field, errors), progress
            )
            check_saved_stdin(path, source.sha256)
            return source
        suggestion = did_you_mean(data, source_names)
        if suggestion == "." and path.parent.is_dir():
            suggestion = did_you_mean(str(path), [str(path.with_name(p.name)) for p in path.parent.iterdir()])
    except OSError as error:  # a name that is too long, or a folder without permission
        raise DataError(f"{data} cannot be read: {error.strerror or error}") from None
    raise DataError(
        f"there is no source or file {data!r}{suggestion} The sources are {', '.join(source_names)}; or give a path"
    )


def _named_source(
    name: str, description: NamedSource, offline: bool, progress: ProgressFn | None, log: LogFn
) -> Source:
    """Return a named source; its validation files become the held-out text."""

    def local_path(file: PinnedFile | HubFile) -> Path:
        if isinstance(file, PinnedFile):
            return ensure_file(file, offline=offline, progress=progress, log=log)
        return ensure_hub_file(file, offline=offline, progress=progress)

    def source(files: list[Path]) -> Source:
        texts = TextFiles(description.kind, tuple(files), hash_raw_bytes=description.hash_raw_bytes)
        return source_from_files(name, name, files[0], texts, progress)

    # Download everything before reading anything, the small files first, so that a missing file is reported early.
    validation = [local_path(file) for file in description.validation]
    training = [local_path(file) for file in description.training]
    return replace(source(training), held_out=source(validation) if validation else None)


def save_stdin(stream: BinaryIO | None = None) -> Path:
    """Copy a pipe, by default standard input, to `<cache>/stdin/<sha256>.txt`, and return that path.

    A text is read more than once, and a resumed run must find it again.

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

    with cache_errors("the text of the pipe", folder):
        path = write_by_digest(folder, ".txt", copy)
    return path


def check_saved_stdin(path: Path, sha256: str) -> None:
    """Raise DataError if a file that `save_stdin` wrote no longer has the SHA-256 in its name."""
    if path.absolute().parent == (cache_dir() / "stdin").absolute() and path.stem != sha256:
        raise DataError(
            f"{path} is damaged: its SHA-256 is {sha256[:12]}..., not the one it is named by; "
            "delete it and pipe the text in again"
        )
