"""SentencePiece's tokenizer.model as a tokenizer.json: the ids and texts of the package `sentencepiece`, and bad files.

The models and what the package makes of the texts are recorded: see tests/support/sentencepiece_models.py.
"""

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from light_llm.errors import CheckpointError
from light_llm.interop.import_tokenizer import named_tokenizer, read_tokenizer
from light_llm.interop.sentencepiece_json import CONTROL, NORMAL, merges_by_score
from light_llm.interop.sentencepiece_model import read_sentencepiece, tokenizer_json_from_sentencepiece
from tests.support.sentencepiece_models import ALL_TEXTS, FILE, MODELS


@cache
def recorded() -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return values


def model(name: str) -> bytes:
    return base64.b64decode(recorded()[name]["model"])


def library(data: bytes) -> Tokenizer:
    made = Tokenizer.from_str(data.decode())
    made.encode_special_tokens = True
    return made


@pytest.mark.parametrize("name", MODELS)
def test_ids_and_texts_are_sentencepieces(name: str) -> None:
    tokenizer, unknown = (
        library(tokenizer_json_from_sentencepiece(model(name))),
        read_sentencepiece(model(name)).unknown,
    )
    for text, ids, decoded in zip(ALL_TEXTS, recorded()[name]["ids"], recorded()[name]["decoded"], strict=True):
        assert tokenizer.encode(text).ids == ids, text
        # SentencePiece shows an unknown token as two question marks.
        if unknown not in ids:
            assert tokenizer.decode(ids) == decoded, text


def test_texts_cover_what_the_models_do() -> None:
    ids = {name: dict(zip(ALL_TEXTS, rows["ids"], strict=True)) for name, rows in recorded().items()}
    models = {name: read_sentencepiece(model(name)) for name in MODELS}
    # Line breaks are bytes for one and replaced for another; the zero width space is dropped there.
    assert [models["Llama"].types[i] for i in ids["Llama"]["\n"]][-1] == 6 and ids["T5"]["\n"] == []
    assert any(models["Gemma"].types[i] == 4 for i in ids["Gemma"]["a<mask>b"])
    for name, m in models.items():
        special = {m.bos, m.eos, m.padding} - {None}
        assert not any(special & set(row) for row in ids[name].values())


def test_special_ids_are_the_models_and_are_added_on_request() -> None:
    llama, t5 = read_sentencepiece(model("Llama")), read_sentencepiece(model("T5"))
    assert (llama.bos, llama.eos, llama.unknown, llama.padding) == (1, 2, 0, None)
    assert (t5.bos, t5.eos, t5.unknown, t5.padding) == (None, 1, 2, 0)
    tokenizer = library(tokenizer_json_from_sentencepiece(model("Llama"), add_bos=True, add_eos=True))
    plain = tokenizer.encode("a b", add_special_tokens=False).ids
    assert tokenizer.encode("a b").ids == [1, *plain, 2] and tokenizer.decode([1, *plain, 2]) == "a b"
    with pytest.raises(CheckpointError, match="bos_id"):
        tokenizer_json_from_sentencepiece(model("T5"), add_bos=True)


def test_merges_are_all_pairs_that_make_a_token_by_its_score() -> None:
    tokens, types = ["a", "b", "ab", "abb", "ba", "</s>", "<", "/s>"], [NORMAL] * 5 + [CONTROL, NORMAL, NORMAL]
    assert merges_by_score(tokens, [0, 0, -2, -3, -1, 0, 0, 0], types) == [["b", "a"], ["a", "b"], ["ab", "b"]]
    # Equal scores: what has grown at the left grows first, as the leftmost pair does.
    runs = ["_" * n for n in range(1, 5)]
    assert merges_by_score(runs, [-9.0] * 4, [NORMAL] * 4)[:2] == [["___", "_"], ["__", "_"]]


