"""Encoding a text to shards: on several threads, interrupted anywhere, by two processes; always the same bytes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from light_llm.data import encode
from light_llm.data.bpe import train_bpe
from light_llm.data.encode import encode_splits
from light_llm.data.shards import BLOCK_BYTES, Shard
from light_llm.data.text_stream import Chunk
from light_llm.data.tokenizers import ByteTokenizer, Tokenizer
from light_llm.errors import DataError
from light_llm.json_io import dump_with_digest
from light_llm.runtime import lock_folder, unlock, usable_cores
from tests.support.tools import files_of

OUT, PARTIAL = Path("out"), Path("out.partial")


class Interrupted(Exception):
    """Ends an encoding in these tests."""


class FailingTokenizer(ByteTokenizer):
    """Bytes, until a number of chunks are encoded."""

    def __init__(self, chunks: int) -> None:
        self.chunks_left, self.lock = chunks, threading.Lock()

    def encode(self, text: str) -> list[int]:
        with self.lock:
            self.chunks_left -= 1
        if self.chunks_left < 0:
            raise Interrupted
        return super().encode(text)


def words(n: int) -> Iterator[Chunk]:
    """A text of n chunks, each of them a batch."""
    return (f" {i} " + "word " * 400 for i in range(n))


def write(folder: Path, tokenizer: Tokenizer, *, separators: bool = False, **splits: Iterator[Chunk]) -> Shard:
    """Encode some splits, by default two of 60 and 9 chunks, and open the first."""
    splits = splits or {"train": words(60), "held_out": words(9)}
    first = next(iter(splits))
    encode_splits(folder, iter(splits.items()), tokenizer, metadata={"source_sha256": "s"}, separators=separators)
    return Shard(folder / f"{first}.bin")


def interrupt(chunks: int = 30) -> None:
    """Begin to encode to OUT, and fail."""
    with pytest.raises(Interrupted):
        write(OUT, FailingTokenizer(chunks))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an encoding that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "BATCH_CHARS", 1000)
        write(folder, ByteTokenizer())
    return files_of(folder)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARS", 1000)
    monkeypatch.setattr(encode, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "CHECKPOINT_SECONDS", 1e9)


def test_any_number_of_threads_gives_the_ids_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(map(str, words(60))).encode()
    for threads in (1, 2, 7):
        monkeypatch.setattr(encode, "usable_cores", lambda n=threads: n)
        ids = write(Path(str(threads)), ByteTokenizer()).read(0, len(text))
        assert ids.astype(np.uint8).tobytes() == text
    assert files_of(Path("1")) == files_of(Path("2")) == files_of(Path("7"))


@pytest.mark.parametrize("chunks", [0, 1, 13, 40, 59, 60, 61, 66])
def test_an_interruption_costs_little_and_changes_nothing(chunks: int, whole: dict[str, bytes]) -> None:
    interrupt(chunks)
    assert not OUT.exists()
    tokenizer = FailingTokenizer(3 * (60 + 9))  # a chunk of 2,000 characters is three batches
    write(OUT, tokenizer)
    assert files_of(OUT) == whole and not PARTIAL.exists()
    reused = tokenizer.chunks_left
    assert chunks - 3 * usable_cores() - 1 <= reused <= chunks


def flip(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 1]) + data[6:]


BAD_JOURNALS = [
    *(b"", b"{", b"[]", b'{"train": {"tasks": 5, "tokens": 10, "sha256": []}}'),  # the last one has no digest
    dump_with_digest({"train": 3}),
    dump_with_digest({"train": {"tasks": 5, "tokens": 10**9, "sha256": [], "rest": ""}}),
]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train.bin", lambda data: data + b"torn"),  # written after the last checkpoint
        ("train.bin", flip),
        *(("journal.json", lambda data, journal=journal: journal) for journal in BAD_JOURNALS),
    ],
)
def test_a_damaged_partial_encoding_is_not_used(file: str, damage: object, whole: dict[str, bytes]) -> None:
    interrupt()
    (PARTIAL / file).write_bytes(damage((PARTIAL / file).read_bytes()))  # type: ignore[operator]
    write(OUT, ByteTokenizer())
    assert files_of(OUT) == whole


def test_block_hashes_are_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("light_llm.data.shards.BLOCK_BYTES", 1000)
    interrupt()
    write(OUT, ByteTokenizer())
    data = (OUT / "train.bin").read_bytes()
    hashes = [hashlib.sha256(data[i : i + 1000]).hexdigest() for i in range(0, len(data), 1000)]
    assert json.loads((OUT / "train.json").read_text())["sha256"] == hashes and len(hashes) > 100


def test_separators_are_written_between_documents_only() -> None:
    end = ByteTokenizer.separator
    train = write(OUT, ByteTokenizer(), separators=True, train=iter(["ab", "c", None, "d"]), held_out=iter(["e"]))
    assert train.read(0, 99).tolist() == [end, *b"abc", end, *b"d", end]
    assert Shard(OUT / "held_out.bin").read(0, 9).tolist() == [end, *b"e", end]


def test_the_second_of_two_waits_and_finds_the_work_done() -> None:
    PARTIAL.mkdir()
    lock = lock_folder(PARTIAL)
    second = threading.Thread(
        target=encode_splits, args=(OUT, iter([]), ByteTokenizer()), kwargs={"metadata": {}, "separators": False}
    )
    second.start()
    second.join(0.2)
    assert second.is_alive()
    PARTIAL.rename(OUT)
    (OUT / "mark").touch()
    unlock(lock)
    second.join(60)
    assert not second.is_alive() and [path.name for path in OUT.iterdir()] == ["mark"]


def test_without_locks_each_process_works_alone(monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]) -> None:
    monkeypatch.setattr(encode, "lock_folder", lambda folder, wait: None)  # as on Windows
    interrupt()
    write(OUT, ByteTokenizer())
    assert files_of(OUT) == whole


def test_a_document_has_the_ids_that_it_has_alone(poem: Path) -> None:
    text = poem.read_text()
    tokenizer = train_bpe([text], 400)
    documents = [part for part in text.split("\n\n") if part]
    chunks = [chunk for part in documents for chunk in (part, None)][:-1]
    shard = write(OUT, tokenizer, separators=True, train=iter(chunks))
    alone = [i for part in documents for i in [tokenizer.separator, *tokenizer.encode(part)]] + [tokenizer.separator]
    assert shard.read(0, len(shard)).tolist() == alone


def test_a_shard_can_be_verified_at_once(no_checkpoints: None) -> None:
    shard, steps = write(OUT, ByteTokenizer(), train=words(1100)), list[tuple[int, int]]()
    shard.check(lambda *step: steps.append(step))
    assert steps[-1] == (len(steps), len(steps)) and len(steps) == -(-shard.path.stat().st_size // BLOCK_BYTES) > 2
    shard.path.write_bytes(flip(shard.path.read_bytes()))
    with pytest.raises(DataError, match="train.bin is damaged"):
        Shard(shard.path).check()


def test_memory_does_not_grow_with_the_text(no_checkpoints: None) -> None:
    """The reader is never far ahead of the encoder."""
    encoded, ahead = 0, 0

    class CountingTokenizer(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            nonlocal encoded
            encoded += 1
            return super().encode(text)

    def chunks() -> Iterator[Chunk]:
        nonlocal ahead
        for i, chunk in enumerate(words(300)):
            ahead = max(ahead, i - encoded)
            yield chunk

    write(OUT, CountingTokenizer(), train=chunks())
    assert ahead <= 3 * usable_cores() + 3
