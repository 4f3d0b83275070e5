"""Evaluate a model on any text: files, folders, records or standard input, with windows that may overlap."""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..config import as_plain, check_choice
from ..data import Tokenizer
from ..data.encode import join_documents
from ..data.python_inputs import find_data, own_tokenizer
from ..data.sources import Source, find_source, source_from_files
from ..data.text_files import ReadOptions, find_text_files
from ..data.text_stream import LogFn, ProgressFn, no_log, split_at_word_boundaries
from ..errors import ConfigError, DataError
from ..model import LightLLM, eval_mode
from .loss import DTYPES, Evaluation, check_model, ratio_stderr, summarise
from .windows import Window, check_windows, stride_windows, window_nats

BATCH_TOKENS = 4096  # of the windows that are evaluated at once; one longer window is a batch of its own
SORTED_WINDOWS = 256  # that are sorted by length, so that short documents need little padding
MIN_DOCUMENTS = 30  # from here on the standard error is over documents


class _File(Protocol):
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def training_window(self) -> int: ...


class Loaded(Protocol):
    """A model and its file, as `light_llm.checkpoint.load_model` returns them."""

    @property
    def model(self) -> LightLLM: ...
    @property
    def file(self) -> _File: ...


@dataclass(frozen=True, kw_only=True)
class TextEvaluation(Evaluation):
    """The loss over the targets of one text, or of several together.

    The standard errors are over documents if there are at least 30 with targets, otherwise over windows.
    """

    name: str
    bits_per_byte_stderr: float | None
    stride: int
    documents: int  # with targets; each starts without context
    text_tokens: int  # of the whole text, with those that have no prediction
    text_bytes: int  # of the whole text; `bytes` are those of the targets
    stderr_over: str  # documents or windows
    sha256: str = ""  # of the text, as in the record of a run; empty for several texts together
    texts: tuple["TextEvaluation", ...] = ()  # the evaluations of the single texts; a folder has one for each file
    notes: tuple[str, ...] = ()  # texts and documents without targets


def evaluate_text(
    model: LightLLM | Loaded,
    *texts: Any,
    tokenizer: Any = None,
    context: int | None = None,
    stride: int | None = None,
    dtype: str = "float32",
    text_field: str = "text",
    errors: str = "strict",
    separator: str | None = None,
    suffixes: str = "",
    offline: bool = False,
    progress: ProgressFn | None = None,
    log: LogFn = no_log,
) -> TextEvaluation:
    """Return the loss of a model on some texts: of each, and together, weighted by tokens.

    Each document (a text file, a record of JSON Lines or Parquet) is encoded as a whole, as the model's tokenizer
    encodes a text, and evaluated on its own: nothing of the document before is seen. A token that the tokenizer puts
    before each text, such as BOS, is context for the first one; without one, the first has no prediction. A token that
    it puts after each text is predicted, and stands for no bytes.

    Args:
        model: a LightLLM and the argument `tokenizer`, or what `light_llm.checkpoint.load_model` returns.
        texts: each a path, a folder, the name of a source, `-` for standard input, or a list of documents.
        context: tokens of a window; by default the window of the training if that is known, else n_positions.
        stride: new tokens of each window, at most the context, which is the default: the windows do not overlap. Each
            token is predicted with at least context - stride tokens before it, where the document has them; see
            `windows.stride_windows`.
        dtype: float32, bfloat16 or float16: the format of the matrix products.
        text_field, errors, separator, suffixes, offline: as in `prepare_dataset`.
        progress: called with (bytes evaluated, bytes in total).
        log: called with notes on the texts.

    Raises:
        DataError: a text that is missing, cannot be read, or has no targets (if others have some, it is noted).
        ConfigError: no text or tokenizer, or a context, stride or dtype that cannot be used.
    """
    model, tokenizer, default = _model_parts(model, tokenizer)
    context, stride = check_windows(context, stride, default, model.config.n_positions)
    dtype = as_plain(dtype)
    check_choice("dtype", dtype, DTYPES)
    if not texts:
        raise ConfigError("evaluate_text needs a text: the path of a file or folder, or a list of documents")
    options = ReadOptions(text_field, errors, separator, suffixes)
    sources = [source for text in texts for source in _find_texts(text, options, offline, log)]
    total = sum(source.n_bytes for _, source in sources)
    tallies: list[_Tally] = []
    with eval_mode(model):
        for name, source in sources:
            tallies.append(tally := _Tally(name, source.sha256))
            done = sum(t.text_bytes for t in tallies)
            show = partial(_show, progress, done, total) if progress else None
            _evaluate(model, _encoded(source, name, tokenizer), tally, context, stride, dtype, show)
    if progress:
        progress(total, total)
    return _results(tallies, context, stride)


