"""Vocabularies of GGUF files: the same ids and texts as llama.cpp's, for six published ones and for each pattern.

Where llama.cpp is installed, it is asked; where it is not, its ids are those recorded here or in the offline files.
"""

import base64
import json
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from light_llm.cli import main
from light_llm.data import Tokenizer
from light_llm.data.bpe import bytes_to_unicode, train_bpe
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer
from light_llm.errors import CheckpointError
from light_llm.interop.gguf import vocabulary_fields
from light_llm.interop.gguf_file import read_fields
from light_llm.interop.gguf_vocabulary import (
    read_vocabulary,
    tokenizer_config_from_gguf,
    tokenizer_from_gguf,
    tokenizer_json_from_gguf,
)
from tests.support.llama_cpp_ids import TEXTS, digest, llama_cpp_vocabulary, many_texts, write_vocabulary
from tests.support.sentencepiece_models import FILE

PUBLISHED = ("gpt-2", "gpt-neox", "llama-spm", "llama-bpe", "qwen2", "starcoder")
LARGE = ("llama-bpe", "qwen2", "starcoder")  # which take a few seconds; their patterns are also tested below
GPT_NEOX = "8e5970e640b8"  # of llama.cpp 0.3.36's ids for the strings of the others


class Library:
    """A `tokenizer.json` run by the `tokenizers` library: control tokens in a text are text."""

    def __init__(self, data: bytes) -> None:
        self.library = LibraryTokenizer.from_str(data.decode())
        self.library.encode_special_tokens = True

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        return list(self.library.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.library.decode(ids, skip_special_tokens=True))


@cache
def published(folder: Path, name: str) -> tuple[Path, Mapping[str, Any], Library]:
    path = folder / "tokenizers" / f"ggml-vocab-{name}.gguf"
    fields = read_fields(path)
    return path, fields, Library(tokenizer_json_from_gguf(fields))


def strings(folder: Path) -> list[str]:
    """The strings of the `.inp` files, which are all the same; each ends before a line break and a mark."""
    text = (folder / "tokenizers" / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode()
    return text.split("\n__ggml_vocab_test__\n")[:-1]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in PUBLISHED]
)
def test_ids_and_texts_are_those_of_llama_cpp(offline_files: Path, name: str) -> None:
    path, _, library = published(offline_files, name)
    texts = strings(offline_files)
    ids = [library.encode(text) for text in texts]
    if name == "gpt-neox":
        assert digest(library.encode, texts) == GPT_NEOX
    else:
        lines = path.with_name(f"{path.name}.out").read_text().splitlines()
        assert ids == [[int(word) for word in line.split()] for line in lines]
    assert [library.decode(row) for row in ids] == texts
    if (llama := llama_cpp_vocabulary(path)) is not None:
        assert library.encode("a b", add_special=True) == llama.encode_with_special("a b")
        for text in many_texts(150):
            ids_of_text = library.encode(text)
            assert ids_of_text == llama.encode(text), text
            # For the other kinds, llama.cpp changes spaces before punctuation.
            if name == "llama-spm":
                assert library.decode(ids_of_text) == llama.decode(ids_of_text)


@pytest.mark.parametrize(
    ("name", "bos", "eos", "add_bos"),
    [("gpt-2", 50256, 50256, False), ("llama-spm", 1, 2, True), ("starcoder", 0, 0, False)],
)
def test_special_ids_are_the_files(offline_files: Path, name: str, bos: int, eos: int, add_bos: bool) -> None:
    _, fields, library = published(offline_files, name)
    vocabulary = read_vocabulary(fields)
    assert (vocabulary.bos, vocabulary.eos, vocabulary.add_bos, vocabulary.add_eos) == (bos, eos, add_bos, False)
    assert library.encode("a", add_special=True)[: 1 + add_bos] == [bos] * add_bos + library.encode("a")[:1]
    # Control tokens have no text, and no text has them.
    assert library.decode([eos]) == ""
    assert eos not in library.encode(f"a{vocabulary.tokens[eos]}b")


