"""Prepare a dataset: find the text, make the tokenizer, encode both splits to shards (cached), and open them."""

import hashlib
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import DEFAULT_SOURCE, DataConfig
from ..errors import ConfigError, DataError
from ..runtime import cache_dir, cache_in_use
from .corpus import Corpus, CorpusSource, format_weights, parse_weights
from .encode import encode_splits
from .order import PERIOD, slots_of
from .piped_text import is_copy
from .python_inputs import find_data, find_tokenizer
from .remote_corpus import find_corpus
from .resolve import max_documents, read_splits, resolve_source, resolve_tokenizer, split_key, split_note
from .shard_list import ShardList, TokenSpan
from .shards import SHARD_FORMAT, Shard, TokenArray
from .sources import Source
from .text_stream import ProgressFn
from .tokenizers import Tokenizer, tokenizer_hash

_TEXT = DataConfig()
_OF_TEXTS = ("held_out", "text_field", "separator", "suffixes", "errors")  # settings that decide how a text is read
StageProgressFn = Callable[[str, int, int], object]  # (stage, bytes done, bytes in total); reading, learning, encoding


@dataclass(frozen=True)
class TokenDataset(Dataset[tuple[Tensor, Tensor]]):
    """The token ids of a text, split into training and held-out ids, with their tokenizer and origin."""

    tokens: TokenArray  # the training split
    held_out: TokenArray  # the held-out split, never trained on
    max_length: int  # T, tokens of a window
    tokenizer: Tokenizer
    source: Source
    config: DataConfig = field(default_factory=DataConfig)
    notes: tuple[str, ...] = ()  # messages for the user about substitutes and damaged files
    sources: tuple[CorpusSource, ...] = ()  # of a corpus, in the order of its ids, with the weights of the run

    def __len__(self) -> int:
        """Windows of max_length tokens in one pass."""
        return max(1, (len(self.tokens) - self.max_length) // self.max_length)

    def __getitem__(self, index: SupportsIndex) -> tuple[Tensor, Tensor]:
        """Return window `index` of the training split: its tokens and targets, (T,) int64 each.

        The windows lie side by side. `create_dataloader` also moves their starts from one pass to the next.

        Raises:
            IndexError: no such window.
        """
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"window {i} of {len(self)}")
        start = (i % len(self)) * self.max_length
        ids = torch.from_numpy(self.tokens.read(start, start + self.max_length + 1))
        return ids[:-1], ids[1:]

    def __repr__(self) -> str:
        return (
            f"TokenDataset({len(self.tokens):,} tokens of {self.source.title}, windows of {self.max_length:,}, "
            f"{self.tokenizer.name} {self.tokenizer.vocab_size:,})"
        )

    @property
    def folder(self) -> Path | None:
        """The folder of the shards; None for ids in memory."""
        if self.sources:
            return self.source.path
        return self.tokens.path.parent if isinstance(self.tokens, Shard) else None

    def check(self, progress: ProgressFn | None = None) -> int:
        """Verify every byte of the shards, and return the number of blocks. Raises DataError at the first damage."""
        shards = [shard for shard in (self.tokens, self.held_out) if isinstance(shard, (Shard, ShardList))]
        for shard in shards:
            shard.check(progress)
        return sum(shard.n_blocks for shard in shards)

    def held_out_by_source(self) -> dict[str, TokenArray]:
        """Return the held-out ids of each source of a corpus that has any; empty for a text."""
        starts = accumulate([0, *(source.n_held_out for source in self.sources)])
        return {
            source.name: TokenSpan(self.held_out, start, source.n_held_out)
            for source, start in zip(self.sources, starts, strict=False)
            if source.n_held_out
        }

    @cached_property
    def limits(self) -> tuple[tuple[float, str], ...]:
        """(-log2 of the true probability, kind) of each held-out document of the built-in corpus; else empty."""
        if not self.source.limits or self.source.held_out:
            return ()
        # The held-out documents are the last of the text; a separator stands before each and after the last one.
        ids = self.held_out.read(0, len(self.held_out))
        n_documents = int((ids == self.tokenizer.separator).sum()) - 1
        return self.source.limits[len(self.source.limits) - n_documents :]

    def record(self) -> dict[str, Any]:
        """Return the facts about the data that run.json and checkpoints store, as plain values."""
        validation = self.source.held_out
        sources = [
            {"name": s.name, "weight": s.weight, "train_tokens": s.n_train, "held_out_tokens": s.n_held_out}
            for s in self.sources
        ]
        return {
            "source": self.source.name,
            "title": self.source.title,
            "sha256": self.source.sha256,
            "characters": self.source.n_chars,
            "documents": max_documents(self.source),
            "replaced": self.source.replaced,
            "held_out": self.config.held_out,
            "held_out_sha256": validation.sha256 if validation else None,
            "val_data": self.config.val_data,
            "text_field": self.config.text_field,
            "errors": self.config.errors,
            "separator": self.config.separator,
            "suffixes": self.config.suffixes,
            "train_tokens": len(self.tokens),
            "held_out_tokens": len(self.held_out),
            "max_length": self.max_length,
            "tokenizer": self.tokenizer.name,
            "tokenizer_sha256": tokenizer_hash(self.tokenizer),
            **({"order": self.config.order, "sources": sources} if sources else {}),
        }


