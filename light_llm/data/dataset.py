"""Prepare a dataset: find the text, make the tokenizer, encode both splits to shards (cached), and open them."""

import hashlib
import operator
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import DEFAULT_SOURCE, DataConfig
from ..errors import DataError
from ..runtime import cache_dir, cache_in_use
from .encode import encode_splits
from .piped_text import is_copy
from .python_inputs import find_data, find_tokenizer
from .resolve import max_documents, read_splits, resolve_source, resolve_tokenizer, split_key, split_note
from .shards import SHARD_FORMAT, Shard, TokenArray
from .sources import Source
from .text_stream import ProgressFn
from .tokenizers import Tokenizer, tokenizer_hash

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
        return self.tokens.path.parent if isinstance(self.tokens, Shard) else None

    def check(self, progress: ProgressFn | None = None) -> int:
        """Verify every byte of the shards, and return the number of blocks. Raises DataError at the first damage."""
        shards = [shard for shard in (self.tokens, self.held_out) if isinstance(shard, Shard)]
        for shard in shards:
            shard.check(progress)
        return sum(len(shard.manifest["sha256"]) for shard in shards)

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
    offline: bool = False,
    progress: StageProgressFn | None = None,
) -> tuple[TokenDataset, Tokenizer]:
    """Find a text, split it, encode it (the ids are cached), and open it for training. See also `load_dataset`.

    Args:
        data: the name of a source, or the path of a text, a folder of texts, JSON, CSV or Parquet; `-` is standard
            input. A `Path` is always a path.
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
