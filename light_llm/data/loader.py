"""Batches by index: batch k of a run is a pure function of the data, the seed and k."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import DataConfig, check_range
from .dataset import TokenDataset
from .shuffle import WindowOrder
from .tokenizers import byte_lengths

MAX_WINDOWS_NAMED = 4  # in a message about a batch


class Batch(NamedTuple):
    """The windows of one optimizer step; `targets` is `tokens` shifted by one. Both (B, T), int64."""

    tokens: Tensor
    targets: Tensor


class DataLoader:
    """Batches of `batch_size` windows, in an order that (dataset, seed) determines.

    `batch(k)` is the global batch of step k and does not depend on earlier calls: a run resumes from its step count
    alone, and several ranks can each take their part of the same batch.
    """

    def __init__(self, dataset: TokenDataset, batch_size: int, seed: int) -> None:
        check_range("batch_size", batch_size, low=1, integer=True)
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.order = WindowOrder(len(dataset.tokens), dataset.max_length, seed)

    def batch(self, k: int) -> Batch:
        """Return the batch of step k (0, 1, 2, ...)."""
        T = self.dataset.max_length
        starts = (self.order.start(k * self.batch_size + row) for row in range(self.batch_size))
        # One extra token per window: the last target.
        windows = torch.from_numpy(np.stack([self.dataset.tokens.read(s, s + T + 1) for s in starts]))  # (B, T + 1)
        return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())

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
        return int(self.byte_lengths[batch.targets.numpy()].sum())

    def describe(self, k: int) -> str:
        """Describe where batch k is from: the pass over the text, and the first token of each window."""
        first = k * self.batch_size
        rows = range(min(self.batch_size, MAX_WINDOWS_NAMED))
        starts = ", ".join(f"{self.order.start(first + row):,}" for row in rows)
        more = ", ..." if self.batch_size > MAX_WINDOWS_NAMED else ""
        return f"batch {k:,}, pass {first // self.order.per_epoch + 1}, windows from the tokens {starts}{more}"

    def __len__(self) -> int:
        """Complete batches in one pass over the text."""
        return max(1, self.order.per_epoch // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the first pass."""
        return (self.batch(k) for k in range(len(self)))


def create_dataloader(dataset: TokenDataset, batch_size: int = 8, *, seed: int = 1337) -> DataLoader:
    """Return a loader over the training split. Raises ConfigError for a batch_size below 1."""
    return DataLoader(dataset, batch_size, seed)
