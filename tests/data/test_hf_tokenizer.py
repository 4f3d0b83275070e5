"""Published tokenizers, of every kind: ids, decoded texts, streams and bytes, against transformers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from light_llm.data import hf_tokenizer
from light_llm.data.hf_encode import encode_long, encode_with_ends
from light_llm.data.hf_tiktoken import TiktokenEngine, find_encoding
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizer_file import read_tokenizer_json
from light_llm.data.tokenizers import decode, make_tokenizer, tokenizer_hash
from light_llm.errors import ConfigError, DataError
from tests.support.texts_in_scripts import SONNET, texts_in_scripts
from tests.support.tokenizer_checks import compare
from tests.support.tokenizer_kinds import KINDS, added, tokenizer_kind

EMOJI = "👩‍👩‍👧‍👦 日本 é"


@cache
def published(name: str) -> HuggingFaceTokenizer:
    kind = tokenizer_kind(name)
    return HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)


def changed(name: str, **parts: Any) -> HuggingFaceTokenizer:
    """Return a tokenizer with other parts of its tokenizer.json."""
    data = json.dumps(json.loads(tokenizer_kind(name).data) | parts).encode()
    return HuggingFaceTokenizer(data, separator=tokenizer_kind(name).eos)


@pytest.mark.parametrize("n", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_texts_in_20_scripts_are_as_in_transformers(name: str, n: int, tmp_path: Path) -> None:
    assert compare_with_transformers(name, n, tmp_path) == []


def compare_with_transformers(name: str, n: int, folder: Path) -> list[str]:
    """Return the differences from the tokenizer that `transformers` makes of the folder."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    for file, data in tokenizer_kind(name).files().items():
        (folder / file).write_bytes(data)
    # Two classes of transformers 5 make a tokenizer of their own instead of the one in the file: GPT2Tokenizer splits
    # no digits, and LlamaTokenizer puts no space before a text that begins with one.
    loader = PreTrainedTokenizerFast if name in ("smollm", "llama2") else AutoTokenizer
    return compare(published(name), loader.from_pretrained(folder), texts_in_scripts(n))


@pytest.mark.parametrize("name", KINDS)
def test_no_text_is_a_control_token(name: str) -> None:
    """Not even in a vocabulary that has the names, nor with spaces that a token would take."""
    tokenizer = published(name)
    names = [str(tokenizer.library.id_to_token(i)) for i in sorted(tokenizer.special_ids)]
    unknown = {i for i in tokenizer.special_ids if "unk" in str(tokenizer.library.id_to_token(i)).lower()}
    for text in (*names, "".join(names), " ".join(names), "a".join(names), "\n".join(names), f"  {names[0]}  "):
        assert not (tokenizer.special_ids - unknown) & {*tokenizer.encode(text)}, text


def test_special_tokens_that_take_spaces_or_are_normalized_are_text_too() -> None:
    n = tokenizer_kind("qwen2").vocab_size
    more = [added("<A>", n, lstrip=True, rstrip=True), added("<B>", n + 1, normalized=True)]
    tokenizer = changed("qwen2", added_tokens=[*json.loads(tokenizer_kind("qwen2").data)["added_tokens"], *more])
    for text in ("x <A> y", "<B>", "x<B>y", "x  <A>"):
        ids = tokenizer.encode(text)
        assert max(ids) < n and tokenizer.decode(ids) == text
    assert tokenizer.decode([n, n + 1]) == ""
    # Added tokens that are no control tokens are one id each, and have a text.
    (think,) = tokenizer.encode("<think>")
    assert tokenizer.token_bytes(think) == b"<think>" and tokenizer.decode([think]) == "<think>"


def test_settings_of_training_are_ignored() -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "<|endoftext|>"}
    model = json.loads(tokenizer_kind("gpt2").data)["model"] | {"dropout": 0.9}
    tokenizer = changed("gpt2", truncation=truncation, padding=padding, model=model)
    assert tokenizer.encode(SONNET) == published("gpt2").encode(SONNET)


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_never_shows_half_a_character(name: str) -> None:
    """Piece by piece as soon as a character is complete, also after a prompt."""
    tokenizer = published(name)
    for text in (EMOJI, f"To be {EMOJI} or", "thou art more lovely."):
        ids = tokenizer.encode(text)
        for cut in (0, 1, len(ids) // 2):
            stream = tokenizer.stream(after=ids[:cut])
            pieces = [*map(stream.push, ids[cut:]), stream.close()]
            whole, before = tokenizer.decode(ids), tokenizer.decode(ids[:cut])
            if whole.startswith(before):
                assert before + "".join(pieces) == whole
            assert "\ufffd" not in "".join(pieces) or "\ufffd" in whole or "\ufffd" in before
    ids = tokenizer.encode("thou art more lovely")
    stream = tokenizer.stream()
    shown = "".join(map(stream.push, ids))
    assert shown == tokenizer.decode(ids)  # nothing was held back until the end


def test_an_id_without_a_text_takes_no_space_away() -> None:
    """Llama's decoder strips the first space of a text: that of the second piece, if the first is empty."""
    kind = tokenizer_kind("llama2")
    tokenizer = HuggingFaceTokenizer(kind.data, separator=kind.vocab_size)
    ids = [*tokenizer.encode("thou"), kind.vocab_size, *tokenizer.encode("thou")]
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.close()]) == tokenizer.decode(ids) == "thou thou"