def prepare_dataset(
    data: str | Path | Iterable[Any] | None = None,
    max_length: int = 512,
    tokenizer: str | Path | Tokenizer | Any = None,
    *,
    held_out: float = 0.1,
    val_data: str | Path | Iterable[Any] | None = None,
    text_field: str = "text",
    errors: str = "strict",
    separator: str | None = None,
    suffixes: str = "",
    order: int | None = None,
    weights: str | None = None,
    offline: bool = False,
    progress: StageProgressFn | None = None,
) -> tuple[TokenDataset, Tokenizer]:
    """Find a text, split it, encode it (the ids are cached), and open it for training. See also `load_dataset`.

    Args:
        data: the name of a source, or the path of a text, a folder of texts, JSON, CSV or Parquet, or of the folder of
            a corpus (`corpus.py`), or the URL of its corpus.json; `-` is standard input. A `Path` is always a path.
            Or the documents themselves: a list of texts, or records such as those of a `datasets.Dataset`.
            None: Shakespeare, or the built-in corpus if that is unavailable.
        max_length: T, tokens of a training window.
        tokenizer: gpt2, bpe, bpe:N, char, byte or the path of a tokenizer.json; or a tokenizer, such as the one of an
            earlier model, or a byte-level BPE of the tokenizers or transformers library. None: gpt2; or bpe, for the
            built-in corpus or if the vocabulary of gpt2 is unavailable.
        held_out: the last share of the characters, which is evaluated on and never trained on.
        val_data: another text to hold out instead.
        text_field: the field of JSON, CSV, Parquet or records that holds the text; none reads a file as plain text.
        errors: strict refuses bytes that are not UTF-8; replace counts and replaces them.
        separator: the line between the documents of a text, such as `<|endoftext|>`.
        suffixes: the endings of the files to read in a folder, such as ".py,.md".
        order: 1 shuffles single windows, 2 chunks of 64 windows. None: 1 for a text, 2 for a corpus.
        weights: the share of each source of a corpus, such as "wiki=0.7,code=0.3". None: those of the corpus.
        offline: download nothing.
        progress: called with (stage, bytes done, bytes in total); the stages are reading, learning and encoding.

    Returns:
        The dataset, which carries `.held_out`, `.tokenizer` and `.source`; and the tokenizer again.

    Raises:
        DataError: the text or the vocabulary is unavailable, or the text is too small for one window.
        ConfigError: an unknown tokenizer, or a length or share that cannot be used.
    """
    spec = find_tokenizer(tokenizer)
    # Checked before a list of documents is saved.
    config = DataConfig(
        tokenizer=spec if isinstance(spec, str) else DataConfig().tokenizer,
        max_length=max_length,
        held_out=held_out,
        text_field=text_field,
        errors=errors,
        separator=separator,
        suffixes=suffixes,
        order=order,
        weights=weights,
    )
    name, n_documents = (DEFAULT_SOURCE, None) if data is None else find_data(data, text_field)
    val_name = None if val_data is None else find_data(val_data, text_field, argument="val_data")[0]
    config = replace(config, data=name, val_data=val_name)
    chosen = {name for name, value in (("data", data), ("tokenizer", tokenizer)) if value is not None}
    given = None if isinstance(spec, str) else spec
    dataset = load_dataset(config, tokenizer=given, chosen=chosen, offline=offline, progress=progress)
    if n_documents is not None:
        dataset = replace(
            dataset, source=replace(dataset.source, title=f"{n_documents:,} document{'s' * (n_documents != 1)}")
        )
    return dataset, dataset.tokenizer


@cache_in_use()
def load_dataset(
    config: DataConfig,
    *,
    tokenizer: Tokenizer | None = None,
    chosen: Collection[str] = ("data", "tokenizer"),
    offline: bool = False,
    progress: StageProgressFn | None = None,
) -> TokenDataset:
    """Return the dataset of a config: find its text, split it, and encode it unless the token ids are cached.

    Args:
        tokenizer: used instead of the config's, such as the tokenizer of a trained model.
        chosen: which of `data` and `tokenizer` the user chose. A default that is not available is replaced: Shakespeare
            by the built-in corpus, gpt2 by bpe.
        offline, progress: as in `prepare_dataset`, and so are the errors.
    """

    def stage(name: str) -> ProgressFn | None:
        return partial(progress, name) if progress else None

    if corpus := find_corpus(config.data, offline=offline):
        return _load_corpus(config, corpus, tokenizer, chosen)
    if config.weights:
        raise ConfigError(f"weights={config.weights!r} are for the sources of a corpus, and {config.data} is none")
    source, notes = resolve_source(config, chosen="data" in chosen, offline=offline, progress=stage("reading"))
    if tokenizer is None:
        spec = config.tokenizer if "tokenizer" in chosen else None
        tokenizer, more = resolve_tokenizer(spec, source, config.held_out, offline=offline, progress=stage("learning"))
        notes += more
    # Store the names of what is really used, substitutes included: a resumed run must find the same text.
    config = replace(config, data=source.name, tokenizer=tokenizer.name)
    identity = {
        "source_sha256": source.sha256,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "held_out": split_key(source, config.held_out),
    }
    # The name of the folder is a hash of everything that its shards contain.
    key = hashlib.sha256(repr((SHARD_FORMAT, sorted(identity.items()))).encode()).hexdigest()[:24]
    folder = cache_dir() / "shards" / key
    if not folder.is_dir():
        splits = read_splits(source, config.held_out, stage("encoding"))
        encode_splits(folder, splits, tokenizer, metadata=identity, separators=max_documents(source) > 1)
    expected = {**identity, "vocab_size": tokenizer.vocab_size}
    train, held_out = (Shard(folder / f"{split}.bin", {**expected, "split": split}) for split in ("train", "held_out"))
    if len(train) < config.max_length + 1 or len(held_out) < 2:
        raise DataError(_too_small(source, config, len(train), len(held_out)))
    notes += split_note(source, config.held_out, len(train), len(held_out))
    return TokenDataset(train, held_out, config.max_length, tokenizer, source, config, tuple(notes))


