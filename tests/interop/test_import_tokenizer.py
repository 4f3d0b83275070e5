"""Tokenizers of folders: those of our exports become ours again, all others are used as they are."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.data.bpe import GPT2Tokenizer, train_bpe
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizer_json import to_tokenizer_json
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, tokenizer_from_dict, tokenizer_hash
from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop.gguf import vocabulary_fields
from light_llm.interop.import_model import read_folder
from light_llm.interop.import_tokenizer import read_tokenizer
from light_llm.interop.sentencepiece_json import CONTROL
from light_llm.interop.tokenizer_files import tokenizer_json
from tests.interop.test_import import BPE, change, exported, rewrite
from tests.support.texts_in_scripts import texts_in_scripts
from tests.support.tokenizer_checks import compare
from tests.support.tokenizer_kinds import KINDS, tokenizer_kind


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


MODEL = to_tokenizer_json(BPE)["model"]
PREFIXED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": PREFIXED},
        {"model": MODEL | {"merges": MODEL["merges"][:9]}},
        {"model": MODEL | {"merges": MODEL["merges"][::-1]}},
        {"model": MODEL | {"ignore_merges": True}},
    ],
    ids=["normalizer", "no words", "prefix", "few merges", "other order", "ignored merges"],
)
def test_a_file_that_differs_from_ours_is_used_as_it_is(parts: dict[str, Any], tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Reference

    data = json.dumps(to_tokenizer_json(BPE) | parts).encode()
    (tmp_path / "tokenizer.json").write_bytes(data)
    tokenizer = read_tokenizer(tmp_path, "", {"eos_token_id": BPE.separator})
    assert isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.data == data
    assert tokenizer.separator == BPE.separator
    reference = Reference.from_buffer(data)
    reference.encode_special_tokens = True
    for text in texts_in_scripts(60):
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("damage", [b"{", b'"x"', json.dumps(to_tokenizer_json(BPE) | {"model": 1}).encode()])
def test_a_file_that_the_library_cannot_use_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used.*tokenizer=.none."):
        read_tokenizer(tmp_path, "", {})


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
        ("", "tokenizer.json", r"tokenizer\.json cannot be used: "),
        ("", "generation_config.json", r"generation_config\.json is damaged"),
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


def added(*names: str, special: bool = True) -> list[dict[str, Any]]:
    rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return [{"id": 264 + i, "content": name, **rest} for i, name in enumerate(names)]


@pytest.mark.parametrize("eos", [None, 3, "</s>"])
def test_an_unknown_end_of_text_is_refused(eos: Any, tmp_path: Path) -> None:
    values = to_tokenizer_json(train_bpe(["to be or not to be " * 9], 265)) | {"added_tokens": added("<pad>", "<bos>")}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"eos_token_id={eos!r}"):
        read_tokenizer(tmp_path, "", {"eos_token_id": eos})


@pytest.mark.parametrize("name", KINDS)
def test_the_tokenizer_of_a_published_folder(name: str, tmp_path: Path) -> None:
    """The very bytes, the ids around each text, the separator; also from its plain values, as in a checkpoint."""
    kind = tokenizer_kind(name)
    for file, data in kind.files().items():
        (tmp_path / file).write_bytes(data)
    tokenizer = read_tokenizer(tmp_path, "", {"eos_token_id": kind.eos, "vocab_size": kind.vocab_size + 5})
    assert isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.data == kind.data
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())), {"tokenizer.json": kind.data})
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    for each in (tokenizer, again):
        assert (each.separator, each.prefix, each.suffix) == (kind.eos, kind.prefix, kind.suffix)
        assert each.vocab_size == kind.vocab_size and each.stop_ids == (kind.eos,)
    with pytest.raises(CheckpointError, match="SHA-256"):
        tokenizer_from_dict(tokenizer.to_dict(), {"tokenizer.json": kind.data + b" "})
    with pytest.raises(CheckpointError, match="missing"):
        tokenizer_from_dict(tokenizer.to_dict())


def test_all_end_of_text_ids_end_a_text(tmp_path: Path) -> None:
    """As in Qwen2.5-Instruct: config.json has one, generation_config.json two."""
    kind = tokenizer_kind("qwen2")
    (tmp_path / "tokenizer.json").write_bytes(kind.data)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [kind.eos + 2, kind.eos]}))
    tokenizer = read_tokenizer(tmp_path, "", {"eos_token_id": kind.eos + 2})
    assert tokenizer is not None and tokenizer.separator == kind.eos + 2
    assert tokenizer.stop_ids == (kind.eos + 2, kind.eos)
    tokenizer = read_tokenizer(tmp_path, "", {})
    assert tokenizer is not None and tokenizer.separator == kind.eos  # the one with the name of an end of text
    again = tokenizer_from_dict(tokenizer.to_dict(), {"tokenizer.json": kind.data})
    assert again.stop_ids == tokenizer.stop_ids == (kind.eos, kind.eos + 2)


def test_special_tokens_beyond_the_models_table_are_left_out(tmp_path: Path) -> None:
    """Gemma 3's tokenizer has one more id, for images, than the text model has rows."""
    kind = tokenizer_kind("gemma")
    values, n = json.loads(kind.data), kind.vocab_size
    for special in (True, False):
        more = {"id": n, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False}
        more |= {"normalized": False, "special": special}
        (tmp_path / "tokenizer.json").write_text(json.dumps(values | {"added_tokens": values["added_tokens"] + [more]}))
        tokenizer = read_tokenizer(tmp_path, "", {"eos_token_id": kind.eos, "vocab_size": n})
        assert tokenizer is not None and tokenizer.vocab_size == (n if special else n + 1)
        assert special == ("vocab_size" in tokenizer.to_dict())


