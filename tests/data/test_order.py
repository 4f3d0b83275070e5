"""The orders of windows and of the sources of a mixture: pure functions of (seed, counter)."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_llm.data import order as order_module
from light_llm.data.order import (
    CHUNK,
    GROUP,
    PERIOD,
    ChunkedOrder,
    LongChunkedOrder,
    MixtureOrder,
    WindowOrder,
    slots_of,
)

FAR = 10**12


@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 99), st.integers(0, 5))
@settings(max_examples=40)
def test_each_window_comes_once_in_an_epoch(T: int, windows: int, seed: int, epoch: int) -> None:
    order = ChunkedOrder(windows * T + T + 1, T, seed)
    n = order.per_epoch
    starts = [order.start(epoch * n + i) for i in range(n)]
    assert (np.diff(sorted(starts)) == T).all() and len(set(starts)) == n
    assert 0 <= min(starts) < T and max(starts) + T + 1 <= order.n_tokens
    # Only the order differs: an epoch reads the same windows as in order 1.
    assert sorted(starts) == sorted(WindowOrder(order.n_tokens, T, seed).start(epoch * n + i) for i in range(n))


def test_a_group_reads_only_its_own_chunks() -> None:
    """16,384 successive windows are those of 256 chunks of 64 neighbours, in another order."""
    order = ChunkedOrder(2 * GROUP + 1000, 1, seed=3)
    n = order.per_epoch
    groups = [[order.window(0, i) for i in range(g, min(g + GROUP, n))] for g in range(0, n, GROUP)]
    assert sorted(i for group in groups for i in group) == list(range(n))
    for group in groups[:2]:
        # 256 runs of neighbours; the edge of the text is inside one of them.
        assert np.count_nonzero(np.diff(sorted(group)) > 1) <= GROUP // CHUNK
        assert np.mean(np.diff(group) == 1) < 0.01
    assert groups[0] != [order.window(1, i) for i in range(GROUP)]


@pytest.mark.parametrize("kind", [WindowOrder, ChunkedOrder])
def test_the_start_of_a_far_sequence_takes_no_longer(kind: type[WindowOrder]) -> None:
    order = kind(5 * FAR, 2048, seed=1)
    before = time.process_time()
    starts = [order.start(FAR + i) for i in range(500)]
    assert time.process_time() - before < 2
    assert len(set(starts)) == 500 and max(starts) + 2049 <= order.n_tokens
    assert starts == [kind(5 * FAR, 2048, seed=1).start(FAR + i) for i in range(500)]


def test_the_second_order_never_changes() -> None:
    order = ChunkedOrder(10_000, 8, 1337)
    assert [order.start(c) for c in (0, 1, 2, 1300)] == [7043, 4251, 8067, 7867]


def test_the_third_order_has_longer_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window once in an epoch; a group of windows is 16 chunks of 8 million tokens, whatever the window."""
    assert {LongChunkedOrder(10**12, T, 0).chunk * T for T in (512, 2048)} == {1 << 23}
    assert LongChunkedOrder(10**12, 1 << 20, 0).chunk == CHUNK
    order = LongChunkedOrder(10_000, 8, 1337)
    assert [order.start(c) for c in (0, 1, 2, 1300)] == [9091, 9883, 6019, 6331]
    monkeypatch.setattr(order_module, "LONG_CHUNK", 1000)
    order = LongChunkedOrder(50_003, 8, seed=3)
    n = order.per_epoch
    windows = [order.window(1, i) for i in range(n)]
    assert sorted(windows) == list(range(n)) and order.group == 2000
    assert np.count_nonzero(np.diff(sorted(windows[:2000])) > 1) <= 16


# ---- mixtures


def mixture(weights: list[float], sizes: list[int], seed: int = 5, T: int = 4) -> MixtureOrder:
    starts = [sum(sizes[:s]) for s in range(len(sizes))]
    return MixtureOrder(
        tuple(ChunkedOrder(n, T, seed + s) for s, n in enumerate(sizes)), tuple(starts), slots_of(weights), seed
    )


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
@settings(max_examples=50)
def test_the_shares_are_the_weights_to_one_in_4096(weights: list[float]) -> None:
    slots = slots_of(weights)
    assert sum(slots) == PERIOD
    assert all(abs(n - PERIOD * w / sum(weights)) < 1 for n, w in zip(slots, weights, strict=True))


def test_a_mixture_is_a_naive_list() -> None:
    """Counting by table look-up gives what walking through every sequence gives."""
    order = mixture([0.6, 0.25, 0.15, 0], [4000, 900, 300, 50])
    taken = Counter[int]()
    for counter in range(2 * PERIOD + 100):
        if counter % PERIOD == 0:
            assert [taken[s] for s in range(4)] == [counter // PERIOD * n for n in order.slots]
        assert [order.count(s, counter) for s in range(4)] == [taken[s] for s in range(4)]
        source, epoch, start = order.place(counter)
        own = order.sources[source]
        assert (epoch, start) == (taken[source] // own.per_epoch, own.start(taken[source]))
        assert order.start(counter) == order.starts[source] + start
        taken[source] += 1
    assert not taken[3] and order.passes(counter + 1)[:2] == [taken[s] / order.sources[s].per_epoch for s in range(2)]


def test_each_source_has_its_own_epochs() -> None:
    order = mixture([0.5, 0.5], [4000, 400])
    places = [order.place(c) for c in range(6000)]
    for source in range(2):
        own = [p for p in places if p.source == source]
        n = order.sources[source].per_epoch
        assert [p.epoch for p in own] == [i // n for i in range(len(own))]
        assert all(len({p.start for p in own[e * n : (e + 1) * n]}) == n for e in range(len(own) // n))
    assert max(p.epoch for p in places) > 20


def test_a_far_sequence_of_a_mixture() -> None:
    order = mixture([0.7, 0.3], [FAR, 3 * FAR], T=2048)
    first = FAR // PERIOD * PERIOD
    assert [order.count(s, first) for s in range(2)] == [first // PERIOD * n for n in order.slots]
    assert Counter(order.place(first + i).source for i in range(PERIOD)) == dict(enumerate(order.slots))
