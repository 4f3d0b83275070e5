"""A `tokenizer.json` that is not ours in every part is used as it is, and a damaged one is refused."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizer_file import read_tokenizer_json
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from light_llm.interop.tokenizer_files import tokenizer_json

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def bos(i: int) -> dict[str, Any]:
    special = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    ids = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [i], "tokens": ["<|endoftext|>"]}}
    return {"type": "TemplateProcessing", "single": [special, text], "pair": [text, other], "special_tokens": ids}


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