def _show(progress: ProgressFn, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _model_parts(model: Any, tokenizer: Any) -> tuple[LightLLM, Tokenizer, int]:
    """Return the model, its tokenizer and its default context. Raises ConfigError."""
    default = None
    if hasattr(model, "file") and hasattr(model, "model"):
        tokenizer = model.file.tokenizer if tokenizer is None else tokenizer
        default, model = model.file.training_window, model.model
    check_model(model, "evaluate_text")
    if tokenizer is None:
        raise ConfigError("evaluate_text needs the tokenizer of the model: evaluate_text(model, text, tokenizer=...)")
    tokenizer = own_tokenizer(tokenizer)
    if tokenizer.vocab_size > len(model.head_weight):
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model {len(model.head_weight):,}; "
            "give the model's own tokenizer"
        )
    return model, tokenizer, default or model.config.n_positions


def _find_texts(text: Any, options: ReadOptions, offline: bool, log: LogFn) -> Iterator[tuple[str, Source]]:
    """Yield the names and sources of a text: several for a folder, one for each of its files. Raises DataError."""
    name, n_documents = find_data(text, options.text_field, argument="texts")
    source = find_source(name, **vars(options), offline=offline, log=log)
    if n_documents is not None:
        yield f"{n_documents:,} document{'s' * (n_documents != 1)}", source
        return
    if not source.path.is_dir():
        yield (source.title if name == "-" else name), source
        return
    files = find_text_files(source.path, options)
    for path in files.files:
        # An empty file of a folder has nothing that could be read wrongly, and the folder has other files.
        if path.stat().st_size:
            is_raw = files.kind == "text" and not options.separator
            one = replace(files, files=(path,), hash_raw_bytes=is_raw)
            yield str(path), source_from_files(str(path), path.name, path, one)


@dataclass(frozen=True)
class _Document:
    """The ids of a document and the bytes of the text that each stands for, (n,) both."""

    ids: NDArray[np.int32]
    n_bytes: NDArray[np.int32]
    text_bytes: int  # of the whole document


def _encoded(source: Source, name: str, tokenizer: Tokenizer) -> Iterator[_Document]:
    """Yield the documents of a text as the model's own tokenizer encodes them, with the ids that it adds.

    Raises:
        DataError: a character that the tokenizer does not have.
    """
    chunks = chain(source.read(), [None])
    # As in training: where the ids of a text do not depend on it, a long document is encoded part by part.
    texts = split_at_word_boundaries(chunks) if tokenizer.cuts_at_words else join_documents(chunks)
    ids: list[NDArray[np.int32]] = []
    n_bytes: list[NDArray[np.int32]] = []
    text_bytes = 0
    for text in texts:
        if text is None:
            yield _document(ids, n_bytes, text_bytes, tokenizer)
            ids, n_bytes, text_bytes = [], [], 0
            continue
        try:
            part, counts = tokenizer.encode_aligned(text)
        except DataError as error:
            raise DataError(f"{name}: {error.message}") from None
        ids.append(np.array(part, dtype=np.int32))
        n_bytes.append(np.array(counts, dtype=np.int32))
        text_bytes += len(text.encode("utf-8", "replace"))


def _document(
    ids: list[NDArray[np.int32]], n_bytes: list[NDArray[np.int32]], text_bytes: int, tokenizer: Tokenizer
) -> _Document:
    """Return a document from its parts, with prefix and suffix."""
    if not any(map(len, ids)):
        # A text of which the tokenizer leaves nothing, such as spaces, has no prediction either.
        return _Document(np.zeros(0, np.int32), np.zeros(0, np.int32), text_bytes)
    before, after = (np.array(added, dtype=np.int32) for added in (tokenizer.prefix, tokenizer.suffix))
    counts = np.concatenate([np.zeros_like(before), *n_bytes, np.zeros_like(after)])
    return _Document(np.concatenate([before, *ids, after]), counts, text_bytes)


@dataclass
class _Parts:
    """The nats, targets and bytes of parts of a text, which count as independent."""

    nats: "array[float]" = field(default_factory=lambda: array("d"))
    targets: "array[int]" = field(default_factory=lambda: array("q"))
    n_bytes: "array[int]" = field(default_factory=lambda: array("q"))

    def append(self, nats: float = 0.0, targets: int = 0, n_bytes: int = 0) -> None:
        self.nats.append(nats)
        self.targets.append(targets)
        self.n_bytes.append(n_bytes)

    def add(self, index: int, nats: float, targets: int, n_bytes: int) -> None:
        self.nats[index] += nats
        self.targets[index] += targets
        self.n_bytes[index] += n_bytes

    def extend(self, other: "_Parts") -> None:
        self.nats.extend(other.nats)
        self.targets.extend(other.targets)
        self.n_bytes.extend(other.n_bytes)