@pytest.mark.parametrize("name", KINDS)
def test_any_ids_stream_as_they_decode(name: str) -> None:
    """Broken characters, runs of bytes, special tokens: as a model without training writes them."""
    tokenizer, rng = published(name), np.random.default_rng(1)
    for _ in range(60):
        ids = rng.integers(0, tokenizer.vocab_size, size=rng.integers(1, 30)).tolist()
        stream = tokenizer.stream()
        pieces = [*map(stream.push, ids), stream.close()]
        assert "".join(pieces) == tokenizer.decode(ids) == decode(tokenizer, np.array(ids))
    with pytest.raises(DataError, match=f"0 ... {tokenizer.vocab_size - 1}"):
        tokenizer.decode([tokenizer.vocab_size])


@pytest.mark.parametrize(
    ("name", "text", "token"),
    [
        ("gpt2", " thou", " thou"),
        ("llama2", " thou", " thou"),
        ("gemma", " thou", " thou"),
        ("t5", "thou", " thou"),
        ("bert", "thou", " thou"),
        ("bert", "xing", "ing"),
    ],
)
def test_a_token_has_the_text_that_it_has_inside_a_text(name: str, text: str, token: str) -> None:
    tokenizer = published(name)
    assert tokenizer.token_bytes(tokenizer.encode(text)[-1]).decode() == token
    assert all(tokenizer.token_bytes(i) == b"" for i in tokenizer.special_ids)


def test_a_byte_token_is_its_byte() -> None:
    tokenizer = published("llama2")
    ids = tokenizer.encode("日")
    assert b"".join(map(tokenizer.token_bytes, ids[-3:])) == "日".encode()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen2", "cafe\u0301 A\u030a e\u0301\u0301"),  # NFC joins two characters
        ("llama2", "To be"),  # a space is put before
        ("bert", "  ÉCOLE  TO be 日 x"),  # lower case without accents; spaces dropped; unknown
        ("t5", "ﬁne  ½   日本"),  # NFKC, spaces joined, unknown
        ("smollm", "a\x00\x01b\x04"),  # bytes without a token are dropped
        ("smollm", "\x00"),
    ],
)
def test_the_bytes_of_a_text_are_counted_whatever_a_tokenizer_changes(name: str, text: str) -> None:
    tokenizer = published(name)
    ids, n_bytes = tokenizer.encode_aligned(text)
    assert ids == tokenizer.encode(text) and len(ids) == len(n_bytes)
    assert sum(n_bytes) == (len(text.encode()) if ids else 0) and min(n_bytes, default=0) >= 0
    batch, counts = tokenizer.encode_batch_aligned([None, text, None])
    assert batch.tolist() == tokenizer.encode_batch([None, text, None]).tolist()
    assert int(counts.sum()) == len(text.encode())


def test_bytes_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(texts_in_scripts(60))
    whole = published("qwen2").encode_aligned(text)
    for size in (1, 7, 1000):
        monkeypatch.setattr(hf_tokenizer, "BLOCK_CHARS", size)
        assert published("qwen2").encode_aligned(text) == whole
    assert sum(whole[1]) == len(text.encode())


def test_where_ids_tell_the_bytes() -> None:
    """A byte-level BPE without a normalizer: no counts need to be stored."""
    for name in KINDS:
        assert published(name).needs_byte_counts == (name not in ("gpt2", "llama3"))
    tokenizer = published("llama3")
    for text in texts_in_scripts(60):
        ids, n_bytes = tokenizer.encode_aligned(text)
        assert sum(n_bytes) == sum(len(tokenizer.token_bytes(i)) for i in ids) == len(text.encode())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("text", [SONNET * 3, "a" * 3000, " " * 3000, "日本" * 900, "x\n" * 900 + "\r\n  y" * 300])
def test_long_texts_have_the_ids_of_the_whole(name: str, text: str) -> None:
    """Windows of 250 characters, joined where two agree, against the text in one piece."""
    engine = published(name)._encoder
    whole = engine.library.encode(text, add_special_tokens=False)
    ids, ends = encode_with_ends(engine, text, window=250, overlap=60)
    assert ids.tolist() == whole.ids and ends.tolist() == [end for _, end in whole.offsets]
    assert encode_long(engine, text, window=250, overlap=60).tolist() == whole.ids


