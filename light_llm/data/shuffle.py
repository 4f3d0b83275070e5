"""The order in which windows are read, as a pure function of (seed, counter).

Windows hold T + 1 tokens and start T apart, from an offset that differs in each epoch; an epoch visits its windows in
a pseudo-random permutation. The counter of sequences continues across epochs and is the only state. The code depends
on no library's random generator, so that no new version of one can change the order of an old run.
"""

from dataclasses import dataclass

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class WindowOrder:
    """The start of each sequence of a run, for n tokens and windows of T (+ 1 for the last target).

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
        return offset + self.T * permuted_index(index, self.per_epoch, mix(self.seed, epoch, 1))


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
        for step in range(4):
            left, right = right, left ^ (mix(key, right, step) & mask)
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