@dataclass
class _Tally:
    """The nats and counts of a text so far."""

    name: str
    sha256: str = ""
    windows: _Parts = field(default_factory=_Parts)
    documents: _Parts = field(default_factory=_Parts)
    too_short: int = 0  # documents without a target
    text_tokens: int = 0
    text_bytes: int = 0

    def extend(self, other: "_Tally") -> None:
        self.windows.extend(other.windows)
        self.documents.extend(other.documents)
        self.text_tokens += other.text_tokens
        self.text_bytes += other.text_bytes


@dataclass(frozen=True)
class _TextWindow(Window):
    document: int
    n_bytes: int  # of the targets


def _evaluate(
    model: LightLLM,
    documents: Iterable[_Document],
    tally: _Tally,
    context: int,
    stride: int,
    dtype: str,
    show: Callable[[int], None] | None,
) -> None:
    """Evaluate documents one after the other, and add the results to a tally."""
    done = 0
    windows = _windows(documents, tally, context, stride)
    # In groups, so that the windows of a large text are never all in memory.
    while group := list(islice(windows, SORTED_WINDOWS)):
        for batch in _batches(group):
            for window, nats in zip(batch, window_nats(model, batch, dtype), strict=True):
                tally.windows.append(nats, window.scored, window.n_bytes)
                tally.documents.add(window.document, nats, window.scored, window.n_bytes)
                done += window.n_bytes
            if show:
                show(done)


def _windows(documents: Iterable[_Document], tally: _Tally, context: int, stride: int) -> Iterator[_TextWindow]:
    """Yield the windows of documents, which are counted in the tally."""
    for document in documents:
        n = len(document.ids)
        tally.text_tokens += n
        tally.text_bytes += document.text_bytes
        if n < 2:
            tally.too_short += 1
            continue
        tally.documents.append()
        for start, stop, scored in stride_windows(n, context, stride):
            n_bytes = int(document.n_bytes[stop - scored : stop].sum())
            yield _TextWindow(document.ids[start:stop], scored, len(tally.documents.nats) - 1, n_bytes)


def _batches(windows: Iterable[_TextWindow]) -> Iterator[list[_TextWindow]]:
    """Yield windows in batches of at most BATCH_TOKENS with their padding, the longest first."""
    batch: list[_TextWindow] = []
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        if batch and (len(batch) + 1) * len(batch[0].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _results(tallies: list[_Tally], context: int, stride: int) -> TextEvaluation:
    """Return the evaluation of all texts together, with those of each and notes. Raises DataError without targets."""
    notes, together = [], _Tally("together")
    for tally in tallies:
        together.extend(tally)
        if not tally.documents.nats:
            notes.append(f"{tally.name} {_without_targets(tally)}")
        elif tally.too_short:
            were = (
                "documents of fewer than 2 tokens were" if tally.too_short > 1 else "document of less than 2 tokens was"
            )
            notes.append(f"{tally.name}: {tally.too_short:,} {were} left out")
    found = [_result(tally, context, stride) for tally in tallies if tally.documents.nats]
    if not found:
        raise DataError(f"{'; '.join(notes[:3])}; use a longer text")
    if len(tallies) == 1:
        return replace(found[0], texts=tuple(found), notes=tuple(notes))
    return replace(_result(together, context, stride), texts=tuple(found), notes=tuple(notes))


def _without_targets(tally: _Tally) -> str:
    """Return why a text has no targets."""
    if not tally.text_tokens:
        return "encodes to no tokens"
    if tally.too_short > 1:
        return f"has only documents of fewer than 2 tokens ({tally.too_short:,})"
    return "encodes to 1 token, and the first token of a text has no prediction"


def _result(tally: _Tally, context: int, stride: int) -> TextEvaluation:
    documents, windows = tally.documents, tally.windows
    unit = "documents" if len(documents.nats) >= MIN_DOCUMENTS else "windows"
    parts = documents if unit == "documents" else windows
    evaluation = summarise(parts.nats, parts.targets, sum(parts.n_bytes), context)
    bits_stderr = ratio_stderr(parts.nats, parts.n_bytes)
    return TextEvaluation(
        **vars(replace(evaluation, windows=len(windows.nats))),
        name=tally.name,
        bits_per_byte_stderr=None if bits_stderr is None else bits_stderr / math.log(2),
        stride=stride,
        documents=len(documents.nats),
        stderr_over=unit,
        text_tokens=tally.text_tokens,
        text_bytes=tally.text_bytes,
        sha256=tally.sha256,
    )