def test_the_older_files_give_the_ids_of_transformers(tmp_path: Path) -> None:
    """vocab.json and merges.txt: the class in tokenizer_config.json says what else there is."""
    from transformers import GPT2Tokenizer as TheirGPT2
    from transformers import Qwen2Tokenizer

    kinds = {"GPT2Tokenizer": ("gpt2", TheirGPT2), "Qwen2Tokenizer": ("qwen2", Qwen2Tokenizer)}
    for class_name, (kind_name, theirs) in kinds.items():
        kind = tokenizer_kind(kind_name)
        model = json.loads(kind.data)["model"]
        (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n")
        config = kind.config | {"tokenizer_class": class_name, "add_bos_token": kind_name == "gpt2"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = read_tokenizer(tmp_path, "", {"eos_token_id": kind.eos})
        assert (
            tokenizer is not None and compare(tokenizer, theirs.from_pretrained(tmp_path), texts_in_scripts(80)) == []
        )
        assert tokenizer.prefix == ((kind.eos,) if kind_name == "gpt2" else ())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPTNeoXTokenizer"}))
    with pytest.raises(CheckpointError, match="GPTNeoXTokenizer") as caught:
        read_tokenizer(tmp_path, "", {})
    command = shlex.split(caught.value.message.partition("write that with: ")[2])
    exec(command[2])  # python -c CODE
    assert isinstance(read_tokenizer(tmp_path, "", {"eos_token_id": kind.eos}), HuggingFaceTokenizer)


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_are_special_only_with_a_role(where: str, tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer as TheirGPT2

    kind = tokenizer_kind("gpt2")
    model, n = json.loads(kind.data)["model"], kind.vocab_size
    names = {"<think>": n, "    ": n + 1, "<|im|>": n + 2, "<pad>": n + 3}
    config: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer"}
    files: dict[str, Any] = {"vocab.json": model["vocab"], "tokenizer_config.json": config}
    if where == "added_tokens.json":
        files |= {"added_tokens.json": names, "special_tokens_map.json": {"pad_token": "<pad>"}}
        config["additional_special_tokens"] = ["<|im|>"]
    else:
        config["pad_token"] = "<pad>"
        config["added_tokens_decoder"] = {i: {"content": name, "special": i == n + 2} for name, i in names.items()}
    for file, values in files.items():
        (tmp_path / file).write_text(json.dumps(values))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n")
    tokenizer, theirs = read_tokenizer(tmp_path, "", {"eos_token_id": kind.eos}), TheirGPT2.from_pretrained(tmp_path)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert {i for i, token in theirs.added_tokens_decoder.items() if token.special} == tokenizer.special_ids
    assert tokenizer.special_ids == {kind.eos, n + 2, n + 3}
    ids = theirs("a <think> b\n    c")["input_ids"]
    assert n in ids and n + 1 in ids and tokenizer.encode("a <think> b\n    c") == ids
    assert tokenizer.decode([n + 3, *ids]) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("by", ["eos_token", "added_tokens_decoder", "special_tokens_map.json"])
def test_an_end_of_text_that_only_another_file_has_as_special(by: str, tmp_path: Path) -> None:
    """As in transformers; and no text gives its id, though the merges make it here."""
    from transformers import PreTrainedTokenizerFast

    values, name = to_tokenizer_json(train_bpe(["to be or not,not to be " * 9], 280)), "not"
    i = values["model"]["vocab"][name]
    data = json.dumps(values | {"added_tokens": []}).encode()
    (tmp_path / "tokenizer.json").write_bytes(data)
    decoder = {"added_tokens_decoder": {i: {"content": name, "special": True, "normalized": False}}}
    config: dict[str, Any] = {"eos_token": {"eos_token": name}, "added_tokens_decoder": decoder}.get(by, {})
    with pytest.raises(CheckpointError, match=f"eos_token_id={i} "):
        read_tokenizer(tmp_path, "", {"eos_token_id": i})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if by == "special_tokens_map.json":
        (tmp_path / by).write_text(json.dumps({"eos_token": name}))
    tokenizer, theirs = (
        read_tokenizer(tmp_path, "", {"eos_token_id": i}),
        PreTrainedTokenizerFast.from_pretrained(tmp_path),
    )
    assert isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.data == data and tokenizer.separator == i
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())), {"tokenizer.json": data})
    plain = theirs("to be no")["input_ids"]
    for each in (tokenizer, again):
        assert each.encode("to be no") == plain and each.decode([*plain, i]) == "to be no"
        assert theirs.decode([*plain, i], skip_special_tokens=True) == "to be no"
        text = "not to,not"
        assert i not in each.encode(text) and each.decode(each.encode(text)) == text
    if by == "eos_token":
        named = read_tokenizer(tmp_path, "", {})
        assert named is not None and named.separator == i
    fields = vocabulary_fields(tokenizer)
    assert fields["tokenizer.ggml.token_type"][i] == CONTROL


def test_eos_may_be_any_added_token(tmp_path: Path) -> None:
    values = to_tokenizer_json(train_bpe(["to be or not to be " * 9], 265))
    for name, config in (("<bos>", {"eos_token_id": 265}), ("</s>", {})):
        (tmp_path / "tokenizer.json").write_text(json.dumps(values | {"added_tokens": added("<pad>", name)}))
        tokenizer = read_tokenizer(tmp_path, "", config)
        assert tokenizer is not None and tokenizer.separator == 265
