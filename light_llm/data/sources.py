"""Find a text by name or path: a named source, the built-in corpus, standard input, a file or a folder."""

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from ..atomic_io import write_by_digest
from ..config import repr_short
from ..errors import DataError, did_you_mean
from ..runtime import cache_dir, expand_path
from .decode_utf8 import READ_BYTES
from .download import PinnedFile, cache_errors, ensure_file
from .fingerprint import TextStats, read_verified, text_stats
from .hub import HubFile, ensure_hub_file
from .tales import corpus
from .text_files import TextFiles, find_text_files, list_skipped
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
        log: called with a message for each damaged file that was skipped, what a folder gave, and a built-in text whose
            name is also that of a file here.

    Raises:
        DataError: an unknown source or file, a folder without texts, an empty text, a failed download, or a file that
            cannot be read, with the place in it.
    """
    if errors not in ("strict", "replace"):
        raise DataError(f"{{--errors {errors}}} cannot be used; it must be strict or replace")
    source = _find(data, text_field, errors, offline, progress, log)
    if val_data is None:
        return source
    # The validation files of a source that is itself used for validation are ignored.
    try:
        held_out = replace(_find(val_data, text_field, errors, offline, progress, log), held_out=None)
    except DataError as error:
        raise DataError(f"the held-out text ({{--val-data {val_data}}}) cannot be used: {error.message}") from None
    if held_out.sha256 == source.sha256:
        raise DataError(
            f"{{--val-data {val_data}}} is the same text as {{--data {data}}}, and a held-out text must not be trained "
            "on; name another, or leave out {--val-data}: the end of the text is then held out"
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
    if _is_built_in(data):
        if Path(data).exists():
            kind = "folder" if Path(data).is_dir() else "file"
            log(f"this is the built-in text {data!r}; for the {kind} of that name here, use {{--data ./{data}}}")
        if data in SOURCES:
            return _named_source(data, SOURCES[data], offline, progress, log)
        path, limits = corpus.ensure_corpus(corpus.corpus_bytes(data), progress)
        source = source_from_files(data, "tales, the built-in corpus", path, TextFiles("stories", (path,)), progress)
        return replace(source, limits=limits)
    if "://" in data:
        raise DataError(_download_hint(data))
    path = expand_path(data)
    # A path loses its "./", without which a resumed run would read the built-in text of that name.
    name = f"./{path}" if _is_built_in(str(path)) else str(path)
    try:
        # Process substitution of the shell, as in --data <(zcat my.txt.gz), gives a pipe that can be read only once.
        if data == STDIN or path.is_fifo():
            path = save_stdin(None if data == STDIN else path)
            name = str(path)
        if path.is_file() or path.is_dir():
            texts = find_text_files(path, text_field, errors)
            source = source_from_files(name, _title(path), path, texts, progress)
            check_saved_stdin(path, source.sha256)
            if path.is_dir():
                log(_folder_note(path, texts, source.documents))
            return source
        if path.exists():
            raise DataError(f"{data} is a device and holds no text; name a text file or a folder of them")
        raise DataError(_unknown_text(data, path))
    except OSError as error:  # a name that is too long, or a folder without permission
        raise DataError(f"{repr_short(data)} cannot be read: {error.strerror or error}") from None


def _is_built_in(data: str) -> bool:
    return data in SOURCES or data.partition(":")[0] == corpus.NAME


def _title(path: Path) -> str:
    """Return the name of a text for messages, which is not the hash that names a saved standard input."""
    return "standard input" if _is_saved_stdin(path) else path.absolute().name


def _folder_note(folder: Path, texts: TextFiles, documents: int) -> str:
    """Return a note of the files that were read from a folder, and of the skipped ones that light-llm wrote."""
    files = f"{len(texts.files):,} file{'s' * (len(texts.files) > 1)}"
    skipped = f"; skipped: {list_skipped(texts.skipped)}" if texts.skipped else ""
    return f"the folder {folder} has {files} of text, {documents:,} document{'s' * (documents > 1)}{skipped}"


def _unknown_text(data: str, path: Path) -> str:
    """Return the message for a name that is neither a source nor a path, with the nearest known one."""
    source_names = [*SOURCES, corpus.NAME]
    suggestion = did_you_mean(data, source_names)
    if suggestion == "." and path.parent.is_dir():
        suggestion = did_you_mean(str(path), [str(path.with_name(p.name)) for p in path.parent.iterdir()])
    return (
        f"there is no file, folder or built-in text {repr_short(data)}{suggestion} "
        f"The built-in texts are {', '.join(source_names)}; or give the path of a text"
    )


def _download_hint(address: str) -> str:
    """Return the message for an address, with a command that downloads it."""
    scheme, _, rest = address.partition("://")
    name = PurePosixPath(urlsplit(address).path).name or "text.txt"
    command = f"curl -L -o {shlex.quote(name)} {shlex.quote(address)}"
    if scheme == "hf":
        # hf://datasets/OWNER/NAME/FILE
        owner, _, file = rest.removeprefix("datasets/").partition("/")
        repo, _, file = file.partition("/")
        words = [f"{owner}/{repo}", *([file] if file else []), "--repo-type", "dataset", "--local-dir", "text"]
        command, name = f"hf download {shlex.join(words)}", f"text/{file}"
    elif scheme not in ("http", "https"):
        return f"{address} is an address; download it first, then give the path of the file: {{--data my.txt}}"
    return f"{address} is an address; download it first: {command}, and then use {{--data {name}}}"


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


def save_stdin(pipe: Path | BinaryIO | None = None) -> Path:
    """Copy a pipe, by default standard input, to `<cache>/stdin/<sha256>.txt`, and return that path.

    A text is read more than once, and a resumed run must find it again.

    Raises:
        DataError: the pipe is empty, standard input is closed or a terminal, or the file cannot be written.
    """
    if isinstance(pipe, Path):
        with open(pipe, "rb") as stream:
            return save_stdin(stream)
    if pipe is None:
        if sys.stdin is None or sys.stdin.closed:
            raise DataError("{--data -} reads standard input, which is closed; pipe a text into it, or name a file")
        if sys.stdin.isatty():
            raise DataError(
                "{--data -} reads standard input, which is a terminal; pipe a text into it, as in cat my.txt | ..., "
                "or name a file"
            )
        pipe = sys.stdin.buffer
    folder = _stdin_folder()

    def copy(file: BinaryIO) -> None:
        empty = True
        while block := pipe.read(READ_BYTES):
            file.write(block)
            empty = False
        if empty:
            raise DataError("standard input (or the pipe) is empty; pipe a text into it, or name a file")

    with cache_errors("the text of the pipe", folder):
        path = write_by_digest(folder, ".txt", copy)
    return path


def stdin_or_saved(saved: str) -> str:
    """Return the path of the text on standard input, or `saved`, that of a run, if standard input has no text."""
    try:
        return str(save_stdin())
    except DataError:  # empty, closed or a terminal, as under a job scheduler that repeats a command
        return saved


def check_saved_stdin(path: Path, sha256: str) -> None:
    """Raise DataError if a file that `save_stdin` wrote no longer has the SHA-256 in its name."""
    if _is_saved_stdin(path) and path.stem != sha256:
        raise DataError(
            f"{path} is damaged: its SHA-256 is {sha256[:12]}..., not the one in its name; "
            "delete it and pipe the text in again"
        )


def _stdin_folder() -> Path:
    return cache_dir() / "stdin"


def _is_saved_stdin(path: Path) -> bool:
    return path.absolute().parent == _stdin_folder().absolute()