CHARACTERS = bytes_to_unicode()
PAIRS = sorted({CHARACTERS[a] + CHARACTERS[b] for text in TEXTS for a, b in pairwise(text.encode())})


def a_vocabulary(**changes: Any) -> dict[str, Any]:
    """Fields of a byte-level BPE in which all neighbours in TEXTS can merge, so that a split shows in the ids."""
    characters = [*CHARACTERS.values()]
    fields = {
        "model": "gpt2",
        "tokens": [*characters, *PAIRS, "<|endoftext|>"],
        "token_type": [1] * (len(characters) + len(PAIRS)) + [3],
        "merges": [" ".join(pair) for pair in PAIRS],
        "eos_token_id": len(characters) + len(PAIRS),
        "bos_token_id": len(characters) + len(PAIRS),
        "pre": "gpt-2",
    }
    changed = {**fields, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in changed.items() if value is not None}


# llama.cpp's ids for TEXTS with the vocabulary above, by the pattern, and with its merges in reverse.
DIGESTS = {
    "gpt-2": "29302b50ede4 56c5426ed484",
    "smollm": "fca1d8d975da dea18f673d0d",
    "llama-bpe": "a27bf3f37ed3 0941b698e954",
    "dbrx": "a27bf3f37ed3 0941b698e954",
    "qwen2": "256c63ee210b 01db327c1dce",
    "qwen35": "70b2ca0ad753 01db327c1dce",
    "gpt-4o": "32365972667c d1be52869544",
    "tekken": "a30cc28f74d4 9e3746866ac8",
    "default": "218b0232397f 4db29bd515e8",
    "falcon": "33bb7df4343a cd4c2c1ed3b5",
    "deepseek-coder": "d36f8a3f6339 479f2dafecc3",
    "deepseek-v3": "ce9da8592feb a51f2525517d",
    "bloom": "bb9610f189df 63856c25dd8e",
    "viking": "9f2a1a051735 5f34b89f1184",
}


@pytest.mark.parametrize("pre", DIGESTS)
def test_each_pattern_splits_as_llama_cpp_does(tmp_path: Path, pre: str) -> None:
    digests = []
    for order in (1, -1):
        fields = a_vocabulary(pre=pre, merges=[" ".join(pair) for pair in PAIRS][::order])
        library = Library(tokenizer_json_from_gguf(fields))
        digests.append(digest(library.encode))
        if (llama := llama_cpp_vocabulary(write_vocabulary(tmp_path / "v.gguf", fields))) is not None:
            for text in filter(partial(is_split_alike, pre), (*TEXTS, *many_texts(60))):
                assert library.encode(text) == llama.encode(text), text
    assert " ".join(digests) == DIGESTS[pre]


def is_split_alike(pre: str, text: str) -> bool:
    """llama.cpp rewrites some published patterns for its engine: not for marks (é in two characters), and U+3000."""
    if pre in ("gpt-4o", "tekken"):
        return not any(unicodedata.category(c).startswith("M") for c in text)
    return pre != "deepseek-coder" or not any(c.isspace() for c in text if c > "\u0800")


OWN: dict[str, Tokenizer] = {
    "byte": ByteTokenizer(),
    "characters": CharTokenizer("\n abcdefé中😀"),
    "ASCII characters": CharTokenizer("\n abc"),
    "bpe": train_bpe(["the fox and the hen, and the other hen " * 9], 280),
}


@pytest.mark.parametrize("name", OWN)
def test_our_own_exports_are_our_own_tokenizers_again(name: str) -> None:
    tokenizer = OWN[name]
    again = tokenizer_from_gguf(vocabulary_fields(tokenizer))
    assert type(again) is type(tokenizer) and again.to_dict() == tokenizer.to_dict()


