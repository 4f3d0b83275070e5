"""Batches of a run, by index: batch k of our loader is a pure function of the data, the seed and k (`order.py`).

Any other iterable gives its batches in its own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import DEFAULT_SEED, MAX_SEED, DataConfig, repr_short, whole_number
from ..errors import ConfigError
from .order import ORDERS, MixtureOrder, WindowOrder, mix, slots_of
from .remote_files import is_url
from .remote_shards import ReadAhead
from .shard_list import ShardList
from .tokenizers import Tokenizer, byte_lengths

if TYPE_CHECKING:
    from .dataset import TokenDataset

IGNORE_INDEX = -100  # a target that has no loss, as in `objective.py`
MAX_WINDOWS_NAMED = 4  # in a message about a batch
MAX_PARTS_NAMED = 6  # in a message about what a loader gave


class Batch(NamedTuple):
    """The windows of one optimizer step; `targets` is `tokens` shifted by one. Both (B, T), int64."""

    tokens: Tensor
    targets: Tensor


class CountedBatch(Batch):
    """A batch of tokens whose ids do not say how many bytes they stand for, with those of its targets."""

    n_bytes: int = 0


class DataLoader:
    """Batches of `batch_size` windows, in an order that (dataset, seed) determines.

    `batch(k)` is the global batch number k of the run and does not depend on earlier calls: a run resumes from its
    count of batches alone, and several ranks can each take their part of the same batch.
    """

    def __init__(self, dataset: TokenDataset, batch_size: int, seed: int) -> None:
        self.batch_size = whole_number("batch_size", batch_size, low=1)
        self.seed = whole_number("seed", seed, low=0, high=MAX_SEED)
        self.dataset = dataset
        self.order = order_of(dataset, self.seed)
        self.read_ahead = ReadAhead(self._pieces) if is_url(dataset.config.data) else None

    def batch(self, k: int, rows: slice | None = None) -> Batch:
        """Return batch k (0, 1, 2, ...) of the run. After a rollback k is larger than the step.

        Args:
            rows: of the global batch, such as those of one rank; only their windows are read. None: all of them.
        """
        T = self.dataset.max_length
        chosen = range(self.batch_size)[rows or slice(None)]
        starts = [self.order.start(k * self.batch_size + row) for row in chosen]
        # One extra token per window: the last target.
        windows = torch.from_numpy(np.stack([self.dataset.tokens.read(s, s + T + 1) for s in starts]))  # (B, T + 1)
        if self.read_ahead:
            self.read_ahead.advance(k + 1, lambda batch: [batch * self.batch_size + row for row in chosen])
        pair = (windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        counts = self.dataset.tokens.byte_counts
        if counts is None:
            return Batch(*pair)
        batch = CountedBatch(*pair)
        batch.n_bytes = sum(int(counts.read(s + 1, s + T + 1).sum()) for s in starts)
        return batch

    def _pieces(self, counter: int) -> Iterable[tuple[object, int, int]]:
        """Return the shards of a sequence, each with the first and last of its own tokens."""
        start, tokens = self.order.start(counter), self.dataset.tokens
        return tokens.pieces(start, start + self.dataset.max_length + 1) if isinstance(tokens, ShardList) else ()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the dataset."""
        return self.dataset.tokenizer

    @property
    def data_config(self) -> DataConfig:
        """The settings of the dataset, with the seed of this loader."""
        return replace(self.dataset.config, seed=self.seed)

    @cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each token id, (V,)."""
        return np.array(byte_lengths(self.dataset.tokenizer))

    def target_bytes(self, batch: Batch) -> int:
        """Return the UTF-8 bytes of the batch's targets."""
        if isinstance(batch, CountedBatch):
            return batch.n_bytes
        return int(self.byte_lengths[batch.targets.numpy()].sum())

    def describe(self, k: int) -> str:
        """Describe where batch k is from: the pass over the text or the source, and the first token of each window."""
        first = k * self.batch_size
        places = [self.order.place(first + row) for row in range(min(self.batch_size, MAX_WINDOWS_NAMED))]
        more = ", ..." if self.batch_size > MAX_WINDOWS_NAMED else ""
        if sources := self.dataset.sources:
            windows = ", ".join(f"{sources[p.source].name} (pass {p.epoch + 1}) {p.start:,}" for p in places)
            return f"batch {k:,}, windows from the tokens {windows}{more}"
        starts = ", ".join(f"{place.start:,}" for place in places)
        return f"batch {k:,}, pass {places[0].epoch + 1}, windows from the tokens {starts}{more}"

    def passes(self, batches: int) -> dict[str, float]:
        """Return how often `batches` batches read each source of a corpus; empty for a text."""
        if not isinstance(self.order, MixtureOrder):
            return {}
        passes = self.order.passes(batches * self.batch_size)
        return {source.name: n for source, n in zip(self.dataset.sources, passes, strict=True)}

    def __len__(self) -> int:
        """Complete batches in one pass over the text."""
        return max(1, self.order.per_epoch // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the first pass."""
        return (self.batch(k) for k in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"DataLoader({len(self):,} batches of {self.batch_size:,} windows in a pass, seed {self.seed}, of "
            f"{self.dataset!r})"
        )


def create_dataloader(dataset: TokenDataset, batch_size: int = 8, *, seed: int = DEFAULT_SEED) -> DataLoader:
    """Return a loader over the training split.

    Raises:
        ConfigError: a batch_size below 1, or a dataset that `prepare_dataset` did not make.
    """
    # Here, because the corpus `tales`, which a dataset may be made of, uses this module's `mix`.
    from .dataset import TokenDataset

    if not isinstance(dataset, TokenDataset):
        raise ConfigError(
            f"create_dataloader takes the dataset that prepare_dataset returns, not {repr_short(dataset)}; "
            "a loader of your own, such as torch's DataLoader, can be given to Trainer directly"
        )
    return DataLoader(dataset, batch_size, seed)


class IterableBatches:
    """Batches of any iterable of (tokens, targets), which is started again at its end.

    Args:
        vocab_size: of the model; an id beyond it is an error here and not an index error in a kernel.
        tokenizer: of the ids, if it is known.
    """

    def __init__(
        self, loader: Iterable[tuple[Tensor, Tensor]], vocab_size: int, tokenizer: Tokenizer | None = None
    ) -> None:
        self.loader, self.vocab_size, self.tokenizer = loader, vocab_size, tokenizer
        self.byte_lengths = np.array(byte_lengths(tokenizer)) if tokenizer else None
        self.dataset, self.data_config = None, None
        self.iterator: Iterator[tuple[Tensor, Tensor]] | None = None

    def batch(self, k: int, rows: slice | None = None) -> Batch | None:
        """Return the next batch, as int64; None at the end of an iterable that cannot be started again. Ignores k.

        Args:
            rows: of the batch, such as those of one rank. The iterable always makes the whole batch.

        Raises:
            ConfigError: the iterable gives nothing at all, anything but pairs of (B, T), or ids that the model does not
                have.
        """
        is_first = self.iterator is None
        if self.iterator is None:
            self.iterator = iter(self.loader)
        pair = next(self.iterator, None)
        if pair is None:
            self.iterator = iter(self.loader)
            pair = next(self.iterator, None)
        if pair is not None:
            batch = as_batch(pair, self.vocab_size)
            return batch if rows is None else Batch(batch.tokens[rows], batch.targets[rows])
        if is_first:
            raise ConfigError("the loader gives no batches; it must yield pairs (tokens, targets)")
        return None

    def target_bytes(self, batch: Batch) -> int | None:
        """Return the UTF-8 bytes of the batch's targets; None if the tokenizer is unknown."""
        if self.byte_lengths is None:
            return None
        return int(self.byte_lengths[batch.targets[batch.targets != IGNORE_INDEX].numpy()].sum())

    def describe(self, k: int) -> str:
        """Return the number of the batch."""
        return f"batch {k:,} of the loader"


def as_batch(pair: Any, vocab_size: int) -> Batch:
    """Return a pair of tensors as a batch, on the CPU. Raises ConfigError, which says what was given instead."""
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(_is_token_tensor, pair))
    if not is_pair or pair[0].shape != pair[1].shape:
        raise ConfigError(
            f"the loader gives {describe_value(pair)}; it must yield pairs (tokens, targets) of torch tensors, both "
            "(B, T) and whole numbers"
        )
    tokens, targets = pair[0].cpu().long(), pair[1].cpu().long()
    bad = targets[((targets < 0) & (targets != IGNORE_INDEX)) | (targets >= vocab_size)]
    bad = torch.cat([bad, tokens[(tokens < 0) | (tokens >= vocab_size)]])
    if bad.numel():
        raise ConfigError(
            f"the loader gives id {int(bad[0])}; this model has 0 ... {vocab_size - 1}, and a target that "
            f"is ignored is {IGNORE_INDEX}"
        )
    return Batch(tokens, targets)


