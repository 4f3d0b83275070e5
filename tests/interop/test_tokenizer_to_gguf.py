"""Published tokenizers as vocabularies of GGUF files: llama.cpp's ids, the way back, and what is refused by name.

Where llama.cpp is not installed, the way back stands for it: it gives llama.cpp's ids (test_gguf_vocabulary.py).
"""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from light_llm.data import Tokenizer
from light_llm.data.tokenizer_file import read_tokenizer_json
from light_llm.errors import ConfigError
from light_llm.interop.export import export
from light_llm.interop.gguf import vocabulary_fields
from light_llm.interop.gguf_file import read_fields
from light_llm.interop.gguf_vocabulary import tokenizer_from_gguf, tokenizer_json_from_gguf
from light_llm.interop.tokenizer_to_gguf import GGUFVocabulary, gguf_fields_from_tokenizer_json
from tests.support.export_tools import GGUF, tiny_loaded
from tests.support.llama_cpp_ids import llama_cpp_vocabulary, many_texts, write_vocabulary
from tests.support.texts_in_scripts import texts_in_scripts
from tests.support.tokenizer_kinds import tokenizer_kind

Parts = dict[str, Any]
Change = Callable[[Parts], object]
# What llama.cpp is known to do differently, by a word of the note.
KINDS = {
    "gpt2": "",
    "gpt_neox": "NFC",
    "smollm": "",
    "llama3": "",
    "qwen2": "NFC",
    "llama2": "",
    "mistral": "begins with one",
    "gemma": "",
}


def a_tokenizer(kind: str) -> Tokenizer:
    published = tokenizer_kind(kind)
    return read_tokenizer_json(published.data, kind, ends=[published.eos])


