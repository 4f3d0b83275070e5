"""From the name of a text to token ids ready to train on: found, checked, split, encoded, kept for the next start."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import DataConfig
from ..errors import DataError
from ..runtime import cache_dir
from .pieces import Piece, Progress, at_safe_cuts, split_at
from .shards import FORMAT, Shard, ShardFolder, TokenArray, write_shard
from .sources import Source, find_source
from .tokenizers import Tokenizer, make_tokenizer, tokenizer_hash


@dataclass(frozen=True)
class TokenDataset:
    """The training split of a text as token ids, with everything a trainer has to know about where it came from."""

    tokens: TokenArray  # the training split
    held_out: TokenArray  # the rest, never trained on
    max_length: int  # T, tokens of a window
    tokenizer: Tokenizer
    source: Source
    config: DataConfig = field(default_factory=DataConfig)

    def __len__(self) -> int:
        """Windows of max_length tokens in one pass."""
        return max(1, (len(self.tokens) - self.max_length) // self.max_length)

    def record(self) -> dict[str, Any]:
        """What a run and its checkpoints remember of the data, as plain values."""
        return {
            "source": self.source.name,
            "title": self.source.title,
            "sha256": self.source.sha256,
            "characters": self.source.n_chars,
            "documents": self.source.documents,
            "held_out": self.config.held_out,
            "train_tokens": len(self.tokens),
            "held_out_tokens": len(self.held_out),
            "max_length": self.max_length,
            "tokenizer": self.tokenizer.name,
            "tokenizer_sha256": tokenizer_hash(self.tokenizer),
        }


def prepare_dataset(
    data: str | Path = "shakespeare",
    max_length: int = 1024,
    tokenizer: str | Tokenizer = "gpt2",
    *,
    held_out: float = 0.1,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[TokenDataset, Tokenizer]:
    """Find a text, split it, encode it (once: the ids are kept in the cache), and open it for training.

    Args:
        data: the name of a source, or the path of a UTF-8 text file.
        max_length: T, tokens of a training window.
        tokenizer: gpt2, char or byte; or a tokenizer, such as the one of an earlier model.
        held_out: the last share of the characters, which is evaluated on and never trained on.
        offline: download nothing.
        progress: called with (bytes encoded, bytes in all).

    Returns:
        The training split, which carries `.held_out`, `.tokenizer` and `.source`; and the tokenizer again.

    Raises:
        DataError: the text or the vocabulary cannot be had, or the text is too small for one window.
        ConfigError: an unknown tokenizer, or a length or share that cannot be used.
    """
    data = str(data)
    name = tokenizer if isinstance(tokenizer, str) else tokenizer.name
    config = DataConfig(data=data, tokenizer=name, max_length=max_length, held_out=held_out)
    source = find_source(data, offline=offline)
    if isinstance(tokenizer, str):
        tokenizer = make_tokenizer(tokenizer, source.alphabet, offline=offline)
    folder = _shards(source, tokenizer, held_out, progress)
    train, rest = Shard(folder / "train.bin"), Shard(folder / "held_out.bin")
    if len(train) < max_length + 1 or len(rest) < 2:
        raise DataError(_too_small(source, len(train), len(rest), max_length))
    return TokenDataset(train, rest, max_length, tokenizer, source, config), tokenizer


def _shards(source: Source, tokenizer: Tokenizer, held_out: float, progress: Progress | None) -> Path:
    """The folder of this text's shards, written now if it is not there. Its name is a hash of all that decides it."""
    facts = {"source_sha256": source.sha256, "tokenizer_sha256": tokenizer_hash(tokenizer), "held_out": held_out}
    key = hashlib.sha256(repr((FORMAT, sorted(facts.items()))).encode()).hexdigest()[:24]
    folder = cache_dir() / "shards" / key
    if folder.is_dir():
        return folder
    n_train = int(source.n_chars * (1 - held_out))
    head, tail = split_at(source.read(progress), n_train, source.documents)
    with ShardFolder(folder) as partial:
        for split, text in (("train", head), ("held_out", tail)):
            pieces: Iterator[Piece] = text() if callable(text) else text
            ids = (tokenizer.encode(piece) for piece in at_safe_cuts(pieces) if piece is not None)
            write_shard(partial / f"{split}.bin", ids, vocab_size=tokenizer.vocab_size, facts={**facts, "split": split})
    return folder


def _too_small(source: Source, n_train: int, n_held_out: int, T: int) -> str:
    found = f"{source.path} gives {n_train:,} training tokens and {n_held_out:,} held-out ones"
    if n_held_out < 2 or n_train < 3:
        return f"{found}; that is too little to train on: a few thousand characters are the least that makes sense"
    return (
        f"{found}; one window of max_length={T:,} needs {T + 1:,} training tokens: "
        f"use --max-length {n_train - 1} or smaller, or a longer text"
    )
