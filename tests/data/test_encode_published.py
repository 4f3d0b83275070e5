"""Shards of published tokenizers: documents as a whole, bytes beside the ids, interrupted anywhere."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from light_llm.data import encode, hf_encode
from light_llm.data.encode import encode_splits
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.shards import Shard
from light_llm.data.text_stream import Chunk
from tests.support.texts_in_scripts import SONNET, texts_in_scripts
from tests.support.tokenizer_kinds import KINDS, tokenizer_kind
from tests.support.tools import files_of

OUT = Path("out")


class Interrupted(Exception):
    """Ends an encoding in these tests."""


class FailingTokenizer(HuggingFaceTokenizer):
    """Published, until a number of documents are encoded."""

    def __init__(self, name: str, documents: int = 10**9) -> None:
        kind = tokenizer_kind(name)
        super().__init__(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)
        self.left, self.lock = documents, threading.Lock()

    def encode_aligned_arrays(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with self.lock:
            self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().encode_aligned_arrays(text)


def write(folder: Path, tokenizer: HuggingFaceTokenizer, chunks: Iterator[Chunk], *, separators: bool = True) -> Shard:
    encode_splits(folder, iter([("train", chunks)]), tokenizer, metadata={}, separators=separators)
    return Shard(folder / "train.bin")


def documents(n: int) -> Iterator[Chunk]:
    """Each of them is a batch of its own, in small pieces that no word boundary ends."""
    for text in texts_in_scripts(n):
        yield from (text[i : i + 7] for i in range(0, len(text), 7))
        yield None


@pytest.mark.parametrize("name", KINDS)
def test_a_document_is_one_text_for_the_tokenizer(name: str) -> None:
    tokenizer = FailingTokenizer(name)
    texts = texts_in_scripts(60)
    shard = write(OUT, tokenizer, documents(60))
    parts = [i for text in texts for i in (*tokenizer.document_break, *tokenizer.encode(text))]
    assert shard.read(0, len(shard)).tolist() == [*parts, *tokenizer.document_break, *tokenizer.document_break]
    n_bytes = sum(len(text.encode()) for text in texts)
    if shard.byte_counts is None:
        assert sum(len(tokenizer.token_bytes(int(i))) for i in shard.read(0, len(shard))) == n_bytes
    else:
        assert len(shard.byte_counts) == len(shard) and shard.byte_counts.read(0, len(shard)).sum() == n_bytes


@pytest.mark.parametrize("done", [1, 9])
def test_an_interrupted_shard_continues_with_its_bytes(done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARS", 20)
    monkeypatch.setattr(encode, "CHECKPOINT_SECONDS", 0.0)
    write(Path("whole"), FailingTokenizer("qwen2"), documents(12))
    with pytest.raises(Interrupted):
        write(OUT, FailingTokenizer("qwen2", done), documents(12))
    write(OUT, FailingTokenizer("qwen2"), documents(12))
    assert files_of(OUT) == files_of(Path("whole")) and len(files_of(OUT)) == 4


def test_a_text_begins_with_bos_even_if_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "MAX_DOCUMENT_CHARS", 300)
    monkeypatch.setattr(encode, "BATCH_CHARS", 20)
    monkeypatch.setattr(encode, "CHECKPOINT_SECONDS", 0.0)
    chunks = [SONNET[i : i + 50] for i in range(0, len(SONNET), 50)]
    with pytest.raises(Interrupted):
        write(OUT, FailingTokenizer("llama2", 3), iter(chunks), separators=False)
    shard = write(OUT, tokenizer := FailingTokenizer("llama2"), iter(chunks), separators=False)
    # Longer documents than the limit are several texts, each of them as a whole.
    texts = [SONNET[i : i + 300] for i in range(0, len(SONNET), 300)]
    assert shard.read(0, len(shard)).tolist() == [*tokenizer.prefix, *(i for t in texts for i in tokenizer.encode(t))]


def test_a_long_document_is_encoded_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids and bytes as in one piece."""
    text = (SONNET + "日本語 e\u0301\n") * 200
    whole = write(Path("whole"), FailingTokenizer("qwen2"), iter([text]))
    sizes = []
    encode_part = hf_encode._encode_part

    def remember(engine: hf_encode.Engine, text: str, begin: int, stop: int, place: int) -> hf_encode._Part:
        sizes.append(stop - begin)
        return encode_part(engine, text, begin, stop, place)

    monkeypatch.setattr(hf_encode, "_encode_part", remember)
    monkeypatch.setattr(hf_encode.encode_with_ends, "__kwdefaults__", {"window": 5000, "overlap": 500})
    shard = write(OUT, FailingTokenizer("qwen2"), iter([text]))
    assert len(sizes) > 40 and max(sizes) <= 6000
    assert np.array_equal(shard.read(0, len(shard)), whole.read(0, len(whole)))
    assert shard.byte_counts is not None and shard.byte_counts.read(0, len(shard)).sum() == len(text.encode())
