"""Tokenizers of other programs become ours: the same ids as there, or refused by the part that is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.data.bpe import GPT2Tokenizer, train_bpe
from light_llm.data.tokenizer_json import to_tokenizer_json
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, tokenizer_hash
from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop.import_model import read_folder
from light_llm.interop.import_tokenizer import read_tokenizer
from light_llm.interop.tokenizer_files import tokenizer_json
from tests.interop.test_import import BPE, change, exported, rewrite


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharTokenizer("\n abcé東\U0001f642"), BPE], ids=["byte", "char", "bpe"]
)
def test_tokenizers_come_back_unchanged(tokenizer: Tokenizer, tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", tokenizer)
    back = read_folder(folder).file.tokenizer
    assert back is not None and type(back) is type(tokenizer)
    assert tokenizer_hash(back) == tokenizer_hash(tokenizer)


@pytest.mark.slow  # 50,257 ids, twice
def test_gpt2s_tokenizer_comes_back_from_both_its_forms(offline_files: Path, tmp_path: Path) -> None:
    merges = offline_files / "gpt2" / "vocab.bpe"
    tokenizer = GPT2Tokenizer(merges.read_text(encoding="utf-8"))
    values = tokenizer_json(tokenizer)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    back = [read_tokenizer(tmp_path, "", {"eos_token_id": 50256})]
    (tmp_path / "tokenizer.json").unlink()
    shutil.copy(merges, tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    back.append(read_tokenizer(tmp_path, "", {"eos_token_id": 50256}))
    assert all(isinstance(t, GPT2Tokenizer) and tokenizer_hash(t) == tokenizer_hash(tokenizer) for t in back)


SPLIT = {"type": "Split", "pattern": {"Regex": "x"}}
OTHER_PATTERN = {"type": "Sequence", "pretokenizers": [SPLIT, {"type": "ByteLevel", "use_regex": False}]}
PREFIXED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
MODEL = to_tokenizer_json(BPE)["model"]


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"model": MODEL | {"type": "Unigram"}}, "'Unigram'"),
        ({"model": MODEL | {"byte_fallback": True}}, "byte_fallback"),
        ({"model": MODEL | {"continuing_subword_prefix": "##"}}, "continuing_subword_prefix='##'"),
        ({"model": MODEL | {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix='</w>'"),
        ({"normalizer": {"type": "NFC"}}, r"normalizer \(NFC\)"),
        ({"pre_tokenizer": OTHER_PATTERN}, r"pre_tokenizer \(Sequence of Split, ByteLevel\)"),
        ({"pre_tokenizer": None}, r"pre_tokenizer \(none\)"),
        ({"pre_tokenizer": PREFIXED}, "add_prefix_space=True"),
        ({"model": MODEL | {"merges": MODEL["merges"][:9]}}, "gives other ids"),
        ({"model": MODEL | {"merges": MODEL["merges"][::-1]}}, "not in the order of their ids"),
        ({"model": 1}, "it has no model"),
        ("x", "it has no model"),
    ],
)
def test_a_part_that_ours_cannot_express_is_named(parts: Any, named: str, tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", BPE)
    values = parts if parts == "x" else to_tokenizer_json(BPE) | parts
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"{named}.*tokenizer=.none."):
        read_folder(folder)
    assert read_folder(folder, tokenizer="none").file.tokenizer is None


def test_a_text_with_different_ids_is_found(tmp_path: Path) -> None:
    """An added token is a token wherever its text stands, there; here no text is special."""
    _, folder = exported(tmp_path / "out", BPE)
    values = to_tokenizer_json(BPE)
    values["added_tokens"].append({**values["added_tokens"][0], "id": BPE.vocab_size, "content": "don't!"})
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="gives other ids for some texts, such as .*don't"):
        read_folder(folder)


def test_eos_becomes_the_separator(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", BPE)
    values, first = to_tokenizer_json(BPE), BPE.vocab_size
    more = [{**values["added_tokens"][0], "id": first + i, "content": f"<|{i}|>"} for i in range(2)]
    (folder / "tokenizer.json").write_text(json.dumps(values | {"added_tokens": values["added_tokens"] + more}))
    for end in (BPE.separator, first + 1):
        change(folder, eos_token_id=[end, 5], vocab_size=BPE.vocab_size + 2)
        rewrite(folder, lambda tensors: tensors | {"transformer.wte.weight": torch.zeros(first + 2, 24)})
        tokenizer = read_folder(folder).file.tokenizer
        assert tokenizer is not None and tokenizer.separator == end


@pytest.mark.parametrize(
    ("remove", "add", "named"),
    [
        ("tokenizer.json", "", r"no tokenizer\.json, nor vocab\.json and merges\.txt.*tokenizer="),
        ("tokenizer.json", "tokenizer.model", r"tokenizer\.model is SentencePiece's"),
        ("", "tokenizer.json", "cannot be read: "),
    ],
)
def test_a_missing_or_damaged_tokenizer_is_refused(remove: str, add: str, named: str, tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", BPE)
    if remove:
        (folder / remove).unlink()
    if add:
        (folder / add).write_text("{")
    with pytest.raises(CheckpointError, match=named):
        read_folder(folder)


def test_a_tokenizer_can_be_named_instead(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", BPE)
    (tmp_path / "t.json").write_text(json.dumps(to_tokenizer_json(BPE)))
    tokenizer = read_folder(folder, tokenizer=str(tmp_path / "t.json")).file.tokenizer
    assert tokenizer is not None and tokenizer_hash(tokenizer) == tokenizer_hash(BPE)
    assert isinstance(read_folder(folder, tokenizer="byte").file.tokenizer, ByteTokenizer)
    for spec in ("char", "bpe:300"):
        with pytest.raises(ConfigError, match=f"tokenizer='{spec}' cannot be used here: it would be trained on a text"):
            read_folder(folder, tokenizer=spec)


BOS: dict[str, Any] = {"type": "TemplateProcessing", "special_tokens": {"<s>": {"id": "<s>", "ids": [300]}}}
BOS["single"] = BOS["pair"] = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
BOS["special_tokens"]["<s>"]["tokens"] = ["<s>"]
STRIPPED = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def added(*names: str, special: bool = True) -> list[dict[str, Any]]:
    rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return [{"id": 300 + i, "content": name, **rest} for i, name in enumerate(names)]


TWO_DECODERS = {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, STRIPPED]}


@pytest.mark.parametrize(
    ("parts", "eos", "named"),
    [
        ({"post_processor": BOS, "added_tokens": added("<s>", "</s>")}, 301, r"post_processor .*\(<s>\)"),
        ({"decoder": TWO_DECODERS}, None, "decoder .Sequence of ByteLevel, Strip."),
        ({"added_tokens": added("<|endoftext|>") + added("<think>", special=False)}, None, "'<think>'"),
        ({"added_tokens": added("<pad>", "<bos>")}, None, "eos_token_id=None"),
        ({"added_tokens": added("<pad>", "<bos>")}, 3, "eos_token_id=3"),
    ],
)
def test_a_tokenizer_that_adds_or_hides_ids_is_refused(
    parts: dict[str, Any], eos: int | None, named: str, tmp_path: Path
) -> None:
    """Each would encode or decode differently from the original program in a way that no text shows."""
    values = to_tokenizer_json(train_bpe(["to be or not to be " * 9], 265)) | parts
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=named):
        read_tokenizer(tmp_path, "", {"eos_token_id": eos})


def test_eos_may_be_any_added_token(tmp_path: Path) -> None:
    values = to_tokenizer_json(train_bpe(["to be or not to be " * 9], 265))
    for name, config in (("<bos>", {"eos_token_id": 301}), ("</s>", {})):
        (tmp_path / "tokenizer.json").write_text(json.dumps(values | {"added_tokens": added("<pad>", name)}))
        tokenizer = read_tokenizer(tmp_path, "", config)
        assert tokenizer is not None and tokenizer.separator == 301


def test_merges_that_give_other_ids_of_a_word_are_found(tmp_path: Path) -> None:
    """By each token on its own: where a text has it, an earlier join may hide the difference."""
    values = to_tokenizer_json(train_bpe(["x"], 257))
    joins = [["\u0120", "t"], ["e", "t"], ["t", "h"], ["h", "e"], ["t", "he"]]
    vocab = {k: i for k, i in values["model"]["vocab"].items() if i < 256}
    vocab |= {"".join(join): 256 + i for i, join in enumerate(joins)}
    values["model"] |= {"vocab": vocab, "merges": joins}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values | {"added_tokens": []}))
    with pytest.raises(CheckpointError, match="gives other ids for some texts"):
        read_tokenizer(tmp_path, "", {})
