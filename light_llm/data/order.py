"""The order in which a run reads windows: pure functions of (seed, counter), O(1), with no state but the counter.

Windows hold T + 1 tokens and start T apart, from an offset that differs in each epoch; an epoch visits each window
once, in a pseudo-random permutation. The counter of sequences continues across epochs. The order depends on no
library's random generator, so that no new version of one can change the order of an old run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 64  # neighbouring windows that order 2 keeps together
GROUP = 256 * CHUNK  # windows of order 2 that are permuted among each other
LONG_CHUNK = 1 << 23  # tokens of a chunk of order 3: 16 MiB of ids of two bytes
PERIOD = 4096  # sequences in which each source of a mixture has its exact share
_MASK = (1 << 64) - 1


class Place(NamedTuple):
    """The origin of a sequence of a run."""

    source: int  # of the mixture; 0 for a single text
    epoch: int  # of that source: 0 in the first pass
    start: int  # the first of its T + 1 tokens, counted from the beginning of the source


@dataclass(frozen=True)
class WindowOrder:
    """Order 1: the start of each sequence of a run, for n tokens and windows of T (+ 1 for the last target).

    Every epoch has the same number of windows, so that dividing a counter gives its epoch.
    """

    n_tokens: int
    T: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Windows per epoch: as many as fit at every offset."""
        return max(1, (self.n_tokens - self.T) // self.T)

    def start(self, counter: int) -> int:
        """Return the index of the first of the T + 1 tokens of sequence `counter` (0, 1, 2, ...)."""
        epoch, index = divmod(counter, self.per_epoch)
        # A different offset in each epoch, so that a token is not always at the same place of a window.
        offsets = min(self.T, self.n_tokens - self.per_epoch * self.T)
        offset = mix(self.seed, epoch, 0) % offsets
        return offset + self.T * self.window(epoch, index)

    def window(self, epoch: int, index: int) -> int:
        """Return which window of the text is number `index` of an epoch."""
        return permuted_index(index, self.per_epoch, mix(self.seed, epoch, 1))

    def place(self, counter: int) -> Place:
        """Return where sequence `counter` is from."""
        return Place(0, counter // self.per_epoch, self.start(counter))


class ChunkedOrder(WindowOrder):
    """Order 2: like order 1, but GROUP successive windows are those of GROUP / CHUNK chunks of CHUNK neighbours.

    A single window is a few kB of a file, and a permutation of single windows reads a text that is larger than the
    memory from the disk in such pieces, each somewhere else. Here the chunks are permuted, and then the windows of each
    group of 256 chunks among each other: while a group is read, only its chunks are needed.
    """

    @property
    def chunk(self) -> int:
        """Neighbouring windows that stay together."""
        return CHUNK

    @property
    def group(self) -> int:
        """Windows that are permuted among each other."""
        return GROUP

    def window(self, epoch: int, index: int) -> int:
        """Return which window of the text is number `index` of an epoch."""
        n, in_chunk, in_group = self.per_epoch, self.chunk, self.group
        group, index = divmod(index, in_group)
        size = min(in_group, n - group * in_group)
        index = group * in_group + permuted_index(index, size, mix(self.seed, epoch, 3, group))
        # The windows after the last whole chunk are a short chunk, which is always the last of the epoch.
        chunk, within = divmod(index, in_chunk)
        if chunk < n // in_chunk:
            chunk = permuted_index(chunk, n // in_chunk, mix(self.seed, epoch, 1))
        # Turning the text moves the edges of the chunks, so that the short chunk is another one in each epoch.
        return (chunk * in_chunk + within + mix(self.seed, epoch, 2)) % n


class LongChunkedOrder(ChunkedOrder):
    """Order 3: like order 2, with chunks of LONG_CHUNK tokens in groups of 16, for a corpus that is downloaded.

    A remote file is downloaded in pieces of megabytes. With chunks of kilobytes, each piece would be downloaded again
    for every chunk in it, unless the whole corpus fits into the cache.
    """

    @property
    def chunk(self) -> int:
        """Neighbouring windows that stay together."""
        return max(CHUNK, LONG_CHUNK // self.T)

    @property
    def group(self) -> int:
        """Windows that are permuted among each other."""
        return 16 * self.chunk


ORDERS: dict[int, type[WindowOrder]] = {1: WindowOrder, 2: ChunkedOrder, 3: LongChunkedOrder}


@dataclass(frozen=True)
class MixtureOrder:
    """The order of several sources: each PERIOD sequences hold exactly `slots[s]` of source s, in a permuted order.

    Each source is read in its own order and has its own epochs.

    Args:
        sources: the order of each.
        starts: the first token of each source in the ids of all.
        slots: sequences of each source in a period; their sum is PERIOD.
    """

    sources: tuple[WindowOrder, ...]
    starts: tuple[int, ...]
    slots: tuple[int, ...]
    seed: int

    @cached_property
    def source_of(self) -> NDArray[np.int64]:
        """The source of each slot of the period, (PERIOD,)."""
        by_source = np.repeat(np.arange(len(self.slots)), self.slots)
        key = mix(self.seed, PERIOD)
        return by_source[[permuted_index(i, PERIOD, key) for i in range(PERIOD)]]

    @cached_property
    def count_before(self) -> NDArray[np.int64]:
        """The sequences of each source before each slot of the period, (PERIOD, number of sources)."""
        is_source = self.source_of[:, None] == np.arange(len(self.slots))
        return np.cumsum(is_source, axis=0) - is_source

    @property
    def per_epoch(self) -> int:
        """Windows of all sources that are used."""
        return sum(order.per_epoch for order, slots in zip(self.sources, self.slots, strict=True) if slots)

    def count(self, source: int, counter: int) -> int:
        """Return how many of the first `counter` sequences are from a source."""
        periods, slot = divmod(counter, PERIOD)
        return periods * self.slots[source] + int(self.count_before[slot, source])

    def place(self, counter: int) -> Place:
        """Return where sequence `counter` is from."""
        source = int(self.source_of[counter % PERIOD])
        return self.sources[source].place(self.count(source, counter))._replace(source=source)

    def start(self, counter: int) -> int:
        """Return the index of the first of the T + 1 tokens of sequence `counter` in the ids of all sources."""
        place = self.place(counter)
        return self.starts[place.source] + place.start

    def passes(self, counter: int) -> list[float]:
        """Return how often each source has been read after `counter` sequences."""
        return [self.count(s, counter) / order.per_epoch for s, order in enumerate(self.sources)]


def slots_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the sequences of each source in a period, which sum to PERIOD: the weights to 1 in 4,096.

    The largest remainders are rounded up (Hamilton's method).

    >>> slots_of([0.7, 0.3])
    (2867, 1229)
    >>> slots_of([2, 1, 0])
    (2731, 1365, 0)
    """
    exact = [weight / sum(weights) * PERIOD for weight in weights]
    slots = [int(share) for share in exact]
    by_remainder = sorted(range(len(slots)), key=lambda s: slots[s] - exact[s])
    for s in by_remainder[: PERIOD - sum(slots)]:
        slots[s] += 1
    return tuple(slots)


def permuted_index(i: int, n: int, key: int) -> int:
    """Return the i-th element of the pseudo-random permutation of 0 ... n - 1 that `key` selects.

    A four-round Feistel network (Luby and Rackoff, 1988) permutes the next power of four; a value outside the range is
    permuted again until it is inside ("cycle walking"), which keeps it a permutation.

    >>> sorted(permuted_index(i, 10, key=7) for i in range(10))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    # Both halves have the same number of bits, so the network permutes a power of four.
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for feistel_round in range(4):
            left, right = right, left ^ (mix(key, right, feistel_round) & mask)
        i = left << half | right
        if i < n:
            return i


def mix(*words: int) -> int:
    """Hash integers to 64 bits: the finaliser of splitmix64 (Steele et al., 2014), applied to each in turn.

    >>> mix(1, 2) != mix(2, 1)
    True
    """
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state
