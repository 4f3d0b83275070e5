"""Tokenizers: exact ids, round trips, complete characters."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_llm.data.bpe import GPT2Tokenizer, train_bpe
from light_llm.data.text_stream import split_at_word_boundaries
from light_llm.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    StreamingDecoder,
    Tokenizer,
    byte_lengths,
    decode,
    make_tokenizer,
    start_ids,
    tokenizer_from_dict,
    tokenizer_hash,
)
from light_llm.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def gpt2(offline_files: Path) -> GPT2Tokenizer:
    return GPT2Tokenizer((offline_files / "gpt2" / "vocab.bpe").read_text(encoding="utf-8"))


def test_gpt2_is_the_reference(gpt2: GPT2Tokenizer, offline_files: Path) -> None:
    """Against the tokenizers library with the published encoder.json."""
    assert (gpt2.vocab_size, gpt2.separator, gpt2.encode("Hello world")) == (50257, 50256, [15496, 995])
    from tokenizers import Tokenizer as Reference
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    reference = Reference(
        BPE.from_file(*(str(offline_files / "gpt2" / name) for name in ("encoder.json", "vocab.bpe")))
    )
    reference.pre_tokenizer = ByteLevel(add_prefix_space=False)
    mixed = (
        "I'm we'll THEY'RE 'tis  two  spaces\n\n\ttabs\r\nand 12345 numbers, 3.14!? naïve café über 日本語"
        " \U0001f600\U0001f469\u200d\U0001f680 "
        "\u00a0nbsp\u2003em \u3000wide \x00nul \x1c\x85 x\u0301 --- ... \n \n  end   "
    )
    for text in (mixed, (offline_files / "shakespeare.txt").read_text(encoding="utf-8")[:200_000]):
        assert gpt2.encode(text) == reference.encode(text, add_special_tokens=False).ids


@settings(max_examples=200)
@given(st.text(), st.integers(1, 6))
def test_chunks_have_the_ids_of_the_text(gpt2: GPT2Tokenizer, text: str, size: int) -> None:
    chunks = (text[i : i + size] for i in range(0, len(text), size))
    assert [i for chunk in split_at_word_boundaries(chunks) for i in gpt2.encode(chunk)] == gpt2.encode(text)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(gpt2: GPT2Tokenizer, text: str) -> None:
    for tokenizer in (gpt2, ByteTokenizer(), CharTokenizer("".join(sorted(set(text))))):
        ids = tokenizer.encode(text)
        assert decode(tokenizer, ids) == text
        assert sum(len(tokenizer.token_bytes(i)) for i in ids) == len(text.encode())
        assert tokenizer is gpt2 or sum(byte_lengths(tokenizer)[i] for i in ids) == len(text.encode())
        assert tokenizer.separator not in ids


@given(st.lists(st.integers(0, 255), max_size=30))
def test_a_stream_gives_the_decoded_text(ids: list[int]) -> None:
    tokenizer = ByteTokenizer()
    stream = StreamingDecoder(tokenizer)
    assert "".join([*(stream.push(i) for i in ids), stream.close()]) == decode(tokenizer, ids)


def test_plain_values_and_hash(gpt2: GPT2Tokenizer) -> None:
    tokenizers: list[Tokenizer] = [gpt2, ByteTokenizer(), CharTokenizer("abc"), train_bpe(["abc " * 9], 260)]
    for tokenizer in tokenizers:
        again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
        assert again.encode("abc") == tokenizer.encode("abc") and again.vocab_size == tokenizer.vocab_size
        assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    others: list[Tokenizer] = [CharTokenizer("abd"), train_bpe(["abc " * 9], 259)]
    assert len({tokenizer_hash(tokenizer) for tokenizer in [*tokenizers, *others]}) == 6
    with pytest.raises(CheckpointError, match="'morse'; this light-llm knows gpt2, bpe, byte, char"):
        tokenizer_from_dict({"kind": "morse"})


def test_an_unknown_character_or_tokenizer_is_named() -> None:
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\) .* 3 characters"):
        CharTokenizer("abc").encode("abé")
    with pytest.raises(ConfigError, match=r"'gpt-2'; did you mean gpt2\?"):
        make_tokenizer("gpt-2", "abc")


def test_gpt2_is_found_in_the_cache_of_tiktoken(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, offline_files: Path
) -> None:
    """tiktoken names the file by the SHA-1 of its address; without it, the error says where to put the file."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(empty_cache))
    with pytest.raises(DataError, match=r"gpt2/vocab.bpe .* \(SHA-256 1ce16647"):
        make_tokenizer("gpt2", "", offline=True)
    empty_cache.mkdir()
    shutil.copy(offline_files / "gpt2/vocab.bpe", empty_cache / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
    assert make_tokenizer("gpt2", "", offline=True).vocab_size == 50257


def test_where_an_empty_prompt_starts() -> None:
    assert start_ids(ByteTokenizer(), knows_separator=True) == [256]
    assert start_ids(ByteTokenizer(), knows_separator=False) == [10]
    assert start_ids(CharTokenizer("ab"), knows_separator=False) == [0]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(" aé日"), train_bpe(["aé日 aé日"], 262)])
def test_decode_takes_what_holds_ids(tokenizer: Tokenizer) -> None:
    text = "é日 a日"
    ids = tokenizer.encode(text)
    given = (ids, tuple(ids), iter(ids), np.array(ids, np.uint16), torch.tensor(ids), [torch.tensor(i) for i in ids])
    assert [tokenizer.decode(each) for each in given] == [text] * len(given)
    assert tokenizer.decode([]) == tokenizer.decode(tokenizer.separator) == ""
    assert (
        tokenizer.decode(np.int64(tokenizer.encode("a")[0]))
        == tokenizer.decode(torch.tensor(tokenizer.encode("a")[0]))
        == "a"
    )
    wrongs: tuple[Any, ...] = ([tokenizer.vocab_size], [-1], [True], [0.0], torch.zeros(2), "12")
    for wrong in wrongs:
        with pytest.raises(
            DataError, match=f"is not a token id; this tokenizer has the ids 0 ... {tokenizer.vocab_size - 1}"
        ):
            tokenizer.decode(wrong)
    for rows in ([ids, ids], torch.tensor([ids])):
        with pytest.raises(DataError, match="decode the rows of a batch one by one"):
            tokenizer.decode(rows)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="None has no token ids"):
        tokenizer.decode(None)  # type: ignore[arg-type]


def test_half_a_character_becomes_the_replacement_character() -> None:
    ids = ByteTokenizer().encode("a日b")
    assert ByteTokenizer().decode(ids[:2]) == ByteTokenizer().decode(ids[:3]) == "a\ufffd"
    assert ByteTokenizer().decode([*ids[:3], ids[-1]]) == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "message"),
    [(["a"], "one text at a time"), (b"a", r'\.decode\("utf-8"\)'), (None, "has the type NoneType"), (5, "int")],
)
def test_only_a_text_is_encoded(text: Any, message: str) -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer("a"), train_bpe(["aa"], 257)):
        with pytest.raises(ConfigError, match=f"{message}"):
            tokenizer.encode(text)
