"""Tokenizers: exact ids, round trips, no special text, no half characters."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_llm.data.text_stream import split_at_word_boundaries
from light_llm.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
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


def test_gpt2_has_gpt2s_ids(gpt2: GPT2Tokenizer) -> None:
    assert (gpt2.vocab_size, gpt2.separator) == (50257, 50256)
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(" the") == [262] and gpt2.encode("\n") == [198]


def test_gpt2_is_the_reference(gpt2: GPT2Tokenizer, offline_files: Path) -> None:
    """Against the tokenizers library with the published encoder.json, on a text with everything in it."""
    from tokenizers import Tokenizer as Theirs
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    files = (str(offline_files / "gpt2" / "encoder.json"), str(offline_files / "gpt2" / "vocab.bpe"))
    theirs = Theirs(BPE.from_file(*files))
    theirs.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text = (
        "I'm we'll THEY'RE 'tis  two  spaces\n\n\ttabs\r\nand 12345 numbers, 3.14!? naïve café über 日本語"
        " \U0001f600\U0001f469\u200d\U0001f680 "
        "\u00a0nbsp\u2003em \u3000wide \x00nul \x1c\x85 x\u0301 --- ... \n \n  end   "
    )
    assert gpt2.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    play = (offline_files / "shakespeare.txt").read_text(encoding="utf-8")[:200_000]
    assert gpt2.encode(play) == theirs.encode(play, add_special_tokens=False).ids


@settings(max_examples=200)
@given(st.text(), st.integers(1, 6))
def test_pieces_have_the_ids_of_the_whole(gpt2: GPT2Tokenizer, text: str, size: int) -> None:
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    assert [i for piece in split_at_word_boundaries(pieces) for i in gpt2.encode(piece)] == gpt2.encode(text)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(gpt2: GPT2Tokenizer, text: str) -> None:
    for tokenizer in (gpt2, ByteTokenizer(), CharTokenizer("".join(sorted(set(text))))):
        ids = tokenizer.encode(text)
        assert decode(tokenizer, ids) == text
        lengths = byte_lengths(tokenizer) if tokenizer.vocab_size < 1000 else None
        n_bytes = sum(lengths[i] for i in ids) if lengths else sum(len(tokenizer.token_bytes(i)) for i in ids)
        assert n_bytes == len(text.encode())
        assert tokenizer.separator not in ids


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user"])
def test_special_text_is_ordinary(gpt2: GPT2Tokenizer, text: str) -> None:
    ids = gpt2.encode(text)
    assert gpt2.separator not in ids and len(ids) > 3 and decode(gpt2, ids) == text


@given(st.lists(st.integers(0, 255), max_size=30))
def test_a_stream_says_what_decoding_says(ids: list[int]) -> None:
    """Any bytes at all: joined pieces are the whole, and no piece ends in half a character."""
    tokenizer = ByteTokenizer()
    stream = StreamingDecoder(tokenizer)
    pieces = [stream.push(i) for i in ids] + [stream.close()]
    assert "".join(pieces) == decode(tokenizer, ids)


def test_a_stream_waits_for_the_whole_character(gpt2: GPT2Tokenizer) -> None:
    stream = StreamingDecoder(gpt2)
    pieces = [stream.push(i) for i in gpt2.encode("日")]
    assert len(pieces) > 1 and pieces[-1] == "日" and not any(pieces[:-1])


def test_lone_surrogates_do_not_crash(gpt2: GPT2Tokenizer) -> None:
    for tokenizer in (gpt2, ByteTokenizer()):
        assert decode(tokenizer, tokenizer.encode("a\ud800b")).startswith("a")


def test_a_million_equal_characters(gpt2: GPT2Tokenizer) -> None:
    for character in "^a ":
        pieces = split_at_word_boundaries(iter([character * 300_000]))
        ids = [i for piece in pieces for i in gpt2.encode(piece)]
        assert decode(gpt2, ids) == character * 300_000


def test_plain_form_and_hash(gpt2: GPT2Tokenizer) -> None:
    tokenizers: list[Tokenizer] = [gpt2, ByteTokenizer(), CharTokenizer("abc")]
    for tokenizer in tokenizers:
        again = tokenizer_from_dict(tokenizer.to_dict())
        assert again.encode("abc") == tokenizer.encode("abc") and again.vocab_size == tokenizer.vocab_size
        assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    assert len({tokenizer_hash(t) for t in [*tokenizers, CharTokenizer("abd")]}) == 4
    with pytest.raises(CheckpointError, match="tokenizer of kind 'morse'; this light-llm knows gpt2, bpe, byte, char"):
        tokenizer_from_dict({"kind": "morse"})


def test_char_names_the_unknown_character() -> None:
    with pytest.raises(DataError, match=r"character 'é' \(U\+00E9\) is not in the alphabet of 3 characters"):
        CharTokenizer("abc").encode("abé")


def test_an_unknown_tokenizer_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer 'gpt-2'; did you mean gpt2\? The tokenizers are"):
        make_tokenizer("gpt-2", "abc")


def test_gpt2_without_its_vocabulary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "offline"))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    with pytest.raises(DataError, match=r"gpt2/vocab.bpe is not on this machine .* put the file \(SHA-256 1ce16647"):
        make_tokenizer("gpt2", "", offline=True)


def test_gpt2_is_found_in_tiktokens_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline_files: Path) -> None:
    """Under the name tiktoken gives it: the SHA-1 of its address."""
    (tmp_path / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee").write_bytes(
        (offline_files / "gpt2" / "vocab.bpe").read_bytes()
    )
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert make_tokenizer("gpt2", "", offline=True).vocab_size == 50257


def test_where_an_empty_prompt_starts() -> None:
    assert start_ids(ByteTokenizer(), knows_separator=True) == [256]
    assert start_ids(ByteTokenizer(), knows_separator=False) == [10]
    assert start_ids(CharTokenizer("ab"), knows_separator=False) == [0]
