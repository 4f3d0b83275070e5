"""A `tokenizer.json` that is not ours in every part is used as it is, and a damaged one is refused."""

import base64
import json
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizer_file import read_tokenizer_json
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from light_llm.errors import ConfigError, DataError
from light_llm.interop.tokenizer_files import tokenizer_json
from tests.support.tokenizer_kinds import tokenizer_kind

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def bos(i: int) -> dict[str, Any]:
    special = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    ids = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [i], "tokens": ["<|endoftext|>"]}}
    return {"type": "TemplateProcessing", "single": [special, text], "pair": [text, other], "special_tokens": ids}


WORDS = {"type": "WordLevel", "vocab": {"</s>": 0, "to": 1, "be": 2}, "unk_token": "[UNK]"}
PIECES = {"type": "Unigram", "unk_id": None, "vocab": [["</s>", 0.0], ["a", -1.0], ["b", -2.0]]}
LETTERS = {"type": "BPE", "vocab": {"</s>": 0, "a": 1, "b": 2}, "merges": [], "unk_token": "[UNK]"}
BYTE, CHAR = ByteTokenizer(), CharTokenizer(" abé")


@pytest.mark.parametrize(
    ("ours", "parts"),
    [
        (BYTE, {"post_processor": bos(256)}),
        (CHAR, {"post_processor": bos(4)}),
        (BYTE, {"pre_tokenizer": LEVEL | {"add_prefix_space": True}}),
        (
            BYTE,
            {
                "decoder": {
                    "type": "Sequence",
                    "decoders": [LEVEL, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
                }
            },
        ),
        (BYTE, {"decoder": None}),
        (CHAR, {"decoder": None}),
        (CHAR, {"normalizer": {"type": "Lowercase"}}),
    ],
)
def test_bytes_and_characters_with_other_parts_are_used_as_they_are(ours: Tokenizer, parts: dict[str, Any]) -> None:
    values = tokenizer_json(ours)
    assert type(read_tokenizer_json(json.dumps(values).encode(), "t.json")) is type(ours)
    data = json.dumps(values | parts).encode()
    tokenizer, library = read_tokenizer_json(data, "t.json"), Library.from_buffer(data)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    for text in ("ab a", " éa"):
        ids = library.encode(text).ids
        assert [*tokenizer.prefix, *tokenizer.encode(text)] == ids and tokenizer.decode(ids) == library.decode(ids)


@pytest.mark.parametrize(
    ("model", "known", "text", "unknown"),
    [(WORDS, "to be", "to do", "'do'"), (PIECES, "abab", "ab cab", "'c'"), (LETTERS, "abab", "abx", "'x'")],
    ids=["words", "pieces", "letters"],
)
def test_an_unknown_part_without_a_token_for_it_is_named(
    model: dict[str, Any], known: str, text: str, unknown: str
) -> None:
    end = json.loads(tokenizer_kind("llama2").data)["added_tokens"][2] | {"id": 0, "content": "</s>"}
    splits = {"type": "Whitespace"} if model is WORDS else None
    data = json.dumps({"version": "1.0", "added_tokens": [end], "pre_tokenizer": splits, "model": model}).encode()
    tokenizer = read_tokenizer_json(data, "t.json")
    assert tokenizer.encode(known) == Library.from_buffer(data).encode(known).ids
    assert tokenizer.decode([1, 2]) and tokenizer.token_bytes(1).strip() in (b"to", b"a")
    for call in (tokenizer.encode, tokenizer.encode_aligned, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(DataError, match=f"cannot encode {unknown}"):
            call(text)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "BertProcessing", "sep": ["x", 99999], "cls": ["y", 2**32 - 1]}, "4294967295"),
        (bos(77777), "77777"),
        (bos(0) | {"special_tokens": {}}, "post_processor|cannot encode"),
    ],
    ids=["huge", "beyond", "missing"],
)
def test_a_bos_that_is_no_token_is_refused(part: dict[str, Any], named: str) -> None:
    values = json.loads(tokenizer_kind("llama2").data) | {"post_processor": part}
    with pytest.raises(ConfigError, match=named):
        read_tokenizer_json(json.dumps(values).encode(), "t.json")


@pytest.mark.parametrize("nested", [False, True])
def test_damaged_replacements_are_refused(nested: bool) -> None:
    table = base64.b64encode(bytes([64, 0, 0, 0, *range(100, 164), *b"abc", 0])).decode()
    part: dict[str, Any] = {"type": "Precompiled", "precompiled_charsmap": table}
    part = {"type": "Sequence", "normalizers": [{"type": "NFC"}, part]} if nested else part
    values = json.loads(tokenizer_kind("llama2").data) | {"normalizer": part}
    with pytest.raises(ConfigError, match="Precompiled"):
        read_tokenizer_json(json.dumps(values).encode(), "t.json")


@pytest.mark.parametrize("kind", ["byte", "llama2", "added"])
def test_an_id_that_is_far_too_large_is_refused_before_it_is_counted_to(kind: str) -> None:
    """At once: a list of so many ids would take gigabytes."""
    values = tokenizer_json(BYTE) if kind == "byte" else json.loads(tokenizer_kind("llama2").data)
    if kind == "llama2":
        values["model"]["vocab"]["zzz"] = 2**32 - 1
    else:
        values["added_tokens"][-1]["id"] = values["model"]["vocab"][values["added_tokens"][-1]["content"]] = 2**32 - 1
    with pytest.raises(ConfigError, match=r"4,294,967,295"):
        read_tokenizer_json(json.dumps(values).encode(), "t.json", n_model_ids=300)
