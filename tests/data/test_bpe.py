"""Byte-pair encoding: what is learnt, and that tiktoken, `tokenizers` and `tokenizer.json` give the same ids."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from light_llm.data import prepare_dataset, tokenizer_from_dict, tokenizer_hash
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
def test_every_text_has_the_ids_of_the_reference_and_comes_back(text: str) -> None:
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
    assert values["model"]["vocab"] | {SEPARATOR: 50256} == json.loads(
        (offline_files / "gpt2/encoder.json").read_text()
    )
    reference = Reference.from_str(json.dumps(values))
    play = (offline_files / "shakespeare.txt").read_text(encoding="utf-8")[:200_000]
    assert same(tokenizer, reference, play) and same(tokenizer, reference, TEXT)
    assert from_tokenizer_json(values, "x").encode(play) == tokenizer.encode(play)


def test_learning_is_a_function_of_the_text() -> None:
    pieces = [TEXT[i : i + 100] for i in range(0, len(TEXT), 100)]
    assert train_bpe([TEXT], 300).tokens == train_bpe([TEXT], 300).tokens
    assert train_bpe(pieces, 300).vocab_size == 300
    assert train_bpe([TEXT], 300).tokens[:299] == train_bpe([TEXT], 310).tokens[:299]  # smaller ids are learnt first


def test_ids_are_bytes_then_joins_then_the_separator() -> None:
    assert {BPE.token_bytes(i) for i in range(256)} == {bytes([b]) for b in range(256)}
    joined = [BPE.token_bytes(i) for i in range(256, BPE.separator)]
    assert BPE.separator == BPE.vocab_size - 1 and BPE.token_bytes(BPE.separator) == b""
    for i, token in enumerate(joined):
        earlier = {BPE.token_bytes(j) for j in range(256 + i)}
        assert any(token[:cut] in earlier and token[cut:] in earlier for cut in range(1, len(token)))


def test_special_text_is_ordinary() -> None:
    for text in (SEPARATOR, f"a{SEPARATOR}b", "<|user|>"):
        assert BPE.separator not in BPE.encode(text) and decode(BPE, BPE.encode(text)) == text


def test_plain_form_and_hash() -> None:
    again = tokenizer_from_dict(json.loads(json.dumps(BPE.to_dict())))
    assert again.encode(TEXT) == BPE.encode(TEXT) and tokenizer_hash(again) == tokenizer_hash(BPE)
    assert tokenizer_hash(train_bpe([TEXT], 300)) != tokenizer_hash(BPE)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": [["a"]]},
        {"tokens": ["日"] * 300},
        {"tokens": BPE.to_dict()["tokens"][1:]},
        {"tokens": [*BPE.to_dict()["tokens"], "a"]},
        {"tokens": None},
    ],
)
def test_a_damaged_table_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="the model file has a damaged tokenizer of kind 'bpe'"):
        tokenizer_from_dict(BPE.to_dict() | change)


# ---- sizes


def test_a_size_too_small_or_too_large_for_the_text(poem: Path) -> None:
    text = poem.read_text()
    most = train_bpe([text], 4096).vocab_size
    assert 300 < most < 1000  # a small text has no more joins to learn
    assert make_tokenizer("bpe", "", lambda: [text]).vocab_size == most
    assert make_tokenizer(f"bpe:{most}", "", lambda: [text]).vocab_size == most
    with pytest.raises(ConfigError, match=rf"bpe:{most + 1} is more than this text gives: .* use bpe:{most} or less"):
        make_tokenizer(f"bpe:{most + 1}", "", lambda: [text])
    with pytest.raises(ConfigError, match="a vocabulary of 256 ids cannot be trained: .* are 257; --tokenizer byte"):
        make_tokenizer("bpe:256", "", lambda: [text])
    assert make_tokenizer("bpe:257", "", lambda: [text]).encode("é") == [
        BPE.tokens.index(b) for b in (b"\xc3", b"\xa9")
    ]
    for size in ("", "x", "-3", "1e3"):
        with pytest.raises(ConfigError, match=f"bpe:{size} cannot be read; write the number of ids after the colon"):
            make_tokenizer(f"bpe:{size}", "", lambda: [text])


def test_only_the_training_split_is_learnt_from(poem: Path) -> None:
    poem.write_text(poem.read_text() + "zyzzyva " * 90)
    _, tokenizer = prepare_dataset(str(poem), 16, "bpe")
    assert not any(b"zyz" in tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
    _, tokenizer = prepare_dataset(str(poem), 16, "bpe", held_out=0.001)
    assert any(b"zyz" in tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))


def test_a_vocabulary_is_learnt_once(poem: Path, shared_cache: Path) -> None:
    _, first = prepare_dataset(str(poem), 16, "bpe:300")
    kept = max((shared_cache / "tokenizers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    age = kept.stat().st_mtime_ns
    _, second = prepare_dataset(str(poem), 16, "bpe:300")
    assert tokenizer_hash(first) == tokenizer_hash(second) and kept.stat().st_mtime_ns == age
    for damage in (b"{", kept.read_bytes().replace(b'"Z"', b'"\\u0158"')):  # the second is a vocabulary all the same
        kept.write_bytes(damage)
        dataset, third = prepare_dataset(str(poem), 16, "bpe:300")
        assert tokenizer_hash(first) == tokenizer_hash(third) and kept.stat().st_mtime_ns > age
        assert dataset.notes[0].startswith(f"the tokenizer kept at {kept} is damaged")


# ---- files


def test_a_file_can_be_named(tmp_path: Path, poem: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(BPE)))
    dataset, tokenizer = prepare_dataset(str(poem), 16, "tokenizer.json")
    assert tokenizer_hash(tokenizer) == tokenizer_hash(BPE) and dataset.config.tokenizer == "bpe"


def test_a_file_of_the_library_itself(tmp_path: Path) -> None:
    """As `tokenizers` writes it when special tokens are asked for first."""
    from tokenizers import models, pre_tokenizers, trainers

    learner = Reference(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    learner.train_from_iterator([TEXT], trainer)
    learner.save(str(tmp_path / "theirs.json"))
    tokenizer = make_tokenizer(str(tmp_path / "theirs.json"), "")
    assert (
        isinstance(tokenizer, BytePairTokenizer)
        and tokenizer.separator == 1
        and tokenizer.vocab_size == learner.get_vocab_size()
    )
    assert same(tokenizer, learner, TEXT)
    assert tokenizer.token_bytes(0) == tokenizer.token_bytes(1) == b""


@pytest.mark.parametrize(
    "path",
    [
        ("model", "type", "WordPiece"),
        ("pre_tokenizer", "add_prefix_space", True),
        ("pre_tokenizer", "type", "Whitespace"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, path: tuple[str, str, Any]) -> None:
    values = to_tokenizer_json(BPE)
    values[path[0]][path[1]] = path[2]
    (tmp_path / "t.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"t.json is not a byte-level BPE with GPT-2's pattern.* tokenizer train"):
        make_tokenizer("t.json", "")


def test_a_file_with_another_order_is_refused(tmp_path: Path) -> None:
    values = to_tokenizer_json(BPE)
    values["model"]["merges"].reverse()
    (tmp_path / "t.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="t.json: its joins are not in the order of its ids"):
        make_tokenizer("t.json", "")


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "No such file"), ("{", "it is not JSON"), ("[]", "is not a byte-l")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"t.json .*{reason}.* light-llm tokenizer train"):
        make_tokenizer("t.json", "")


def test_a_table_without_a_separator_gets_one(tmp_path: Path) -> None:
    values = to_tokenizer_json(BPE) | {"added_tokens": []}
    tokenizer = from_tokenizer_json(values, "t.json")
    assert (tokenizer.separator, tokenizer.vocab_size) == (BPE.separator, BPE.vocab_size)


@pytest.mark.parametrize(
    "stretches",
    [
        ["One text", " in two", None, "another", None, None, "a third <|endoftext|>", None],
        [None, "\ud800 a lone surrogate", None, "x"],
        [
            "a text that says <|next-document|>\0 itself",
            None,
            "<|next-document|>",
            "\0",
            None,
            "<|next-",
            "document|>\0",
        ],
        ["<|next-document|>", None, "\0", "<|next-document|>\0"],
        [None],
        ["", None, ""],
    ],
)
def test_many_at_once_are_as_one_by_one(stretches: list[str | None]) -> None:
    """The fast way's twin is `encode`, text by text, whatever the texts say."""
    tokenizer = train_bpe(["a text that says one text and another one"], 280)
    one_by_one = [i for text in stretches for i in ([tokenizer.separator] if text is None else tokenizer.encode(text))]
    assert tokenizer.encode_batch(stretches).tolist() == one_by_one