def test_generation_stops_at_the_end_of_a_text_and_of_a_turn() -> None:
    tokenizer = tokenizer_from_gguf(a_vocabulary(add_bos_token=True, eot_token_id=65))
    end = a_vocabulary()["tokenizer.ggml.eos_token_id"]
    assert tokenizer.stop_ids == (end, 65) and tokenizer.prefix == (end,) and tokenizer.suffix == ()


def test_transformers_is_told_which_tokens_are_special() -> None:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    fields = {"model": "llama", "tokens": tokens, "scores": [0.0] * 260, "token_type": [3, 3, 3, 2] + [6] * 256}
    config = json.loads(tokenizer_config_from_gguf({f"tokenizer.ggml.{k}": v for k, v in fields.items()}))
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    # Ids that the file lacks are llama.cpp's, and the unknown token is the one of that type.
    assert [config.get(name) for name in names] == ["<s>", "</s>", "<unk>", None]


def test_a_merge_that_never_applies_is_left_out() -> None:
    """The end of a text is no token that merges make, so nothing merges with it."""
    merges = [*a_vocabulary()["tokenizer.ggml.merges"], "<|endoftext|> a"]
    assert tokenizer_json_from_gguf(a_vocabulary(merges=merges)) == tokenizer_json_from_gguf(a_vocabulary())


def test_the_command_line_shows_tokens_by_the_vocabulary_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = write_vocabulary(tmp_path / "v.gguf", a_vocabulary())
    model = tmp_path / "tokenizer.model"
    model.write_bytes(base64.b64decode(json.loads(FILE.read_text(encoding="utf-8"))["Llama"]["model"]))
    flags = ["--tokenizer", str(gguf), "--tokenizer", str(model)]
    assert main(["tokenizer", "show", *flags, "--text", "the time"]) == 0
    shown = capsys.readouterr().out
    assert "t|he| t|i|me" in shown and f"{model}: " in shown
    write_vocabulary(tmp_path / "bert.gguf", a_vocabulary(model="bert"))
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:1000])
    (tmp_path / "cut.model").write_bytes(model.read_bytes()[:1000])
    for name in ("bert.gguf", "cut.gguf", "cut.model", "none.gguf", "none.model"):
        assert main(["tokenizer", "show", "--tokenizer", name, "--text", "a"]) == 2
        assert name in capsys.readouterr().err


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no vocabulary": ({"model": "no_vocab"}, "no tokenizer"),
    "another kind": ({"model": "bert"}, "'bert'"),
    "an unknown pattern": ({"pre": "kimi-k2"}, "'kimi-k2'"),
    "no tokens": ({"tokens": None}, "tokens"),
    "tokens that are numbers": ({"tokens": [1, 2]}, "tokens"),
    "a token twice": ({"tokens": ["a", "a"], "token_type": [1, 1]}, "twice"),
    "too few types": ({"token_type": [1]}, "token_type"),
    "types that are texts": ({"token_type": ["1"] * 3}, "token_type"),
    "no merges": ({"merges": None}, "merges"),
    "a merge without a space": ({"merges": ["ab"]}, "'ab'"),
    "a merge without a result": ({"merges": ["z Ā"]}, "'Ā'"),
    "an end beyond the table": ({"eos_token_id": 10**6}, "eos_token_id=1000000"),
    "a beginning to add that is missing": ({"add_bos_token": True, "bos_token_id": None}, "add_bos_token"),
    "a flag that is a number": ({"add_bos_token": 1}, "add_bos_token=1"),
    "no scores": ({"model": "llama"}, "scores"),
    "scores that are not numbers": ({"model": "llama", "scores": [float("nan")] * 9}, "scores"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_vocabulary_is_refused_by_name(what: str) -> None:
    changes, named = WRONG[what]
    with pytest.raises(CheckpointError) as error:
        tokenizer_json_from_gguf(a_vocabulary(**changes))
    assert named in error.value.message