def as_gguf(tokenizer: Any, data: bytes = b"") -> GGUFVocabulary:
    return gguf_fields_from_tokenizer_json(
        data or tokenizer.data,
        vocab_size=tokenizer.vocab_size,
        separator=tokenizer.separator,
        prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
        stop_ids=tokenizer.stop_ids,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_the_same_in_llama_cpp_and_on_the_way_back(tmp_path: Path, kind: str) -> None:
    tokenizer = a_tokenizer(kind)
    vocabulary, is_sentencepiece = as_gguf(tokenizer), kind in ("llama2", "mistral", "gemma")
    assert [KINDS[kind] in note for note in vocabulary.notes] == [True] * bool(KINDS[kind])
    again = tokenizer_from_gguf(vocabulary.fields)
    assert (again.vocab_size, again.separator, again.stop_ids) == (
        (tokenizer.vocab_size, tokenizer.separator, tokenizer.stop_ids)
    )
    assert (again.prefix, again.suffix) == (tokenizer.prefix, tokenizer.suffix)
    llama = llama_cpp_vocabulary(write_vocabulary(tmp_path / "v.gguf", vocabulary.fields))
    differences = 0
    for text in (*texts_in_scripts(80), *many_texts(30)):
        ids = tokenizer.encode(text)
        is_known = not KINDS[kind] or text.startswith((" ", "\u2581")) or not unicodedata.is_normalized("NFC", text)
        differences += again.encode(text) != ids
        assert again.encode(text) == ids or (is_known and KINDS[kind]), text
        assert again.decode(ids) == tokenizer.decode(ids)
        if llama is not None:
            assert llama.encode(text) == again.encode(text)
            # For the other kind, llama.cpp changes spaces before signs.
            assert llama.decode(ids) == tokenizer.decode(ids) or not is_sentencepiece
    assert bool(differences) == bool(KINDS[kind]), "the note is needed"
    if llama is not None:
        assert llama.encode_with_special("a b") == [*tokenizer.prefix, *tokenizer.encode("a b"), *tokenizer.suffix]


@pytest.mark.parametrize("name", [pytest.param("gpt-neox", marks=pytest.mark.slow), "llama-spm"])
def test_a_published_vocabulary_comes_back_as_it_was(offline_files: Path, name: str) -> None:
    fields = read_fields(offline_files / "tokenizers" / f"ggml-vocab-{name}.gguf")
    tokenizer = tokenizer_from_gguf(fields)
    again = as_gguf(tokenizer, tokenizer_json_from_gguf(fields)).fields
    for key in ("tokens", "token_type", "merges", "model", "bos_token_id", "eos_token_id"):
        assert again.get(f"tokenizer.ggml.{key}") == fields.get(f"tokenizer.ggml.{key}"), key
    if name == "llama-spm":
        assert order_of_scores(again) == order_of_scores(fields)
        runs = ["\u2581" * n for n in (2, 3, 15, 16)]
        assert len({again["tokenizer.ggml.scores"][fields["tokenizer.ggml.tokens"].index(run)] for run in runs}) == 1


def order_of_scores(fields: Parts) -> list[str]:
    """Tokens that merges make, the highest score first, without runs of spaces, whose scores are equal."""
    rows = zip(*(fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")), strict=True)
    made = [(-score, token) for token, score, type_ in rows if type_ == 1 and len(token) > 1 and token.strip("\u2581")]
    return [token for _, token in sorted(made)]


def an_added_token(values: Parts, **fields: Any) -> None:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    values["added_tokens"].append({"id": 7, "content": "<mask>", **plain, **fields})


def set_pattern(values: Parts, pattern: str) -> None:
    values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern


REFUSED: dict[str, tuple[str, Change, str]] = {
    "Unigram": ("t5", lambda v: None, "Unigram"),
    "WordPiece": ("bert", lambda v: None, "WordPiece"),
    "an unknown pattern": ("qwen2", lambda v: set_pattern(v, r"\S+|\s+"), "pre-tokenizer"),
    "no pre-tokenizer": ("gpt2", lambda v: v.update(pre_tokenizer=None), "pre-tokenizer"),
    "a space before texts": ("gpt2", lambda v: v["pre_tokenizer"].update(add_prefix_space=True), "pre-tokenizer"),
    "whole tokens first": ("qwen2", lambda v: v["model"].update(ignore_merges=True), "ignore_merges"),
    "lower case": ("gpt2", lambda v: v.update(normalizer={"type": "Lowercase"}), "Lowercase"),
    "marks of words": ("gpt2", lambda v: v["model"].update(end_of_word_suffix="</w>"), "'</w>'"),
    "a token with spaces": ("gpt2", lambda v: an_added_token(v, lstrip=True), "'<mask>'"),
    "a token twice": ("gpt2", lambda v: an_added_token(v, content=next(iter(v["model"]["vocab"]))), "twice"),
    "bytes missing": ("llama2", lambda v: v["model"]["vocab"].pop("<0x41>"), "bytes"),
    "a step before": ("llama2", lambda v: v["normalizer"]["normalizers"].insert(0, {"type": "NFKC"}), "NFKC"),
    "a merge missing": ("gemma", lambda v: v["model"]["merges"].pop(), "merge of"),
    "merges out of order": (
        "gemma",
        lambda v: v["model"]["merges"].append(v["model"]["merges"][0]),
        "before and after",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_lacks_is_refused_by_name(what: str) -> None:
    kind, change, named = REFUSED[what]
    values = json.loads(tokenizer_kind(kind).data)
    change(values)
    with pytest.raises(ConfigError) as error:
        as_gguf(a_tokenizer(kind), json.dumps(values).encode())
    assert named in error.value.message and "export hf" in error.value.message


def test_several_ids_around_a_text_are_refused() -> None:
    tokenizer = a_tokenizer("gpt2")
    for around in ({"prefix": (1, 2)}, {"suffix": (1,)}):
        with pytest.raises(ConfigError, match="before"):
            gguf_fields_from_tokenizer_json(tokenizer_kind("gpt2").data, vocab_size=9, separator=0, **around)
    assert tokenizer.prefix == ()


def test_ids_without_a_token_are_named_and_never_written() -> None:
    tokenizer = a_tokenizer("smollm")
    n = tokenizer.vocab_size
    fields = gguf_fields_from_tokenizer_json(tokenizer_kind("smollm").data, vocab_size=n + 2, separator=n).fields
    assert fields["tokenizer.ggml.tokens"][n:] == [f"[PAD{n}]", f"[PAD{n + 1}]"]
    # The separator is a control token although the file has none; 5 is unused.
    assert fields["tokenizer.ggml.token_type"][n:] == [3, 5] and fields["tokenizer.ggml.eos_token_id"] == n


@pytest.mark.parametrize("kind", ["llama2", "qwen2"])
def test_a_model_with_a_published_tokenizer_is_exported(tmp_path: Path, kind: str) -> None:
    tokenizer = a_tokenizer(kind)
    lines: list[str] = []
    loaded = tiny_loaded(tmp_path, "llama", tokenizer, n_embd=32, n_head=2, n_kv_head=1, n_inner=32)
    out = tmp_path / "model.gguf"
    result = export(loaded, GGUF, out, log=lines.append)
    assert f"its {tokenizer.vocab_size:,} tokens" in result.summary or "the same ids" in result.summary
    assert any("NFC" in line for line in lines) == (kind == "qwen2")
    stored = read_fields(out)
    assert {key: stored[key] for key in vocabulary_fields(tokenizer)} == vocabulary_fields(tokenizer)