@pytest.mark.parametrize("name", [name for name in KINDS if name != "gpt2"])
def test_tiktoken_runs_what_it_is_proven_to_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = HuggingFaceTokenizer(tokenizer_kind(name).data, separator=tokenizer_kind(name).eos)
    monkeypatch.setattr(hf_tokenizer, "TIKTOKEN_CHARS", 0)
    texts = texts_in_scripts(100)
    batch = tokenizer.encode_batch([*texts, None, "日" * 6000, " " * 6000])
    assert batch.tolist() == [
        i
        for text in (*texts, None, "日" * 6000, " " * 6000)
        for i in ([tokenizer.separator] if text is None else tokenizer.encode(text))
    ]
    assert isinstance(tokenizer._engine_for(1), TiktokenEngine) == (name == "llama3")
    if name == "llama3":
        for text in (SONNET * 3, "日本 語" * 400, "é\n" * 900, "a" * 3000):
            ids = encode_long(tokenizer._engine_for(1), text, window=250, overlap=60)
            assert ids.tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("change", ["other order", "fewer merges", "other pattern", "word by word"])
def test_tiktoken_is_not_used_where_its_ids_differ(change: str) -> None:
    """Each of them is found: by the order of merges, by their results, and by texts that it would encode otherwise."""
    values = json.loads(tokenizer_kind("llama3").data)
    model, split = values["model"], values["pre_tokenizer"]["pretokenizers"][0]
    if change == "other order":
        model["merges"] = model["merges"][::-1]
    elif change == "fewer merges":
        model["merges"] = model["merges"][:-9]
    elif change == "other pattern":
        split["behavior"] = "MergedWithNext"
    else:  # a token that its own merges do not reach: "the" is made of "t" and "he", and "th" is merged first
        level = tokenizer_kind("gpt2").data
        joins = [["\u0120", "t"], ["e", "t"], ["t", "h"], ["h", "e"], ["t", "he"]]
        values = json.loads(level)
        vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        vocab |= {"".join(join): 256 + i for i, join in enumerate(joins)}
        values["model"] |= {"vocab": vocab | {"<|endoftext|>": 261}, "merges": joins}
        values["added_tokens"][0]["id"] = 261
    data = json.dumps(values).encode()
    tokenizer = HuggingFaceTokenizer(data, separator=tokenizer_kind("llama3").eos if change != "word by word" else 261)
    assert find_encoding(tokenizer.library, data) is None


def test_a_surrogate_becomes_the_replacement_character() -> None:
    for name in ("llama3", "llama2", "qwen2"):
        tokenizer = published(name)
        assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
        assert sum(tokenizer.encode_aligned("a\ud800b")[1]) == 5


def test_between_documents() -> None:
    """Separator and BOS; one id where they are the same; EOS that the tokenizer adds itself is not doubled."""
    breaks = {name: published(name).document_break for name in KINDS}
    assert breaks["llama3"] == [621, 620] and breaks["gpt2"] == [600] and breaks["t5"] == [1]
    assert breaks["llama2"] == [2, 1] and breaks["gemma"] == [1, 2] and breaks["bert"] == [3, 2]
    same = HuggingFaceTokenizer(tokenizer_kind("gpt_neox").data, separator=0, prefix=[0])
    assert same.document_break == [0]


def test_a_file_can_be_named_for_training(tmp_path: Path) -> None:
    for name in KINDS:
        kind = tokenizer_kind(name)
        (tmp_path / f"{name}.json").write_bytes(kind.data)
        tokenizer = make_tokenizer(str(tmp_path / f"{name}.json"))
        assert isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.prefix == kind.prefix
    (tmp_path / "ends.json").write_bytes(
        json.dumps(json.loads(tokenizer_kind("gpt2").data) | {"added_tokens": []}).encode()
    )
    tokenizer = make_tokenizer(str(tmp_path / "ends.json"))
    assert tokenizer.separator == 601 and tokenizer.vocab_size == 602 and tokenizer.decode([601]) == ""


def test_the_hash_covers_the_bytes_of_the_file() -> None:
    kind = tokenizer_kind("gpt2")
    one, two = (HuggingFaceTokenizer(data, separator=600) for data in (kind.data, kind.data + b"\n"))
    assert tokenizer_hash(one) != tokenizer_hash(two)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 3_000_000, b'{"model": {"type": "BPE"}}'])
def test_what_the_library_cannot_use_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"t\.json cannot be used"):
        read_tokenizer_json(data, "t.json")


def test_no_pipeline_of_the_library_is_refused() -> None:
    """Parts that no published model here has: word level, digits alone, white space, no decoder."""
    from tokenizers import decoders, models, normalizers

    vocab = {word: i for i, word in enumerate(["<unk>", "to", "be", "or", "not", "1", "2", ","])}
    library = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    for decoder in (None, decoders.BPEDecoder(), decoders.CTC(), decoders.Replace("o", "0")):
        if decoder is not None:
            library.decoder = decoder
        tokenizer = read_tokenizer_json(library.to_str().encode(), "t.json")
        text = "  To be, or not to be 122 x "
        ids, n_bytes = tokenizer.encode_aligned(text)
        assert ids == [1, 2, 7, 3, 4, 1, 2, 5, 6, 6, 0] and sum(n_bytes) == len(text)
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.close()]) == tokenizer.decode(ids) == library.decode(ids)
