"""Shards, the order of windows, batches, and datasets from a text."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from light_llm.config import DataConfig
from light_llm.data import TokenDataset, create_dataloader, prepare_dataset
from light_llm.data.loader import IterableBatches
from light_llm.data.order import WindowOrder, mix, permuted_index
from light_llm.data.shards import BLOCK_BYTES, Shard, TokensInMemory
from light_llm.data.sources import Source
from light_llm.data.tokenizers import ByteTokenizer, decode
from light_llm.errors import ConfigError, DataError
from light_llm.json_io import dump_with_digest, load_verified
from tests.support.tools import byte_loader, write_shard

# ---- shards

PATH, MANIFEST = Path("a.bin"), Path("a.json")


def write(ids: Sequence[Iterable[int]], vocab_size: int = 1 << 16, **metadata: str) -> None:
    write_shard(PATH, ids, vocab_size=vocab_size, metadata=metadata)


def test_a_shard_is_what_was_written() -> None:
    write([[1, 2], [], [3, 65_535]], note="x")
    shard = Shard(PATH)
    assert shard.read(0, 4).tolist() == [1, 2, 3, 65_535] and shard.read(1, 3).tolist() == [2, 3]
    assert (len(shard), shard.manifest["dtype"], shard.manifest["note"]) == (4, "<u2", "x")
    write([[70_000]], vocab_size=70_001)
    assert Shard(PATH).read(0, 1).tolist() == [70_000] and PATH.stat().st_size == 4


def test_ids_outside_the_vocabulary_are_refused() -> None:
    """When they are written, and when they are read, even if their hash is right."""
    with pytest.raises(DataError, match="token id 9 .* vocabulary of 9"):
        write([[1, 9]], vocab_size=9)
    write([[1, 300]], vocab_size=301)
    MANIFEST.write_bytes(dump_with_digest(load_verified(MANIFEST) | {"vocab_size": 300}))
    with pytest.raises(DataError, match="a.bin .* id 300, .* vocabulary of 300"):
        Shard(PATH).read(0, 1)


@pytest.mark.parametrize("at", [0, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 77])
def test_a_flipped_bit_is_found_when_its_block_is_read(at: int) -> None:
    n = (BLOCK_BYTES + 100) // 2
    write([range(60_000)] * 8 + [range(n - 480_000)])
    data = bytearray(PATH.read_bytes())
    data[at] ^= 4
    PATH.write_bytes(data)
    shard, token = Shard(PATH), at // 2
    with pytest.raises(DataError, match=rf"a.bin is damaged: .* {at // BLOCK_BYTES * BLOCK_BYTES:,} .*delete"):
        shard.read(token, token + 1)
    other = 0 if at >= BLOCK_BYTES else BLOCK_BYTES // 2 + 1
    assert len(shard.read(other, other + 1)) == 1  # the other block can still be read


@pytest.mark.parametrize("data", [b"x" * 199, b"x" * 201, b""])
def test_a_shard_of_another_size_is_refused_when_opened(data: bytes) -> None:
    write([range(100)], vocab_size=100)
    PATH.write_bytes(data)
    with pytest.raises(DataError, match=f"a.bin has {len(data)} bytes, its manifest says 200"):
        Shard(PATH)


VALID = {"format": 2, "dtype": "<u2", "tokens": 0, "vocab_size": 9, "sha256": []}
CHANGES = ({"format": 3}, {"dtype": "<i8"}, {"tokens": 10**9}, {"vocab_size": None})  # 10**9: not a hash for each block


@pytest.mark.parametrize(
    "manifest",
    [
        *(b"", b"[]", b"{}", dump_with_digest(VALID).replace(b"9", b"8")),
        dump_with_digest(VALID).replace(b" ", b"  ", 1),  # the same values in other bytes
        *(dump_with_digest(VALID | change) for change in CHANGES),
    ],
)
def test_a_bad_manifest_is_refused(manifest: bytes) -> None:
    PATH.write_bytes(b"")
    MANIFEST.write_bytes(dump_with_digest(VALID))
    assert len(Shard(PATH)) == 0
    MANIFEST.write_bytes(manifest)
    with pytest.raises(DataError, match="a.json is missing, damaged or of another format"):
        Shard(PATH)


# ---- shuffle


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_visits_everything_once(n: int, key: int) -> None:
    assert sorted(permuted_index(i, n, key) for i in range(n)) == list(range(n))


def test_permutations_mix() -> None:
    """Neighbours are separated, and keys give different orders."""
    a, b = ([permuted_index(i, 1000, key) for i in range(1000)] for key in (1, 2))
    assert sum(abs(x - y) == 1 for x, y in zip(a, a[1:], strict=False)) < 20
    assert sum(x == y for x, y in zip(a, b, strict=True)) < 20
    assert abs(np.corrcoef(range(1000), a)[0, 1]) < 0.1


def test_the_order_never_changes() -> None:
    """Checkpoints store only a counter: another order for the same seed would repeat or skip text on resume."""
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
        assert min(starts) < T and n - (max(starts) + T + 1) < 2 * T  # and few tokens are skipped at the ends


# ---- batches


def in_memory(n: int = 1000, T: int = 8) -> TokenDataset:
    facts = {"sha256": "0", "n_bytes": n, "n_chars": n, "alphabet": "", "documents": 1}
    source = Source(name="memory", title="memory", path=Path("memory"), **facts)  # type: ignore[arg-type]
    return TokenDataset(TokensInMemory(range(n)), TokensInMemory(range(20)), T, ByteTokenizer(), source, DataConfig())


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size=0"):
        create_dataloader(in_memory(), 0)


def test_a_batch_is_a_function_of_its_index() -> None:
    a, b = create_dataloader(in_memory(), 4, seed=3), create_dataloader(in_memory(), 4, seed=3)
    for _ in a:
        pass
    assert torch.equal(a.batch(77).tokens, b.batch(77).tokens) and a.batch(77).tokens.dtype == torch.int64
    assert not torch.equal(a.batch(77).tokens, a.batch(78).tokens)
    assert not torch.equal(a.batch(77).tokens, create_dataloader(in_memory(), 4, seed=4).batch(77).tokens)


def test_two_small_batches_are_one_large_one() -> None:
    small, large = create_dataloader(in_memory(), 2), create_dataloader(in_memory(), 4)
    halves = torch.cat([small.batch(6).tokens, small.batch(7).tokens])
    assert torch.equal(halves, large.batch(3).tokens)


class CountedReads(TokensInMemory):
    """Token ids that remember which windows were read."""

    def __init__(self, ids: Iterable[int]) -> None:
        super().__init__(ids)
        self.windows: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        self.windows.append((start, stop))
        return super().read(start, stop)


def test_the_rows_of_all_ranks_are_the_batch() -> None:
    """In several passes, whatever the number of ranks; each rank reads its own windows and nothing else."""
    dataset = in_memory()
    loader = create_dataloader(dataset, 8, seed=3)
    assert loader.batch(40).tokens.shape == (8, 8)
    for ranks in (1, 2, 4, 8):
        n = 8 // ranks
        for k in (0, 14, 15, 16, 47, 1000):
            whole = loader.batch(k)
            reads = CountedReads(range(1000))
            own = create_dataloader(replace(dataset, tokens=reads), 8, seed=3)
            parts = []
            for rank in range(ranks):
                parts.append(own.batch(k, slice(rank * n, (rank + 1) * n)))
                assert len(reads.windows) == n * (rank + 1)
            for name in ("tokens", "targets"):
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_rows_of_a_foreign_loader() -> None:
    pairs = [(torch.arange(12).view(4, 3), torch.arange(12).view(4, 3) + 1)]
    whole, part = (IterableBatches(pairs, 100).batch(0, rows) for rows in (None, slice(1, 3)))
    assert (
        whole and part and torch.equal(part.targets, whole.targets[1:3]) and torch.equal(part.tokens, pairs[0][0][1:3])
    )


def test_one_pass_reads_nothing_twice() -> None:
    seen = torch.cat([b.targets.flatten() for b in create_dataloader(in_memory(), 4)])
    assert len(set(seen.tolist())) == len(seen) > 900
    assert len(create_dataloader(in_memory(), 4)) == 31


# ---- from a text


def test_shakespeare_in_gpt2_tokens(offline_files: Path) -> None:
    """The known counts: 338,025 tokens, 301,966 / 36,059."""
    dataset, tokenizer = prepare_dataset("shakespeare", max_length=512, offline=True)
    assert (len(dataset.tokens), len(dataset.held_out)) == (301_966, 36_059)
    assert tokenizer is dataset.tokenizer and dataset.source.name == "shakespeare"
    play = (offline_files / "shakespeare.txt").read_text(encoding="utf-8")
    assert decode(tokenizer, dataset.held_out.read(0, 36_059).tolist()) == play[1_003_854:]


@pytest.mark.parametrize("name", ["char", "byte"])
def test_the_splits_are_the_text(poem: Path, name: str) -> None:
    dataset, tokenizer = prepare_dataset(poem, max_length=16, tokenizer=name)
    text = poem.read_text()
    train, held_out = (decode(tokenizer, s.read(0, len(s)).tolist()) for s in (dataset.tokens, dataset.held_out))
    assert train + held_out == text and len(train) == int(len(text) * 0.9)


def test_a_long_text_is_prepared_in_chunks() -> None:
    """With characters of several bytes across every border."""
    path, steps = Path("long.txt"), list[tuple[str, int, int]]()
    text = "naïve café, 日本語 words \U0001f600 and so on; " * 60_000
    path.write_text(text, encoding="utf-8")
    dataset, _ = prepare_dataset(path, tokenizer="byte", max_length=64, progress=lambda *step: steps.append(step))
    ids = [i for tokens in (dataset.tokens, dataset.held_out) for i in tokens.read(0, len(tokens)).tolist()]
    assert bytes(ids).decode() == text
    size = path.stat().st_size
    assert steps[-1] == ("encoding", size, size) and [step[0] for step in steps].count("encoding") > 2


def test_the_second_time_nothing_is_encoded(poem: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        dataset, _ = prepare_dataset(poem, 16, "byte", held_out=0.2, progress=lambda stage, *_: calls.append(stage))
        assert calls.count("encoding") == 1
    poem.write_text(poem.read_text() + "more")
    changed, _ = prepare_dataset(poem, 16, "byte", held_out=0.2)
    assert len(changed.tokens) + len(changed.held_out) == len(dataset.tokens) + len(dataset.held_out) + 4


def test_a_text_too_small_for_a_window(poem: Path) -> None:
    with pytest.raises(DataError, match=r"max_length=9000 needs 9,001 training tokens: use max_length=8137"):
        prepare_dataset(poem, 9000, "byte")
    poem.write_text("ab")
    with pytest.raises(DataError, match="too little to train on"):
        prepare_dataset(poem, 4, "byte")
    poem.write_text("a longer text " * 20)
    for share in (1e-6, 0.999999):
        with pytest.raises(DataError, match=r"held_out=\S+; use a share such as held_out=0.1"):
            prepare_dataset(poem, 4, "byte", held_out=share)
    Path("val.txt").write_text("v")
    with pytest.raises(DataError, match=r"held-out text val.txt \(val_data=...\) has 1 token"):
        prepare_dataset(poem, 4, "byte", val_data="val.txt")
    poem.write_text("x" * 20)  # just large enough
    assert byte_loader(poem, max_length=17, batch_size=2).batch(5).tokens.shape == (2, 17)


def test_ids_of_another_tokenizer_are_refused(poem: Path) -> None:
    """As after copying folders within the cache."""
    poem.write_text(poem.read_text() + "ids of another")
    dataset, _ = prepare_dataset(poem, 16, "byte")
    assert dataset.folder is not None
    manifest = dataset.folder / "held_out.json"
    manifest.write_bytes(dump_with_digest(load_verified(manifest) | {"tokenizer_sha256": "0"}))
    with pytest.raises(DataError, match="held_out.bin is of another text or tokenizer: .* '0"):
        prepare_dataset(poem, 16, "byte")


def test_a_cache_that_cannot_be_written(poem: Path, empty_cache: Path) -> None:
    empty_cache.touch()
    with pytest.raises(DataError, match=f"{empty_cache}.* LIGHT_LLM_CACHE"):
        prepare_dataset(poem, 16, "byte")


def test_the_record_says_where_it_came_from(poem: Path) -> None:
    dataset, _ = prepare_dataset(poem, 16, "char")
    record = json.loads(json.dumps(dataset.record()))
    assert record["source"] == str(poem) and record["tokenizer"] == "char" and len(record["sha256"]) == 64
    assert record["train_tokens"] == len(dataset.tokens) and len(dataset) == (len(dataset.tokens) - 16) // 16


def test_a_large_document_is_not_held_out_whole() -> None:
    """The splits are near the share also where the text is a small document and a large one, in any order."""
    Path("t").mkdir()
    for small, large in (("a.txt", "b.txt"), ("d.txt", "c.txt")):
        Path("t", small).write_text("notes\n" * 50)
        Path("t", large).write_text("".join(f"{i}\n" for i in range(5000)))
        dataset, _ = prepare_dataset("t", 64, "byte")
        assert len(dataset.held_out) / len(dataset.tokens) == pytest.approx(1 / 9, rel=0.01)
        assert not [note for note in dataset.notes if "held_out" in note]
        Path("t", small).unlink()


@pytest.mark.parametrize("held_out", [0.4, 0.5, 0.9])
def test_neither_split_is_far_from_its_share(held_out: float) -> None:
    Path("t").mkdir()
    for name, size in (("a.txt", 300), ("b.txt", 24_000), ("c.txt", 30_000)):
        Path("t", name).write_text("notes\n" * (size // 6))
        dataset, _ = prepare_dataset("t", 16, "byte", held_out=held_out)
        n_held_out, n_train = len(dataset.held_out), len(dataset.tokens)
        assert 0.49 <= n_held_out / (n_held_out + n_train) / held_out <= 2.01
        assert 0.49 <= n_train / (n_held_out + n_train) / (1 - held_out) <= 2.01
        assert not [note for note in dataset.notes if "held_out" in note]


def test_a_share_that_no_break_is_near_is_noted(shared_cache: Path) -> None:
    """The stories of the built-in corpus are never cut."""
    dataset, _ = prepare_dataset("tales:1", 64, "byte", held_out=0.00001)
    assert "of the tokens are held out; 0.001% was asked for ({--held-out})" in dataset.notes[-1]
    assert len(dataset.limits) == 1
