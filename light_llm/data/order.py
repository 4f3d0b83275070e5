"""The order in which windows are read: a pure function of (seed, counter), our own, so that no library can change it.

Windows hold T + 1 tokens and start T apart, from an offset that differs in each epoch; an epoch visits its windows in
a pseudo-random permutation. A counter of sequences runs on across epochs. Nothing is stored but the counter.
"""

from dataclasses import dataclass

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class WindowOrder:
    """Where the c-th sequence of a run starts, for n tokens and windows of T (+ 1 for the last target).

    Every epoch has the same number of windows, so that the epoch of a counter is a division.
    """

    n_tokens: int
    T: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Windows an epoch visits: whichever offset it starts at, they all fit."""
        return max(1, (self.n_tokens - self.T) // self.T)

    def start(self, counter: int) -> int:
        """The first token of sequence `counter` (0, 1, 2, ...); T + 1 tokens from there are its window."""
        epoch, index = divmod(counter, self.per_epoch)
        offsets = min(self.T, self.n_tokens - self.per_epoch * self.T)
        offset = mix(self.seed, epoch, 0) % offsets
        return offset + self.T * permuted(index, self.per_epoch, mix(self.seed, epoch, 1))


def permuted(i: int, n: int, key: int) -> int:
    """The i-th element of a pseudo-random permutation of 0 ... n - 1 that is chosen by key.

    A four-round Feistel network (Luby and Rackoff, 1988) permutes the next power of four; a value that lands outside is
    sent through again until it is inside ("cycle walking"), which keeps it a permutation.

    >>> sorted(permuted(i, 10, key=7) for i in range(10))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for turn in range(4):
            left, right = right, left ^ (mix(key, right, turn) & mask)
        i = left << half | right
        if i < n:
            return i


def mix(*words: int) -> int:
    """64 well-mixed bits of some whole numbers: splitmix64's finaliser (Steele et al., 2014) over each in turn.

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
