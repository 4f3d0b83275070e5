"""Find a text by name or path: a named source, the built-in corpus, standard input, a file or a folder."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..config import repr_short
from ..errors import DataError, did_you_mean
from ..runtime import expand_path
from .download import PinnedFile, ensure_file
from .fingerprint import TextStats, read_verified, text_stats
from .hub import HubFile, ensure_hub_file
from .piped_text import STDIN, check_saved_stdin, save_stdin, title_of
from .tales import corpus
from .text_files import ReadOptions, TextFiles, find_text_files
from .text_notes import folder_note, text_notes
from .text_stream import Chunk, LogFn, ProgressFn, no_log

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

        Nothing is kept in memory, and each call reads the text from its beginning.

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
    separator: str | None = None,
    suffixes: str = "",
    val_data: str | None = None,
    offline: bool = False,
    progress: ProgressFn | None = None,
    log: LogFn = no_log,
) -> Source:
    r"""Find the text called `data` and compute its facts. To iterate over the documents of any file or folder:

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = Path(folder.name, "my.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n')
    >>> list(find_source(f"{folder.name}/my.jsonl").read())
    ['One.', None, 'Two.']

    A long document comes in several chunks, and None stands between documents.

    Args:
        data, text_field, errors, separator, suffixes, offline: as in `prepare_dataset`; the field `meta.text` is "text"
            in "meta".
        val_data: the name or path of a text to hold out; by default the validation files of the source, if it has any.
        progress: called with (bytes done, bytes in total) of each download and of each pass over files.
        log: called with a message for each damaged file that was skipped, what a folder gave, what a text may hold by
            mistake, and a built-in text whose name is also that of a file here.

    Raises:
        DataError: an unknown source or file, a folder without texts, an empty text, a failed download, or a file that
            cannot be read, with the place in it.
    """
    if errors not in ("strict", "replace"):
        raise DataError(f"{{--errors {errors}}} cannot be used; it must be strict or replace")
    if separator is not None and (not separator.strip() or len(separator.splitlines()) > 1):
        raise DataError(
            f"{{--separator}} is {separator!r}; it must be what one line has between two documents, such as "
            "{--separator '<|endoftext|>'}"
        )
    options = ReadOptions(text_field, errors, separator, suffixes)
    source = _find(data, options, offline, progress, log)
    if suffixes and (is_built_in(data) or not source.path.is_dir()):
        log(f"{{--suffixes {suffixes}}} has no effect: {source.title} is not a folder")
    if separator and is_built_in(data):
        log(f"{{--separator}} has no effect on {source.title}, a built-in text")
    if val_data is None:
        return source
    # The validation files of a source that is itself used for validation are ignored.
    try:
        held_out = replace(_find(val_data, options, offline, progress, log), held_out=None)
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


def _find(data: str, options: ReadOptions, offline: bool, progress: ProgressFn | None, log: LogFn) -> Source:
    if is_built_in(data):
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
    name = f"./{path}" if is_built_in(str(path)) else str(path)
    try:
        # Process substitution of the shell, as in --data <(zcat my.txt.gz), gives a pipe that can be read only once.
        if data == STDIN or path.is_fifo():
            path = save_stdin(None if data == STDIN else path)
            name = str(path)
        if path.is_file() or path.is_dir():
            texts = find_text_files(path, options)
            source = source_from_files(name, title_of(path), path, texts, progress)
            if texts.hash_raw_bytes:  # otherwise the hash is of the documents
                check_saved_stdin(path, source.sha256)
            if path.is_dir():
                log(folder_note(path, texts, source))
            for note in text_notes(source.title, texts, source):
                log(note)
            return source
        if path.exists():
            raise DataError(f"{data} is a device and holds no text; name a text file or a folder of them")
        raise DataError(_unknown_text(data, path))
    except OSError as error:  # a name that is too long, or a folder without permission
        raise DataError(f"{repr_short(data)} cannot be read: {error.strerror or error}") from None


def is_built_in(data: str) -> bool:
    """Return whether a name is that of a source or of the built-in corpus, whatever files there are."""
    return data in SOURCES or data.partition(":")[0] == corpus.NAME


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
        return (
            f"{address} is an address; download it first, then give the path of the file: {{--data my.txt}}. A corpus "
            "of light-llm is read from there: give the address of its corpus.json"
        )
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