def _load_corpus(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer | None, chosen: Collection[str]
) -> TokenDataset:
    """Return the dataset of a corpus, whose shards are encoded already. Raises DataError and ConfigError."""
    own, file = corpus.tokenizer, corpus.file
    if tokenizer and tokenizer_hash(tokenizer) != tokenizer_hash(own):
        raise DataError(f"{file} was encoded with another tokenizer ({own.name}) than that of the model")
    if (
        tokenizer is None
        and "tokenizer" in chosen
        and config.tokenizer not in (own.name, f"{own.name}:{own.vocab_size}")
    ):
        raise ConfigError(
            f"{{--tokenizer {config.tokenizer}}} cannot be used: {file} was encoded with {own.name}; leave it out"
        )
    if config.val_data:
        raise ConfigError(
            f"{{--val-data {config.val_data}}} cannot be used: {file} has its own held-out text; leave it out"
        )
    corpus.check_files()
    sources = corpus.sources
    if config.weights or len(sources) > 1:
        text = config.weights or format_weights(sources)
        weights = parse_weights(text, [source.name for source in sources])
        sources = tuple(replace(source, weight=w) for source, w in zip(sources, weights, strict=True))
        config = replace(config, weights=text)
    # As for a text: what is used is recorded, so that a resumed run uses it too.
    config = replace(config, data=corpus.name, tokenizer=own.name, order=config.order or corpus.default_order)
    source = corpus.as_source(config.data)
    _check_sources(sources, file, config.max_length)
    train, held_out = (corpus.open_split(split) for split in ("train", "held_out"))
    ignored = [f"{{--{name.replace('_', '-')}}}" for name in _OF_TEXTS if getattr(config, name) != getattr(_TEXT, name)]
    notes = [f"{' and '.join(ignored)} had no effect: the corpus is encoded already"] if ignored else []
    return TokenDataset(train, held_out, config.max_length, own, source, config, tuple(notes), sources)


def _check_sources(sources: Sequence[CorpusSource], file: str, T: int) -> None:
    """Raise DataError for a source that is trained on and has less than one window, or if nothing is held out."""
    for source, slots in zip(sources, slots_of([source.weight for source in sources]), strict=True):
        if slots and source.n_train < T + 1:
            raise DataError(
                f"the source {source.name} of {file} has {source.n_train:,} training tokens; one window of "
                f"{{--max-length {T}}} needs {T + 1:,}"
            )
        if source.weight and not slots:
            raise ConfigError(
                f"the weight of {source.name} is less than 1 in {2 * PERIOD:,} of all weights; leave the source out "
                f"with {source.name}=0, or give it more"
            )
    if sum(source.n_held_out for source in sources) < 2:
        raise DataError(f"{file} has no held-out tokens; encode some text as held out, to evaluate on")


def _too_small(source: Source, config: DataConfig, n_train: int, n_held_out: int) -> str:
    """Return the message for a split that is too small, with the setting that makes it so."""
    # The path of a copy in the cache says nothing.
    where = source.title if is_copy(source.path) else source.path
    counts = f"{where} gives {n_train:,} training tokens and {n_held_out:,} held-out ones"
    T, total = config.max_length, n_train + n_held_out
    if source.held_out and n_held_out < 2:
        held_out = source.held_out.title if is_copy(source.held_out.path) else source.held_out.path
        return f"the held-out text {held_out} ({{--val-data}}) has {n_held_out} token; name a longer one"
    if min(n_train, n_held_out) < 3 and total >= 100 and not source.held_out:
        return f"{counts}, because of {{--held-out {config.held_out:g}}}; use a share such as {{--held-out 0.1}}"
    if n_held_out < 2 or n_train < 3:
        return f"{counts}; that is too little to train on: use a text of at least a few thousand characters"
    return (
        f"{counts}; one window of {{--max-length {T}}} needs {T + 1:,} training tokens: "
        f"use {{--max-length {n_train - 1}}} or less, or a longer text"
    )
