"""From the name of a text to token ids ready to train on: found, checked, split, encoded, kept for the next start."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config import DEFAULT_SOURCE, DataConfig
from ..errors import ConfigError, DataError
from ..runtime import cache_dir
from .encode import write_splits
from .pieces import Piece, Progress, split_at
from .shards import FORMAT, Shard, TokenArray
from .sources import Source, find_source
from .tokenizers import Tokenizer, make_tokenizer, tokenizer_from_dict, tokenizer_hash

Stages = Callable[[str, int, int], None]  # reading, learning or encoding; bytes done, bytes in all
BUILT_IN = "tales"  # the corpus that needs no file and no network
LEARN_FROM = 100_000_000  # bytes that a vocabulary is learnt from at most, spread evenly over the text


@dataclass(frozen=True)
class TokenDataset:
    """The training split of a text as token ids, with everything a trainer has to know about where it came from."""

    tokens: TokenArray  # the training split
    held_out: TokenArray  # the rest, never trained on
    max_length: int  # T, tokens of a window
    tokenizer: Tokenizer
    source: Source
    config: DataConfig = field(default_factory=DataConfig)
    notes: tuple[str, ...] = ()  # what was decided in the user's stead, in plain lines

    def __len__(self) -> int:
        """Windows of max_length tokens in one pass."""
        return max(1, (len(self.tokens) - self.max_length) // self.max_length)

    @property
    def limits(self) -> tuple[tuple[float, str], ...]:
        """Of each held-out document -log2 of its true probability, and its kind; empty where nobody knows it."""
        if not self.source.limits or self.source.held_out:
            return ()
        ids = self.held_out.read(0, len(self.held_out))
        n = int((ids == self.tokenizer.separator).sum()) - 1
        return self.source.limits[len(self.source.limits) - n :]

    def record(self) -> dict[str, Any]:
        """What a run and its checkpoints remember of the data, as plain values."""
        validation = self.source.held_out
        return {
            "source": self.source.name,
            "title": self.source.title,
            "sha256": self.source.sha256,
            "characters": self.source.n_chars,
            "documents": documents(self.source),
            "replaced": self.source.replaced,
            "held_out": self.config.held_out,
            "held_out_sha256": validation.sha256 if validation else None,
            "val_data": self.config.val_data,
            "text_field": self.config.text_field,
            "errors": self.config.errors,
            "train_tokens": len(self.tokens),
            "held_out_tokens": len(self.held_out),
            "max_length": self.max_length,
            "tokenizer": self.tokenizer.name,
            "tokenizer_sha256": tokenizer_hash(self.tokenizer),
        }


def prepare_dataset(
    data: str | Path | None = None,
    max_length: int = 1024,
    tokenizer: str | Tokenizer | None = None,
    *,
    held_out: float = 0.1,
    val_data: str | Path | None = None,
    text_field: str = "text",
    errors: str = "strict",
    offline: bool = False,
    progress: Stages | None = None,
) -> tuple[TokenDataset, Tokenizer]:
    """Find a text, split it, encode it (once: the ids are kept in the cache), and open it for training.

    Args:
        data: the name of a source, or the path of a text, a folder of texts, JSONL or Parquet; `-` is standard input.
            None: Shakespeare, or where that cannot be had the built-in corpus.
        max_length: T, tokens of a training window.
        tokenizer: gpt2, bpe, bpe:N, char, byte or the path of a tokenizer.json; or a tokenizer, such as the one of an
            earlier model. None: gpt2, or where its vocabulary cannot be had, and for the built-in corpus, bpe.
        held_out: the last share of the characters, which is evaluated on and never trained on.
        val_data: another text to hold out instead.
        text_field: the field of JSONL or Parquet that holds the text.
        errors: strict refuses bytes that are no UTF-8; replace counts and replaces them.
        offline: download nothing.
        progress: called with (what is being done, bytes done, bytes in all).

    Returns:
        The training split, which carries `.held_out`, `.tokenizer` and `.source`; and the tokenizer again.

    Raises:
        DataError: the text or the vocabulary cannot be had, or the text is too small for one window.
        ConfigError: an unknown tokenizer, or a length or share that cannot be used.
    """
    config = DataConfig(
        data=str(data or DEFAULT_SOURCE),
        max_length=max_length,
        held_out=held_out,
        val_data=str(val_data) if val_data else None,
        text_field=text_field,
        errors=errors,
    )
    source, notes = _find(config, by_name=data is not None, offline=offline, progress=_stage(progress, "reading"))
    if tokenizer is None or isinstance(tokenizer, str):
        learning = _stage(progress, "learning")
        tokenizer, more = _choose_tokenizer(tokenizer, source, held_out, offline=offline, progress=learning)
        notes += more
    config = replace(config, data=source.name, tokenizer=tokenizer.name)
    folder = _shards(source, tokenizer, held_out, _stage(progress, "encoding"))
    train, rest = Shard(folder / "train.bin"), Shard(folder / "held_out.bin")
    if len(train) < max_length + 1 or len(rest) < 2:
        raise DataError(_too_small(source, len(train), len(rest), max_length))
    return TokenDataset(train, rest, max_length, tokenizer, source, config, tuple(notes)), tokenizer


def documents(source: Source) -> int:
    """Documents of the larger split: with more than one, separators stand between them."""
    return max(source.documents, source.held_out.documents if source.held_out else 1)


def shards_folder(source: Source, tokenizer: Tokenizer, held_out: float) -> Path:
    """Where the shards of a text are or will be. The name is a hash of all that decides them."""
    key = hashlib.sha256(repr((FORMAT, sorted(_facts(source, tokenizer, held_out).items()))).encode()).hexdigest()
    return cache_dir() / "shards" / key[:24]


def _stage(progress: Stages | None, what: str) -> Progress | None:
    return partial(progress, what) if progress else None


def _find(config: DataConfig, *, by_name: bool, offline: bool, progress: Progress | None) -> tuple[Source, list[str]]:
    def find(data: str) -> Source:
        return find_source(
            data,
            text_field=config.text_field,
            errors=config.errors,
            val_data=config.val_data,
            offline=offline,
            progress=progress,
        )

    try:
        return find(config.data), []
    except DataError:
        if by_name or config.val_data:
            raise
        note = f"{config.data} is not on this machine and cannot be downloaded: this is {BUILT_IN}, the built-in corpus"
        return find(BUILT_IN), [note]


def _choose_tokenizer(
    spec: str | None, source: Source, held_out: float, *, offline: bool, progress: Progress | None
) -> tuple[Tokenizer, list[str]]:
    """What was asked for; or GPT-2's; or, where its vocabulary is not needed or cannot be had, one learnt here."""
    if spec is None and source.name.partition(":")[0] != BUILT_IN:
        try:
            return make_tokenizer("gpt2", offline=offline), []
        except DataError:
            note = "GPT-2's vocabulary is not on this machine and cannot be downloaded: bpe, learnt from this text"
            return _kept_tokenizer("bpe", source, held_out, offline=offline, progress=progress), [note]
    return _kept_tokenizer(spec or "bpe", source, held_out, offline=offline, progress=progress), []