def _is_token_tensor(value: Any) -> bool:
    """Return whether a value is a (B, T) tensor of whole numbers; floats would be cut."""
    is_matrix = isinstance(value, Tensor) and value.ndim == 2 and value.numel() > 0
    return is_matrix and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def describe_value(value: Any) -> str:
    """Describe what a loader gave for a message: its type, and shapes, formats or keys.

    >>> describe_value((torch.zeros(2, 3), torch.zeros(2, 3).long()))
    'a tuple of a tensor (2, 3) of float32 and a tensor (2, 3) of int64'
    >>> describe_value({"input_ids": [1], "labels": [2]})
    'a dict with the keys input_ids, labels'
    """
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, Tensor) else "a NumPy array"
        return f"{kind} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(str, list(value)[:MAX_PARTS_NAMED]))}"
    name = type(value).__name__
    if not isinstance(value, (tuple, list)):
        return f"a value of type {name}"
    if not 0 < len(value) <= MAX_PARTS_NAMED or not all(isinstance(part, (Tensor, np.ndarray, list)) for part in value):
        return f"a {name} of {len(value)} values"
    return f"a {name} of {' and '.join(map(describe_value, value))}"


Batches = DataLoader | IterableBatches  # of a training run: the global batch of each step, on the CPU


def batches_from(
    loader: DataLoader | Iterable[tuple[Tensor, Tensor]], vocab_size: int, tokenizer: Tokenizer | None = None
) -> Batches:
    """Return our own loader unchanged, because its batch k is a function of k alone; wrap any other iterable."""
    return loader if isinstance(loader, DataLoader) else IterableBatches(loader, vocab_size, tokenizer)


def order_of(dataset: TokenDataset, seed: int) -> WindowOrder | MixtureOrder:
    """Return the order in which a run with this seed reads the windows of a dataset."""
    T, order = dataset.max_length, ORDERS[dataset.config.order or 1]
    if not dataset.sources:
        return order(len(dataset.tokens), T, seed)
    # Sources of the same length must not be read in the same order. The first has the order of a text of its own.
    seeds = [seed if s == 0 else mix(seed, s) for s in range(len(dataset.sources))]
    sizes = [source.n_train for source in dataset.sources]
    return MixtureOrder(
        sources=tuple(order(n, T, key) for n, key in zip(sizes, seeds, strict=True)),
        starts=tuple(accumulate([0, *sizes[:-1]])),
        slots=slots_of([source.weight for source in dataset.sources]),
        seed=seed,
    )
