"""Encoding a text into shards: on several threads, interrupted anywhere, by two at once; always the same bytes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from light_llm.data import encode as room
from light_llm.data.bpe import train_bpe
from light_llm.data.encode import encode_splits
from light_llm.data.shards import BLOCK_BYTES, Shard
from light_llm.data.text_stream import Chunk
from light_llm.data.tokenizers import ByteTokenizer, Tokenizer
from light_llm.errors import DataError
from light_llm.json_io import dump_with_digest
from light_llm.runtime import lock_folder, unlock, usable_cores
from tests.support.tools import files_of

FACTS = {"source_sha256": "s"}


class Interrupted(Exception):
    """What stops a preparation in these tests."""


class Mortal(ByteTokenizer):
    """Bytes, until so many stretches are encoded."""

    def __init__(self, lives: int) -> None:
        self.lives, self.lock = lives, threading.Lock()

    def encode(self, text: str) -> list[int]:
        with self.lock:
            self.lives -= 1
        if self.lives < 0:
            raise Interrupted
        return super().encode(text)


def words(n: int) -> Iterator[Chunk]:
    """A text of n stretches, each of them a task."""
    return (f" {i} " + "word " * 400 for i in range(n))


def write(folder: Path, tokenizer: Tokenizer, *, separators: bool = False) -> None:
    read_splits = iter([("train", words(60)), ("held_out", words(9))])
    encode_splits(folder, read_splits, tokenizer, metadata=FACTS, separators=separators)


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH_CHARS", 1000)
    monkeypatch.setattr(room, "CHECKPOINT_SECONDS", 0.0)


def test_the_ids_are_the_text_in_order_on_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(map(str, words(60))).encode()
    for threads in (1, 2, 7):
        monkeypatch.setattr(room, "usable_cores", lambda n=threads: n)
        folder = tmp_path / str(threads)
        write(folder, ByteTokenizer())
        assert Shard(folder / "train.bin").read(0, len(text)).astype(np.uint8).tobytes() == text
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "7")


@pytest.mark.parametrize("lives", [0, 1, 13, 40, 59, 60, 61, 66])
def test_an_interruption_costs_little_and_changes_nothing(tmp_path: Path, lives: int) -> None:
    first, second = Mortal(1000), Mortal(1000)
    write(tmp_path / "whole", first)
    with pytest.raises(Interrupted):
        write(tmp_path / "again", Mortal(lives))
    assert not (tmp_path / "again").exists()
    write(tmp_path / "again", second)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")
    kept = second.lives - first.lives  # stretches that were not encoded a second time
    assert lives - 3 * usable_cores() - 1 <= kept <= lives
    assert not (tmp_path / "again.partial").exists()


def test_what_was_written_after_the_last_mark_is_written_again(tmp_path: Path) -> None:
    write(tmp_path / "whole", ByteTokenizer())
    with pytest.raises(Interrupted):
        write(tmp_path / "again", Mortal(30))
    with open(tmp_path / "again.partial" / "train.bin", "ab") as file:
        file.write(b"torn")
    write(tmp_path / "again", ByteTokenizer())
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"{",
        b"[]",
        b'{"train": {"tasks": 5, "tokens": 10, "sha256": []}}',  # no digest
        dump_with_digest({"train": 3}),
        dump_with_digest({"train": {"tasks": 5, "tokens": 1000000000, "sha256": [], "rest": ""}}),
    ],
)
def test_a_damaged_journal_is_a_fresh_start(tmp_path: Path, journal: bytes) -> None:
    write(tmp_path / "whole", ByteTokenizer())
    with pytest.raises(Interrupted):
        write(tmp_path / "again", Mortal(30))
    (tmp_path / "again.partial" / "journal.json").write_bytes(journal)
    write(tmp_path / "again", ByteTokenizer())
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


def test_a_flip_in_half_written_ids_is_a_fresh_start(tmp_path: Path) -> None:
    write(tmp_path / "whole", ByteTokenizer())
    with pytest.raises(Interrupted):
        write(tmp_path / "again", Mortal(30))
    half = tmp_path / "again.partial" / "train.bin"
    data = bytearray(half.read_bytes())
    data[5] ^= 1
    half.write_bytes(data)
    write(tmp_path / "again", ByteTokenizer())
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


def test_block_hashes_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("light_llm.data.shards.BLOCK_BYTES", 1000)
    with pytest.raises(Interrupted):
        write(tmp_path / "a", Mortal(30))
    write(tmp_path / "a", ByteTokenizer())
    data = (tmp_path / "a" / "train.bin").read_bytes()
    manifest = json.loads((tmp_path / "a" / "train.json").read_text())
    blocks = [data[i : i + 1000] for i in range(0, len(data), 1000)]
    assert manifest["sha256"] == [hashlib.sha256(block).hexdigest() for block in blocks] and len(blocks) > 100


def test_separators_stand_around_documents_only(tmp_path: Path) -> None:
    pieces: list[Chunk] = ["ab", "c", None, "d"]
    read_splits = iter([("train", iter(pieces)), ("held_out", iter(["e"]))])
    encode_splits(tmp_path / "a", read_splits, ByteTokenizer(), metadata=FACTS, separators=True)
    end = ByteTokenizer.separator
    train, rest = (Shard(tmp_path / "a" / f"{name}.bin") for name in ("train", "held_out"))
    assert train.read(0, 99).tolist() == [end, *b"abc", end, *b"d", end] and rest.read(0, 9).tolist() == [
        end,
        *b"e",
        end,
    ]


def test_the_second_of_two_waits_and_finds_the_work_done(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (tmp_path / "a.partial").mkdir()
    handle = lock_folder(tmp_path / "a.partial")
    idle = Mortal(0)  # encoding anything would fail
    waiting = threading.Thread(target=write, args=(folder, idle))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    (tmp_path / "a.partial").rename(folder)
    unlock(handle)
    waiting.join(20)
    assert not waiting.is_alive() and idle.lives == 0


def test_without_locks_each_works_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole", ByteTokenizer())
    monkeypatch.setattr(room, "lock_folder", lambda folder, wait: None)  # as on Windows
    with pytest.raises(Interrupted):
        write(tmp_path / "a", Mortal(30))
    write(tmp_path / "a", ByteTokenizer())
    assert files_of(tmp_path / "a") == files_of(tmp_path / "whole")


def test_documents_have_the_ids_they_have_alone(poem: Path, tmp_path: Path) -> None:
    text = poem.read_text()
    tokenizer = train_bpe([text], 400)
    documents = [part for part in text.split("\n\n") if part]
    pieces = [piece for part in documents for piece in (part, None)][:-1]
    encode_splits(tmp_path / "a", iter([("train", iter(pieces))]), tokenizer, metadata=FACTS, separators=True)
    alone = [i for part in documents for i in [tokenizer.separator, *tokenizer.encode(part)]] + [tokenizer.separator]
    shard = Shard(tmp_path / "a" / "train.bin")
    assert shard.read(0, len(shard)).tolist() == alone


def test_a_whole_shard_can_be_checked_at_once(tmp_path: Path) -> None:
    encode_splits(tmp_path / "a", iter([("train", words(1100))]), ByteTokenizer(), metadata=FACTS, separators=False)
    path, seen = tmp_path / "a" / "train.bin", list[tuple[int, int]]()
    Shard(path).check(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(seen), len(seen)) and len(seen) == -(-path.stat().st_size // BLOCK_BYTES) > 2
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="train.bin is damaged"):
        Shard(path).check()


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """What waits between reading and writing is bounded: the reader is never far ahead of the writer."""
    written, ahead = 0, 0

    class Slow(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            nonlocal written
            written += 1
            return super().encode(text)

    def pieces() -> Iterator[Chunk]:
        nonlocal ahead
        for i, piece in enumerate(words(300)):
            ahead = max(ahead, i - written)
            yield piece

    encode_splits(tmp_path / "a", iter([("train", pieces())]), Slow(), metadata=FACTS, separators=False)
    assert ahead <= 3 * usable_cores() + 3
