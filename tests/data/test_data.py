"""Shards, the order of windows, batches, and the way from a text to all of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_llm.config import DataConfig
from light_llm.data import TokenDataset, create_dataloader, prepare_dataset
from light_llm.data.dataset import Source
from light_llm.data.shards import BLOCK_BYTES, Shard, TokensInMemory
from light_llm.data.shuffle import WindowOrder, mix, permuted_index
from light_llm.data.tokenizers import ByteTokenizer, decode
from light_llm.errors import ConfigError, DataError
from light_llm.json_io import dump_with_digest, load_verified
from tests.support.tools import byte_loader, write_shard

# ---- shards


def test_a_shard_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, [[1, 2], [], [3, 65_535]], vocab_size=1 << 16, metadata={"note": "x"})
    shard = Shard(path)
    assert shard.read(0, 4).tolist() == [1, 2, 3, 65_535] and shard.read(1, 3).tolist() == [2, 3]
    assert (len(shard), shard.manifest["dtype"], shard.manifest["note"]) == (4, "<u2", "x")
    write_shard(path, [[70_000]], vocab_size=70_001, metadata={})
    assert Shard(path).read(0, 1).tolist() == [70_000] and path.stat().st_size == 4


def test_an_id_outside_the_vocabulary_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="token id 9 is outside the vocabulary of 9"):
        write_shard(tmp_path / "a.bin", [[1, 9]], vocab_size=9, metadata={})


@pytest.mark.parametrize("at", [0, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 77])
def test_a_flipped_bit_is_found_when_its_block_is_read(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.bin"
    n = (BLOCK_BYTES + 100) // 2
    write_shard(path, [range(60_000)] * 8 + [range(n - 480_000)], vocab_size=1 << 16, metadata={})
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    shard, token = Shard(path), at // 2
    with pytest.raises(
        DataError, match=rf"a.bin is damaged: its bytes from {at // BLOCK_BYTES * BLOCK_BYTES:,} .* delete the folder"
    ):
        shard.read(token, token + 1)
    other = 0 if at >= BLOCK_BYTES else BLOCK_BYTES // 2 + 1
    assert len(shard.read(other, other + 1)) == 1  # the rest can still be read


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""])
def test_a_cut_or_grown_shard_is_refused_when_opened(tmp_path: Path, change: object) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, [range(100)], vocab_size=100, metadata={})
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"a.bin has [\d,]+ bytes, its manifest says 200"):
        Shard(path)


SOUND = {"format": 2, "dtype": "<u2", "tokens": 0, "vocab_size": 9, "sha256": []}


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        dump_with_digest(SOUND).replace(b"9", b"8"),
        dump_with_digest(SOUND).replace(b" ", b"  ", 1),  # the same values, and yet a byte is another
        dump_with_digest(SOUND | {"format": 3}),
        dump_with_digest(SOUND | {"dtype": "<i8"}),
        dump_with_digest(SOUND | {"tokens": 10**9}),  # a block without a hash would never be checked
        dump_with_digest(SOUND | {"vocab_size": None}),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, manifest: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "a.json").write_bytes(dump_with_digest(SOUND))
    assert len(Shard(tmp_path / "a.bin")) == 0
    (tmp_path / "a.json").write_bytes(manifest)
    with pytest.raises(DataError, match="a.json is missing, damaged or of another format"):
        Shard(tmp_path / "a.bin")


# ---- order


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_visits_everything_once(n: int, key: int) -> None:
    assert sorted(permuted_index(i, n, key) for i in range(n)) == list(range(n))


def test_permutations_mix() -> None:
    """Neighbours are not left beside each other, and keys differ."""
    a, b = ([permuted_index(i, 1000, key) for i in range(1000)] for key in (1, 2))
    assert sum(abs(x - y) == 1 for x, y in zip(a, a[1:], strict=False)) < 20
    assert sum(x == y for x, y in zip(a, b, strict=True)) < 20
    assert abs(np.corrcoef(range(1000), a)[0, 1]) < 0.1


def test_the_order_is_fixed_for_ever() -> None:
    """Checkpoints hold only a counter: another order under the same seed would repeat or skip text on resume."""
    assert mix(1, 2, 3) == 7_702_586_659_592_502_839
    assert [permuted_index(i, 10, 7) for i in range(10)] == [0, 7, 2, 5, 6, 1, 8, 3, 9, 4]
    assert [WindowOrder(1000, 8, 1337).start(c) for c in (0, 1, 2, 130)] == [91, 27, 35, 851]


@given(st.integers(1, 40), st.integers(2, 4000), st.integers(0, 5))
def test_every_window_fits_and_an_epoch_overlaps_nothing(T: int, n: int, seed: int) -> None:
    if n < T + 1:
        return
    order = WindowOrder(n, T, seed)
    for epoch in range(3):
        starts = [order.start(epoch * order.per_epoch + i) for i in range(order.per_epoch)]
        assert min(starts) >= 0 and max(starts) + T + 1 <= n
        gaps = np.diff(sorted(starts))
        assert (gaps == T).all()  # each token is the target of at most one window of an epoch
        assert min(starts) < T  # and the epoch leaves out less than a window at each end (two at most)
        assert n - (max(starts) + T + 1) < 2 * T


def test_epochs_start_at_different_places() -> None:
    order = WindowOrder(10_000, 64, 1)
    offsets = {order.start(e * order.per_epoch) % 64 for e in range(40)}
    assert len(offsets) > 20


# ---- batches


def in_memory(n: int = 1000, T: int = 8) -> TokenDataset:
    source = Source("memory", "memory", Path("memory"), "0", n, n, "", 1)
    return TokenDataset(TokensInMemory(range(n)), TokensInMemory(range(20)), T, ByteTokenizer(), source, DataConfig())


def test_targets_are_tokens_one_place_on() -> None:
    batch = create_dataloader(in_memory(), 4).batch(3)
    assert batch.tokens.shape == batch.targets.shape == (4, 8) and batch.tokens.dtype == torch.int64
    assert torch.equal(batch.targets, batch.tokens + 1)


def test_a_batch_is_a_function_of_its_number() -> None:
    a, b = create_dataloader(in_memory(), 4, seed=3), create_dataloader(in_memory(), 4, seed=3)
    for _ in a:
        pass
    assert torch.equal(a.batch(77).tokens, b.batch(77).tokens)
    assert not torch.equal(a.batch(77).tokens, a.batch(78).tokens)
    assert not torch.equal(a.batch(77).tokens, create_dataloader(in_memory(), 4, seed=4).batch(77).tokens)


def test_two_small_batches_are_one_large_one() -> None:
    """The global batch is defined first, whoever takes which part of it."""
    small, large = create_dataloader(in_memory(), 2), create_dataloader(in_memory(), 4)
    halves = torch.cat([small.batch(6).tokens, small.batch(7).tokens])
    assert torch.equal(halves, large.batch(3).tokens)


def test_one_pass_reads_nothing_twice() -> None:
    seen = torch.cat([b.targets.flatten() for b in create_dataloader(in_memory(), 4)])
    assert len(set(seen.tolist())) == len(seen) > 900
    assert len(create_dataloader(in_memory(), 4)) == 31


def test_a_loader_needs_a_batch_size() -> None:
    with pytest.raises(ConfigError, match="batch_size=0 cannot be used; it must be a whole number at least 1"):
        create_dataloader(in_memory(), 0)


# ---- from a text


def test_shakespeare_in_gpt2_tokens(offline_files: Path) -> None:
    """The exact oracle: 338,025 tokens, 301,966 / 36,059."""
    dataset, tokenizer = prepare_dataset("shakespeare", max_length=512, offline=True)
    assert (len(dataset.tokens), len(dataset.held_out)) == (301_966, 36_059)
    assert tokenizer is dataset.tokenizer and dataset.source.name == "shakespeare"
    play = (offline_files / "shakespeare.txt").read_text(encoding="utf-8")
    assert decode(tokenizer, dataset.held_out.read(0, 36_059).tolist()) == play[1_003_854:]


@pytest.mark.parametrize("name", ["char", "byte"])
def test_the_splits_are_the_text(poem: Path, name: str) -> None:
    dataset, tokenizer = prepare_dataset(str(poem), max_length=16, tokenizer=name)
    text = poem.read_text()
    train, held_out = (decode(tokenizer, s.read(0, len(s)).tolist()) for s in (dataset.tokens, dataset.held_out))
    assert train + held_out == text and len(train) == int(len(text) * 0.9)


def test_a_long_text_is_prepared_in_pieces(tmp_path: Path) -> None:
    """More than a piece, with characters of several bytes across every border."""
    path = tmp_path / "long.txt"
    text = "naïve café, 日本語 words \U0001f600 and so on; " * 60_000
    path.write_text(text, encoding="utf-8")
    steps: list[tuple[str, int, int]] = []
    dataset, tokenizer = prepare_dataset(
        str(path), tokenizer="byte", max_length=64, progress=lambda *step: steps.append(step)
    )
    n = len(dataset.tokens)
    whole = np.concatenate([dataset.tokens.read(0, n), dataset.held_out.read(0, len(dataset.held_out))])
    assert bytes(whole.tolist()).decode() == text
    size = path.stat().st_size
    assert steps[-1] == ("encoding", size, size) and [step[0] for step in steps].count("encoding") > 2


def test_the_second_time_nothing_is_encoded(poem: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        prepare_dataset(str(poem), 16, "byte", held_out=0.2, progress=lambda what, *args: calls.append(what))
        assert calls.count("encoding") == 1


def test_another_text_is_encoded_again(poem: Path) -> None:
    first, _ = prepare_dataset(str(poem), 16, "byte")
    poem.write_text(poem.read_text() + "more")
    second, _ = prepare_dataset(str(poem), 16, "byte")
    assert len(second.tokens) + len(second.held_out) == len(first.tokens) + len(first.held_out) + 4


def test_a_text_too_small_for_a_window(poem: Path) -> None:
    with pytest.raises(
        DataError, match=r"one window of max_length=9,000 needs 9,001 training tokens: use --max-length"
    ):
        prepare_dataset(str(poem), 9000, "byte")
    poem.write_text("ab")
    with pytest.raises(DataError, match="that is too little to train on"):
        prepare_dataset(str(poem), 4, "byte")


def test_the_smallest_text_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text("x" * 20)
    batch = byte_loader(path, max_length=17, batch_size=2).batch(5)
    assert batch.tokens.shape == (2, 17)


def test_ids_of_another_tokenizer_are_refused(poem: Path) -> None:
    """As when someone copies folders about in the cache, or a manifest is damaged."""
    poem.write_text(poem.read_text() + "ids of another")
    dataset, _ = prepare_dataset(str(poem), 16, "byte")
    assert dataset.folder is not None
    manifest = dataset.folder / "held_out.json"
    manifest.write_bytes(dump_with_digest(load_verified(manifest) | {"tokenizer_sha256": "0"}))
    with pytest.raises(DataError, match="held_out.bin is of another text or tokenizer: its tokenizer_sha256 is '0"):
        prepare_dataset(str(poem), 16, "byte")


def test_ids_outside_the_vocabulary_are_refused_whatever_their_hash(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", [[1, 300]], vocab_size=301, metadata={})
    manifest = tmp_path / "a.json"
    manifest.write_bytes(dump_with_digest(load_verified(manifest) | {"vocab_size": 300}))
    with pytest.raises(DataError, match=r"a.bin has token id 300, which is outside the vocabulary of 300"):
        Shard(tmp_path / "a.bin").read(0, 1)


def test_a_cache_that_cannot_be_written(poem: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="the tokens cannot be kept at .* set LIGHT_LLM_CACHE to a folder"):
        prepare_dataset(str(poem), 16, "byte")


def test_the_record_says_where_it_came_from(poem: Path) -> None:
    dataset, _ = prepare_dataset(str(poem), 16, "char")
    record = json.loads(json.dumps(dataset.record()))
    assert record["source"] == str(poem) and record["tokenizer"] == "char" and len(record["sha256"]) == 64
    assert record["train_tokens"] == len(dataset.tokens) and len(dataset) == (len(dataset.tokens) - 16) // 16
