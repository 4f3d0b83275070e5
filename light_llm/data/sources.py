"""Texts by name or path."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ..errors import DataError, did_you_mean
from .fetch import KnownFile, find_or_fetch
from .hub import HubFile, find_or_fetch_from_hub
from .pieces import Piece, Progress, Say, silent
from .scan import read_checked, scan
from .spool import STDIN, check_spooled, spooled
from .tales import corpus
from .texts import Texts, texts_at

SHAKESPEARE = KnownFile(
    name="shakespeare.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
)


@dataclass(frozen=True)
class KnownSource:
    """A source that has a name: where its files come from, and how they are read."""

    kind: str  # a key of texts.READERS
    training: tuple[KnownFile | HubFile, ...]
    validation: tuple[KnownFile | HubFile, ...] = ()
    plain: bool = False


def _tinystories(split: str) -> HubFile:
    # The revision and the names of the files were found in public repositories; they have not been downloaded here.
    return HubFile(
        "roneneldan/TinyStories",
        "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        f"TinyStoriesV2-GPT4-{split}.txt",
        "tinystories",
    )


def _wikitext(config: str, part: str) -> HubFile:
    # As above: found in public repositories, not downloaded here.
    return HubFile(
        "Salesforce/wikitext",
        "b08601e04326c79dfdd32d625aee71d232d685c3",
        f"{config}/{part}.parquet",
        "wikitext",
    )


def _wikitext_source(config: str, parts: int) -> KnownSource:
    """Its rows are the lines of one long text; a blank line is an empty row, a heading a row with = signs."""
    training = [_wikitext(config, f"train-{i:05d}-of-{parts:05d}") for i in range(parts)]
    return KnownSource("parquet-lines", tuple(training), (_wikitext(config, "validation-00000-of-00001"),))


SOURCES: dict[str, KnownSource] = {
    "shakespeare": KnownSource("text", (SHAKESPEARE,), plain=True),
    "tinystories": KnownSource("stories", (_tinystories("train"),), (_tinystories("valid"),)),
    "wikitext-2": _wikitext_source("wikitext-2-raw-v1", parts=1),
    "wikitext-103": _wikitext_source("wikitext-103-raw-v1", parts=2),
}


def _nothing(progress: Progress | None) -> Iterator[Piece]:
    return iter(())


@dataclass(frozen=True)
class Source:
    """A text that is on this machine, and what one pass over it found out."""

    name: str  # as it was asked for; of standard input, the path it was kept at
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
            DataError: a file cannot be read, or is no longer what it was.
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
    say: Say = silent,
) -> Source:
    """The text called `data`.

    Args:
        data: the name of a source; the path of a text file, of JSON Lines, of a Parquet file, or of a folder of one
            of these; or `-`, standard input.
        text_field: the field or column that holds the text, in JSON Lines and Parquet; `meta.text` lies in `meta`.
        errors: "strict", or "replace": bytes that are not UTF-8 become U+FFFD and are counted.
        val_data: a text to be held out, as a name or path; without it, the one the source marks as validation.
        offline: download nothing.
        progress: called with (bytes done, bytes in all) of each download and of each pass over files.
        say: called with a line for each damaged file that was passed over.

    Raises:
        DataError: no such source or file, a folder without texts, an empty text, a download that failed, or a file
            that cannot be read, with the place in it.
    """
    if errors not in ("strict", "replace"):
        raise DataError(f"errors={errors!r} cannot be used; it must be strict or replace")
    source = _find(data, text_field, errors, offline, progress, say)
    if val_data is None:
        return source
    held_out = replace(_find(val_data, text_field, errors, offline, progress, say), held_out=None)
    if held_out.sha256 == source.sha256:
        raise DataError(
            f"{val_data} is the very text of {data}; a model is judged by a text it was not trained on: name another "
            f"with --val-data, or leave that out, and the end of the text is held out"
        )
    return replace(source, held_out=held_out)


def from_texts(name: str, title: str, path: Path, texts: Texts, progress: Progress | None = None) -> Source:
    """The source in these files, after a pass over them (or what an earlier one kept). Raises DataError."""
    found = scan(texts, progress)
    return Source(
        name,
        title,
        path,
        found.sha256,
        found.n_bytes,
        found.n_chars,
        found.alphabet,
        found.documents,
        found.replaced,
        reader=partial(read_checked, texts, found.sha256),
    )


def _find(
    data: str, text_field: str, errors: str, offline: bool, progress: Progress | None, say: Say = silent
) -> Source:
    if data in SOURCES:
        return _known(data, SOURCES[data], offline, progress, say)
    if data.partition(":")[0] == corpus.NAME:
        path, limits = corpus.corpus(corpus.size_of(data), progress)
        source = from_texts(data, "tales, the built-in corpus", path, Texts("stories", (path,)), progress)
        return replace(source, limits=limits)
    if data == STDIN:
        kept = spooled()
        return from_texts(str(kept), "standard input", kept, texts_at(kept, text_field, errors), progress)
    path, name, named = Path(data), data, [*SOURCES, corpus.NAME]
    try:
        if path.is_fifo():  # of the shell, as in --data <(zcat my.txt.gz)
            with open(path, "rb") as pipe:
                path = spooled(pipe)
            name = str(path)
        if path.is_file() or path.is_dir():
            source = from_texts(name, path.absolute().name, path, texts_at(path, text_field, errors), progress)
            check_spooled(path, source.sha256)
            return source
        near = did_you_mean(data, named)
        if near == "." and path.parent.is_dir():
            near = did_you_mean(str(path), [str(path.with_name(p.name)) for p in path.parent.iterdir()])
    except OSError as error:  # a name that is too long, a folder on the way that may not be entered
        raise DataError(f"{data} cannot be read: {error.strerror or error}") from None
    raise DataError(f"there is no source or file {data!r}{near} The sources are {', '.join(named)}; or give a path")


def _known(name: str, known: KnownSource, offline: bool, progress: Progress | None, say: Say) -> Source:
    """A source with a name, its validation files as what is held out."""

    def here(file: KnownFile | HubFile) -> Path:
        if isinstance(file, KnownFile):
            return find_or_fetch(file, offline=offline, progress=progress, say=say)
        return find_or_fetch_from_hub(file, offline=offline, progress=progress)

    def source(files: list[Path]) -> Source:
        return from_texts(name, name, files[0], Texts(known.kind, tuple(files), plain=known.plain), progress)

    # Everything is fetched before anything is read, the small files first: what is missing is said at once.
    validation = [here(file) for file in known.validation]
    training = [here(file) for file in known.training]
    return replace(source(training), held_out=source(validation) if validation else None)
