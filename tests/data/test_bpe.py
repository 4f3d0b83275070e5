"""Byte-pair encoding: training; tiktoken, `tokenizers` and `tokenizer.json` give the same ids."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from light_llm.data import Tokenizer, prepare_dataset, tokenizer_from_dict, tokenizer_hash
from light_llm.data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, train_bpe
from light_llm.data.tokenizer_json import from_tokenizer_json, to_tokenizer_json
from light_llm.data.tokenizers import decode, make_tokenizer
from light_llm.errors import CheckpointError, ConfigError

TEXT = (
    "The owl's egg isn't here, the owls' eggs aren't there: 1,234 naïve cafés — “日本語” \U0001f600!  \n\n\tAnd  so\r\n"
    " on. She sells sea-shells; see the shells she sees. aaaa aaa aa abcabcabc bcabca\n"
) * 9
BPE = train_bpe([TEXT], 420)
REFERENCE = Reference.from_str(json.dumps(to_tokenizer_json(BPE)))


def same(tokenizer: BytePairTokenizer, reference: Any, text: str) -> bool:
    return tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


@given(st.one_of(st.text(max_size=40), st.text(st.sampled_from(sorted(set(TEXT))), max_size=60)))
def test_every_text_has_the_ids_of_the_reference_and_decodes_to_itself(text: str) -> None:
    ids = BPE.encode(text)
    assert decode(BPE, ids) == text and BPE.separator not in ids
    assert same(BPE, REFERENCE, text)


def test_shakespeare_in_a_trained_vocabulary(offline_files: Path) -> None:
    play = (offline_files / "shakespeare.txt").read_text(encoding="utf-8")
    tokenizer = train_bpe([play[: len(play) * 9 // 10]], 4096)
    ids = tokenizer.encode(play)
    reference = Reference.from_str(json.dumps(to_tokenizer_json(tokenizer)))
    assert tokenizer.vocab_size == 4096 and ids == reference.encode(play).ids
    assert 3.1 < len(play.encode()) / len(ids) < 3.4  # bytes per token


def test_gpt2_written_as_tokenizer_json_has_gpt2s_ids(offline_files: Path) -> None:
    tokenizer = make_tokenizer("gpt2", "", offline=True)
    assert isinstance(tokenizer, GPT2Tokenizer)
    values = to_tokenizer_json(tokenizer)
    vocabulary = json.loads((offline_files / "gpt2/encoder.json").read_text())
    assert values["model"]["vocab"] | {SEPARATOR: 50256} == vocabulary
    reference = Reference.from_str(json.dumps(values))
    play = (offline_files / "shakespeare.txt").read_text(encoding="utf-8")[:200_000]
    assert same(tokenizer, reference, play) and same(tokenizer, reference, TEXT)
    assert from_tokenizer_json(values).encode(play) == tokenizer.encode(play)


def test_training_is_a_function_of_the_text() -> None:
    tokens = train_bpe([TEXT], 300).tokens
    assert tokens == train_bpe([TEXT], 300).tokens and len(tokens) == 300
    assert tokens[:299] == train_bpe([TEXT], 310).tokens[:299]  # smaller ids are trained first
    assert train_bpe([TEXT[i : i + 100] for i in range(0, len(TEXT), 100)], 300).vocab_size == 300


def test_ids_are_bytes_then_merges_then_the_separator() -> None:
    assert {BPE.token_bytes(i) for i in range(256)} == {bytes([b]) for b in range(256)}
    merged = [BPE.token_bytes(i) for i in range(256, BPE.separator)]
    assert BPE.separator == BPE.vocab_size - 1 and BPE.token_bytes(BPE.separator) == b""
    for i, token in enumerate(merged):
        earlier = {BPE.token_bytes(j) for j in range(256 + i)}
        assert any(token[:cut] in earlier and token[cut:] in earlier for cut in range(1, len(token)))


TOKENS = BPE.to_dict()["tokens"]


@pytest.mark.parametrize("tokens", [[["a"]], ["日"] * 300, TOKENS[1:], [*TOKENS, "a"], None])
def test_a_damaged_table_is_named(tokens: Any) -> None:
    with pytest.raises(CheckpointError, match="damaged tokenizer of kind 'bpe'"):
        tokenizer_from_dict(BPE.to_dict() | {"tokens": tokens})


# ---- sizes


def test_the_size_of_a_vocabulary(poem: Path) -> None:
    def made(spec: str) -> Tokenizer:
        return make_tokenizer(spec, "", lambda: [poem.read_text()])

    max_size = made("bpe").vocab_size
    assert 300 < max_size < 1000 and made(f"bpe:{max_size}").vocab_size == max_size  # a small text has few merges
    assert made("bpe:257").encode("é") == [BPE.tokens.index(byte) for byte in (b"\xc3", b"\xa9")]
    for size, message in (
        (str(max_size + 1), f"bpe:{max_size + 1} .* use bpe:{max_size} or less"),
        ("256", "256 .* 257; tokenizer=.byte."),
        *((size, f"bpe:{size} cannot be read") for size in ("", "x", "-3", "1e3")),
    ):
        with pytest.raises(ConfigError, match=message):
            made(f"bpe:{size}")


def test_only_the_training_split_is_used(poem: Path) -> None:
    poem.write_text(poem.read_text() + "zyzzyva " * 90)
    for held_out in (0.1, 0.001):
        _, tokenizer = prepare_dataset(str(poem), 16, "bpe", held_out=held_out)
        assert any(b"zyz" in tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)) == (held_out < 0.1)


def test_a_vocabulary_is_trained_once(poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    _, first = prepare_dataset(str(poem), 16, "bpe:300")
    (cached,) = (tmp_path / "cache" / "tokenizers").iterdir()
    age = cached.stat().st_mtime_ns
    _, second = prepare_dataset(str(poem), 16, "bpe:300")
    assert tokenizer_hash(first) == tokenizer_hash(second) and cached.stat().st_mtime_ns == age
    for damage in (b"{", cached.read_bytes().replace(b'"Z"', b'"\\u0158"')):  # the second is still a vocabulary
        cached.write_bytes(damage)
        dataset, third = prepare_dataset(str(poem), 16, "bpe:300")
        assert tokenizer_hash(first) == tokenizer_hash(third) and cached.stat().st_mtime_ns > age
        assert dataset.notes[0].startswith(f"the cached tokenizer {cached} is damaged")


# ---- files


def test_a_file_can_be_named(poem: Path) -> None:
    """Also one without a separator, which gets one."""
    for values in (to_tokenizer_json(BPE), to_tokenizer_json(BPE) | {"added_tokens": []}):
        Path("tokenizer.json").write_text(json.dumps(values))
        dataset, tokenizer = prepare_dataset(str(poem), 16, "tokenizer.json")
        assert tokenizer_hash(tokenizer) == tokenizer_hash(BPE) and dataset.config.tokenizer == "bpe"


def test_a_file_of_the_library_itself() -> None:
    """With special tokens first, as `tokenizers` writes them."""
    from tokenizers import models, pre_tokenizers, trainers

    reference = Reference(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    reference.train_from_iterator([TEXT], trainer)
    reference.save("library.json")
    ours = make_tokenizer("library.json", "")
    assert (ours.name, ours.separator, ours.vocab_size) == ("hf", 1, reference.get_vocab_size())
    assert same(ours, reference, TEXT) and ours.token_bytes(0) == ours.token_bytes(1) == b""


def changed(part: str, key: str, value: Any) -> str:
    values = to_tokenizer_json(BPE)
    values[part][key] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("model", "type", "WordPiece"), "cannot be used: .* tokenizer train"),
        (changed("pre_tokenizer", "type", "Blank"), "cannot be used: .* tokenizer train"),
        (None, "No such file.* tokenizer train"),
        ("{", "cannot be used: .*EOF.* tokenizer train"),
        ("[]", "cannot be used: .* tokenizer train"),
    ],
)
def test_a_file_that_cannot_be_used(text: str | None, message: str) -> None:
    if text is not None:
        Path("t.json").write_text(text)
    with pytest.raises(ConfigError, match=f"t.json.* {message}"):
        make_tokenizer("t.json", "")


MARK = "<|next-document|>"


@pytest.mark.parametrize(
    "chunks",
    [
        ["One text", " in two", None, "another", None, None, "a third <|endoftext|>", None],
        [None, "\ud800 a lone surrogate", None, "x"],
        [f"a text that says {MARK}\0 itself", None, MARK, "\0", None, MARK[:7], f"{MARK[7:]}\0"],
        [MARK, None, "\0", f"{MARK}\0"],
        [None],
        ["", None, ""],
    ],
)
def test_a_batch_has_the_ids_of_its_chunks(chunks: list[str | None]) -> None:
    tokenizer = train_bpe(["a text that says one text and another one"], 280)
    ids = [i for chunk in chunks for i in ([tokenizer.separator] if chunk is None else tokenizer.encode(chunk))]
    assert tokenizer.encode_batch(chunks).tolist() == ids
