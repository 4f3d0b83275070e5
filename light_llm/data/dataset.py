"""From the name of a text to token ids ready to train on: found, checked, split, encoded, kept for the next start."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..config import DEFAULT_SOURCE, DataConfig
from ..errors import DataError
from ..runtime import cache_dir
from .choose import choose_tokenizer, documents, find_text, split_fact, splits
from .encode import write_splits
from .pieces import Progress
from .shards import FORMAT, Shard, TokenArray
from .sources import Source
from .tokenizers import Tokenizer, tokenizer_hash

Stages = Callable[[str, int, int], None]  # reading, learning or encoding; bytes done, bytes in all


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
    def folder(self) -> Path | None:
        """Where the ids are kept; None for ids that are in memory."""
        return self.tokens.path.parent if isinstance(self.tokens, Shard) else None

    def check(self, progress: Progress | None = None) -> int:
        """Check every byte that is kept, and return how many blocks that are. Raises DataError at the first damage."""
        shards = [shard for shard in (self.tokens, self.held_out) if isinstance(shard, Shard)]
        for shard in shards:
            shard.check(progress)
        return sum(len(shard.manifest["sha256"]) for shard in shards)

    @cached_property
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
    max_length: int = 512,
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
        tokenizer=tokenizer if isinstance(tokenizer, str) else DataConfig().tokenizer,
        max_length=max_length,
        held_out=held_out,
        val_data=str(val_data) if val_data else None,
        text_field=text_field,
        errors=errors,
    )
    chosen = {name for name, value in (("data", data), ("tokenizer", tokenizer)) if value is not None}
    ready = None if isinstance(tokenizer, str) else tokenizer
    dataset = load_dataset(config, tokenizer=ready, chosen=chosen, offline=offline, progress=progress)
    return dataset, dataset.tokenizer


def load_dataset(
    config: DataConfig,
    *,
    tokenizer: Tokenizer | None = None,
    chosen: Collection[str] = ("data", "tokenizer"),
    offline: bool = False,
    progress: Stages | None = None,
) -> TokenDataset:
    """Return the dataset of a config: find its text, split it, and encode it unless the token ids are cached.

    Args:
        tokenizer: used instead of the config's, such as the tokenizer of a trained model.
        chosen: which of `data` and `tokenizer` the user chose. A default that is not available is replaced: Shakespeare
            by the built-in corpus, gpt2 by bpe.
        offline, progress: as in `prepare_dataset`.

    Raises:
        DataError: the text or the vocabulary is not available, or the text is too small for one window.
        ConfigError: an unknown tokenizer.
    """
    reading = _stage(progress, "reading")
    source, notes = find_text(config, by_name="data" in chosen, offline=offline, progress=reading)
    if tokenizer is None:
        spec = config.tokenizer if "tokenizer" in chosen else None
        learning = _stage(progress, "learning")
        tokenizer, more = choose_tokenizer(spec, source, config.held_out, offline=offline, progress=learning)
        notes += more
    max_length, held_out = config.max_length, config.held_out
    config = replace(config, data=source.name, tokenizer=tokenizer.name)
    folder = _shards(source, tokenizer, held_out, _stage(progress, "encoding"))
    facts = {**_facts(source, tokenizer, held_out), "vocab_size": tokenizer.vocab_size}
    train, rest = (Shard(folder / f"{split}.bin", {**facts, "split": split}) for split in ("train", "held_out"))
    if len(train) < max_length + 1 or len(rest) < 2:
        raise DataError(_too_small(source, len(train), len(rest), max_length))
    return TokenDataset(train, rest, max_length, tokenizer, source, config, tuple(notes))


def shards_folder(source: Source, tokenizer: Tokenizer, held_out: float) -> Path:
    """Where the shards of a text are or will be. The name is a hash of all that decides them."""
    facts = sorted(_facts(source, tokenizer, held_out).items())
    return cache_dir() / "shards" / hashlib.sha256(repr((FORMAT, facts)).encode()).hexdigest()[:24]


def _shards(source: Source, tokenizer: Tokenizer, held_out: float, progress: Progress | None) -> Path:
    folder = shards_folder(source, tokenizer, held_out)
    if not folder.is_dir():
        facts = _facts(source, tokenizer, held_out)
        parts = splits(source, held_out, progress)
        write_splits(folder, parts, tokenizer, facts=facts, separators=documents(source) > 1)
    return folder


def _facts(source: Source, tokenizer: Tokenizer, held_out: float) -> dict[str, Any]:
    hashes = {"source_sha256": source.sha256, "tokenizer_sha256": tokenizer_hash(tokenizer)}
    return {**hashes, "held_out": split_fact(source, held_out)}


def _stage(progress: Stages | None, what: str) -> Progress | None:
    return partial(progress, what) if progress else None


def _too_small(source: Source, n_train: int, n_held_out: int, T: int) -> str:
    found = f"{source.path} gives {n_train:,} training tokens and {n_held_out:,} held-out ones"
    if n_held_out < 2 or n_train < 3:
        return f"{found}; that is too little to train on: a few thousand characters are the least that makes sense"
    return (
        f"{found}; one window of max_length={T:,} needs {T + 1:,} training tokens: "
        f"use --max-length {n_train - 1} or smaller, or a longer text"
    )