def a_folder(path: Path, name: str, config: dict[str, Any] | None = None) -> Path:
    (path / "tokenizer.model").write_bytes(model(name))
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("name", "config", "before", "after"),
    [
        ("Llama", None, (1,), ()),
        ("Llama", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": True}, (), (2,)),
        ("Gemma", {"tokenizer_class": "GemmaTokenizer"}, (1,), ()),
        ("T5", {"tokenizer_class": "T5Tokenizer"}, (), (1,)),
    ],
)
def test_a_folder_with_tokenizer_model_alone(
    tmp_path: Path, name: str, config: Any, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    eos = read_sentencepiece(model(name)).eos
    tokenizer = read_tokenizer(a_folder(tmp_path, name, config), "", {"eos_token_id": eos})
    assert tokenizer and (tokenizer.prefix, tokenizer.suffix, tokenizer.separator) == (before, after, eos)
    assert [tokenizer.encode(text) for text in ALL_TEXTS] == recorded()[name]["ids"]


def test_tokens_that_other_files_add_to_tokenizer_model(tmp_path: Path) -> None:
    n = len(read_sentencepiece(model("Llama")).tokens)
    added = {str(n): {"content": "<|turn|>", "special": True}, str(n + 1): {"content": "<tool>", "special": False}}
    folder = a_folder(tmp_path, "Llama", {"added_tokens_decoder": {"2": {"content": "</s>"}} | added})
    tokenizer = read_tokenizer(folder, "", {"eos_token_id": [2, n]})
    assert tokenizer and tokenizer.vocab_size == n + 2 and tokenizer.stop_ids == (2, n)
    assert tokenizer.encode("a<tool>")[-1] == n + 1 and n not in tokenizer.encode("<|turn|>")
    assert tokenizer.decode([n, n + 1]) == "<tool>"
    # A gap, and a token of the model once more.
    for wrong in ({str(n + 1): {"content": "x"}}, {str(n): {"content": "</s>"}}):
        with pytest.raises(CheckpointError, match="added token"):
            read_tokenizer(a_folder(tmp_path, "Llama", {"added_tokens_decoder": wrong}), "", {"eos_token_id": 2})


def test_tokenizer_model_can_be_named_for_an_import(tmp_path: Path) -> None:
    path = a_folder(tmp_path, "Llama") / "tokenizer.model"
    tokenizer, converted = named_tokenizer(str(path)), tokenizer_json_from_sentencepiece(path.read_bytes())
    assert tokenizer.separator == 2 and tokenizer.encode("a b") == library(converted).encode("a b").ids


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128 * (n > 127)]) + (varint(n >> 7) if n > 127 else b"")


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: bytes, type_: int = 1) -> bytes:
    return field(1, field(1, text) + field(3, type_))


PIECES = piece(b"<unk>", 2) + piece(b"<s>", 3) + piece(b"a")
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 pieces"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "field"),
    "cut": (PIECES[:-1], "field of"),
    "a length beyond the file": (PIECES + varint(1 << 3 | 2) + varint(1 << 62), "4,611,686,018,427,387,904"),
    "a number without an end": (PIECES + b"\x80" * 20, "ten bytes"),
    "a number that is cut": (PIECES + b"\x80", "middle"),
    "a piece twice": (PIECES + piece(b"a"), "twice"),
    "a piece without text": (PIECES + field(1, field(3, 1)), "no text"),
    "a piece that is no text": (PIECES + piece(b"\xff"), "0xff"),
    "a piece that is a number": (PIECES + field(1, 7), "field 1"),
    "a score that is infinite": (PIECES + field(1, field(1, b"b") + b"\x15\x00\x00\x80\x7f"), "inf"),
    "a model of words": (PIECES + field(2, field(3, 3)), "word"),
    "spaces after words": (PIECES + field(2, field(24, 1)), "treat_whitespace_as_suffix"),
    "no unknown piece": (piece(b"a"), "unknown"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_by_name(what: str) -> None:
    data, named = WRONG[what]
    with pytest.raises(CheckpointError) as error:
        tokenizer_json_from_sentencepiece(data)
    assert named in error.value.message


def test_a_token_too_long_to_be_merged_is_refused() -> None:
    with pytest.raises(CheckpointError, match="5,000"):
        tokenizer_json_from_sentencepiece(PIECES + piece(b"a" * 5000) + field(2, field(3, 2)))


@pytest.mark.parametrize("name", ["Llama", "T5"])
@given(st.integers(0, 1 << 20), st.binary(max_size=3))
def test_a_damaged_file_is_refused_or_can_be_used(name: str, at: int, change: bytes) -> None:
    """The library would abort on a damaged table of replacements, which is at the end of T5's file."""
    data = model(name)
    at = len(data) - 1 - at % 1600
    try:
        converted = tokenizer_json_from_sentencepiece(data[:at] + change + data[at + len(change) + 1 :])
    except CheckpointError as error:
        assert "SentencePiece" in error.message or "vocabulary" in error.message
    else:
        library(converted).encode("one½ \u200bſtep\n")
