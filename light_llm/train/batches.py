"""Where the loop's batches come from: our loader, asked by number, or any other, gone through again and again."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data import Batch, DataLoader
from ..data.tokenizers import byte_lengths
from ..errors import ConfigError
from ..objective import IGNORED

SHOWN = 4  # windows of a batch that a message names


class Batches(Protocol):
    """The global batch of each step, on the CPU."""

    def batch(self, k: int) -> Batch:
        """The k-th batch of the run."""
        ...

    def target_bytes(self, batch: Batch) -> int | None:
        """UTF-8 bytes of the batch's targets; None when nobody knows."""
        ...

    def place(self, k: int) -> str:
        """Where in the text the k-th batch is from, in words."""
        ...


class Numbered:
    """Our loader: batch k is a function of k, so a run goes on from a counter."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.byte_lengths = np.array(byte_lengths(loader.dataset.tokenizer))

    def batch(self, k: int) -> Batch:
        """The k-th batch of the run."""
        return self.loader.batch(k)

    def target_bytes(self, batch: Batch) -> int | None:
        """UTF-8 bytes of the batch's targets."""
        return int(self.byte_lengths[batch.targets.numpy()].sum())

    def place(self, k: int) -> str:
        """The pass, and the first token of each window."""
        first, size, order = k * self.loader.batch_size, self.loader.batch_size, self.loader.order
        starts = ", ".join(f"{order.start(first + row):,}" for row in range(min(size, SHOWN)))
        more = ", ..." if size > SHOWN else ""
        return f"batch {k:,}, pass {first // order.per_epoch + 1}, windows from the tokens {starts}{more}"


class InTurn:
    """Any iterable of (tokens, targets), from its beginning and over again; k is not asked for."""

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], vocab_size: int) -> None:
        self.loader = loader
        self.vocab_size = vocab_size
        self.passing: Iterator[tuple[Tensor, Tensor]] = iter(loader)

    def batch(self, k: int) -> Batch:
        """The next batch, as int64.

        Raises:
            ConfigError: the loader gives none, something else than pairs of (B, T), or ids the model does not have.
        """
        pair = next(self.passing, None)
        if pair is None:
            self.passing = iter(self.loader)
            pair = next(self.passing, None)
        if pair is None:
            raise ConfigError("the loader gives no batches; it must yield pairs (tokens, targets), and more than once")
        fits = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)
        if not fits or pair[0].ndim != 2 or pair[0].shape != pair[1].shape or pair[0].is_floating_point():
            raise ConfigError(
                f"the loader gives a {type(pair).__name__} of something else; it must yield pairs (tokens, targets) of "
                "torch tensors, both (B, T) and whole numbers"
            )
        tokens, targets = pair[0].long(), pair[1].long()
        odd = targets[((targets < 0) & (targets != IGNORED)) | (targets >= self.vocab_size)]
        odd = torch.cat([odd, tokens[(tokens < 0) | (tokens >= self.vocab_size)]])
        if odd.numel():
            raise ConfigError(
                f"the loader gives id {int(odd[0])}; this model has 0 ... {self.vocab_size - 1}, and a target that "
                f"counts for nothing is {IGNORED}"
            )
        return Batch(tokens, targets)

    def target_bytes(self, batch: Batch) -> int | None:
        """Unknown."""
        return None

    def place(self, k: int) -> str:
        """Its number."""
        return f"batch {k:,} of the loader"


def batches_of(loader: Any, vocab_size: int) -> Batches:
    """The batches of a loader: of ours by number, of another in turn."""
    return Numbered(loader) if isinstance(loader, DataLoader) else InTurn(loader, vocab_size)