def _kept_tokenizer(
    spec: str, source: Source, held_out: float, *, offline: bool, progress: Progress | None
) -> Tokenizer:
    """Make a tokenizer; one that was learnt from this text before comes from the cache."""

    def texts() -> Iterator[str]:
        _, pieces = next(_splits(source, held_out, progress))
        every = -(-source.n_bytes // LEARN_FROM)
        return (piece for i, piece in enumerate(p for p in pieces if p is not None) if i % every == 0)

    if spec.partition(":")[0] != "bpe":
        return make_tokenizer(spec, source.alphabet, texts, offline=offline)
    key = hashlib.sha256(repr((FORMAT, spec, source.sha256, _split_fact(source, held_out))).encode()).hexdigest()[:24]
    path = cache_dir() / "tokenizers" / f"{key}.json"
    try:
        return tokenizer_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError):
        tokenizer = make_tokenizer(spec, source.alphabet, texts, offline=offline)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(tokenizer.to_dict()), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        pass  # a cache that cannot be written costs the time to learn it again
    return tokenizer


def _shards(source: Source, tokenizer: Tokenizer, held_out: float, progress: Progress | None) -> Path:
    folder = shards_folder(source, tokenizer, held_out)
    if not folder.is_dir():
        splits = _splits(source, held_out, progress)
        facts = _facts(source, tokenizer, held_out)
        write_splits(folder, splits, tokenizer, facts=facts, separators=documents(source) > 1)
    return folder


def _splits(source: Source, held_out: float, progress: Progress | None) -> Iterator[tuple[str, Iterator[Piece]]]:
    """The training text and then the held-out one; each is read to its end before the next is asked for."""
    if source.held_out:
        yield "train", source.read(progress)
        yield "held_out", source.held_out.read()
        return
    head, tail = split_at(source.read(progress), int(source.n_chars * (1 - held_out)), source.documents)
    yield "train", head
    yield "held_out", tail()


def _facts(source: Source, tokenizer: Tokenizer, held_out: float) -> dict[str, Any]:
    hashes = {"source_sha256": source.sha256, "tokenizer_sha256": tokenizer_hash(tokenizer)}
    return {**hashes, "held_out": _split_fact(source, held_out)}


def _split_fact(source: Source, held_out: float) -> float | str:
    return source.held_out.sha256 if source.held_out else held_out


def _too_small(source: Source, n_train: int, n_held_out: int, T: int) -> str:
    found = f"{source.path} gives {n_train:,} training tokens and {n_held_out:,} held-out ones"
    if n_held_out < 2 or n_train < 3:
        return f"{found}; that is too little to train on: a few thousand characters are the least that makes sense"
    return (
        f"{found}; one window of max_length={T:,} needs {T + 1:,} training tokens: "
        f"use --max-length {n_train - 1} or smaller, or a longer text"
    )
