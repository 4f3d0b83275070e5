"""The batches of a training run: from our loader by number, or from any other iterable in its own order."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..errors import ConfigError
from .loader import Batch, DataLoader

IGNORE_INDEX = -100  # a target that has no loss, as in `objective.py`


class IterableBatches:
    """Batches of any iterable of (tokens, targets), which is started again at its end.

    Args:
        vocab_size: of the model; an id beyond it is an error here and not an index error in a kernel.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], vocab_size: int) -> None:
        self.loader, self.vocab_size = loader, vocab_size
        self.dataset, self.data_config = None, None
        self.iterator: Iterator[tuple[Tensor, Tensor]] | None = None

    def batch(self, k: int) -> Batch:
        """Return the next batch, as int64; k is ignored.

        Raises:
            ConfigError: the iterable is empty, gives anything but pairs of (B, T), or ids that the model does not have.
        """
        if self.iterator is None:
            self.iterator = iter(self.loader)
        pair = next(self.iterator, None)
        if pair is None:
            self.iterator = iter(self.loader)
            pair = next(self.iterator, None)
        if pair is None:
            raise ConfigError("the loader gives no batches; it must yield pairs (tokens, targets), and more than once")
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)
        if not is_pair or pair[0].ndim != 2 or pair[0].shape != pair[1].shape or pair[0].is_floating_point():
            raise ConfigError(
                f"the loader gives a {type(pair).__name__} of something else; it must yield pairs (tokens, targets) of "
                "torch tensors, both (B, T) and whole numbers"
            )
        tokens, targets = pair[0].long(), pair[1].long()
        bad = targets[((targets < 0) & (targets != IGNORE_INDEX)) | (targets >= self.vocab_size)]
        bad = torch.cat([bad, tokens[(tokens < 0) | (tokens >= self.vocab_size)]])
        if bad.numel():
            raise ConfigError(
                f"the loader gives id {int(bad[0])}; this model has 0 ... {self.vocab_size - 1}, and a target that "
                f"counts for nothing is {IGNORE_INDEX}"
            )
        return Batch(tokens, targets)

    def target_bytes(self, batch: Batch) -> int | None:
        """Return None: the tokenizer is unknown."""
        return None

    def describe(self, k: int) -> str:
        """Return the number of the batch."""
        return f"batch {k:,} of the loader"


Batches = DataLoader | IterableBatches  # of a training run: the global batch of each step, on the CPU


def batches_from(loader: DataLoader | Iterable[tuple[Tensor, Tensor]], vocab_size: int) -> Batches:
    """Return our own loader unchanged, because its batch k is a function of k alone; wrap any other iterable."""
    return loader if isinstance(loader, DataLoader) else IterableBatches(loader, vocab_size)
