"""The token ids of many shards as one array: opened when they are read, and only some of them at a time."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .remote_shards import RemoteShard
from .shards import Shard, TokenArray
from .text_stream import ProgressFn

AnyShard = Shard | RemoteShard
MAX_OPEN = 100  # shards; each holds up to four handles of the 1,024 that a process usually may have


@dataclass(frozen=True)
class ShardEntry:
    """A shard as `corpus.json` describes it."""

    file: str  # the `.bin`, relative to the folder of the corpus, with /
    tokens: int
    sha256: str  # of its manifest


class ShardList:
    """An array of token ids, (n,), that consists of shards, one after the other.

    Args:
        entries: the shards.
        open_shard: opens one; raises DataError for a shard that is missing or damaged.
        has_byte_counts: the shards store the bytes of each token, because its id does not tell them.
    """

    def __init__(
        self, entries: Sequence[ShardEntry], open_shard: Callable[[ShardEntry], AnyShard], has_byte_counts: bool = False
    ) -> None:
        self.entries, self.open_shard, self.has_byte_counts = tuple(entries), open_shard, has_byte_counts
        self.ends = list(accumulate(entry.tokens for entry in self.entries))
        self.opened: OrderedDict[int, AnyShard] = OrderedDict()  # the shard read last is the last
        # The blocks that are still to be verified of each shard that was closed again, and of its byte counts.
        self.unchecked: dict[int, list[set[int]]] = {}

    def __reduce__(self) -> tuple[type["ShardList"], tuple[Any, ...]]:
        # A copy in another process opens the shards again.
        return ShardList, (self.entries, self.open_shard, self.has_byte_counts)

    def __repr__(self) -> str:
        return f"ShardList({len(self):,} tokens in {len(self.entries)} shards)"

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids start ... stop - 1, each block verified on its first read. Raises DataError for damage."""
        return _join([shard.read(a, b) for shard, a, b in self.pieces(start, stop)])

    @property
    def byte_counts(self) -> "ByteCounts | None":
        """The bytes of each token, if the shards store them."""
        return ByteCounts(self) if self.has_byte_counts else None

    def pieces(self, start: int, stop: int) -> Iterator[tuple[AnyShard, int, int]]:
        """Yield each shard with ids start ... stop - 1 of the list, and which of its own ids these are."""
        stop = min(stop, len(self))
        i = bisect_right(self.ends, start)
        while start < stop:
            first = self.ends[i] - self.entries[i].tokens
            end = min(stop, self.ends[i])
            if end > start:
                yield self.shard(i), start - first, end - first
            start, i = end, i + 1

    def shard(self, i: int) -> AnyShard:
        """Return shard i, opened."""
        if i in self.opened:
            self.opened.move_to_end(i)
            return self.opened[i]
        shard = self.open_shard(self.entries[i])
        if i in self.unchecked:
            for part, unchecked in zip(_files(shard), self.unchecked.pop(i), strict=True):
                part.unchecked = unchecked
        self.opened[i] = shard
        if len(self.opened) > MAX_OPEN:
            oldest, closed = self.opened.popitem(last=False)
            self.unchecked[oldest] = [part.unchecked for part in _files(closed)]
        return shard

    @property
    def n_blocks(self) -> int:
        """Blocks that are verified one by one."""
        return sum(self.shard(i).n_blocks for i in range(len(self.entries)))

    def check(self, progress: ProgressFn | None = None) -> None:
        """Verify every block now. Raises DataError at the first damaged one."""
        for i in range(len(self.entries)):
            self.shard(i).check()
            if progress:
                progress(i + 1, len(self.entries))


class ByteCounts:
    """The bytes of each token of a list of shards, (n,)."""

    byte_counts = None

    def __init__(self, shards: ShardList) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the bytes of the tokens start ... stop - 1."""
        pieces = self.shards.pieces(start, stop)
        return _join([_files(shard)[1].read(a, b) for shard, a, b in pieces])


class TokenSpan:
    """The ids from `start` on of another array, (n,): the part of one source."""

    def __init__(self, tokens: TokenArray, start: int, n: int) -> None:
        self.tokens, self.start, self.n = tokens, start, n

    def __len__(self) -> int:
        return self.n

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids start ... stop - 1 of the part."""
        return self.tokens.read(self.start + start, self.start + min(stop, self.n))

    @property
    def byte_counts(self) -> "TokenSpan | None":
        """The bytes of each token of the part, if they are known."""
        counts = self.tokens.byte_counts
        return None if counts is None else TokenSpan(counts, self.start, self.n)


def _files(shard: AnyShard) -> list[AnyShard]:
    """Return the arrays of a shard: its ids and, if it has them, its byte counts."""
    return [shard] if shard.byte_counts is None else [shard, shard.byte_counts]


def _join(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
