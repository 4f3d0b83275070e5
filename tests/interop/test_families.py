"""Models as the hub has them, of every family: the numbers of transformers, and the same files on the way back."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.errors import CheckpointError
from light_llm.interop.export import export
from light_llm.interop.hf_config import read_config
from light_llm.interop.import_model import read_folder, write_model
from light_llm.train import Trainer
from tests.support.parity import HF, check_family, differences_of, imported, weights
from tests.support.published import CONFIGS, FAMILIES, V, reference, with_old_buffers, write_folder
from tests.support.texts_in_scripts import SONNET
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import cache_profile, some_tokens


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_model_is_the_one_of_transformers(name: str, tmp_path: Path) -> None:
    """In the dtype of its files, from shards; and what goes out is what came in."""
    row = check_family(name, tmp_path)
    assert row.right, asdict(row)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_in_every_dtype(name: str, dtype: str, tmp_path: Path) -> None:
    row = check_family(name, tmp_path, dtype=dtype, shards=False)
    assert row.right, asdict(row)


@pytest.mark.parametrize("name", FAMILIES.values())
def test_buffers_of_older_files_make_no_difference(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, name)
    expected = read_folder(tmp_path, tokenizer="none").file.weights
    with_old_buffers(tmp_path)
    found = read_folder(tmp_path, tokenizer="none").file.weights
    assert found.keys() == expected.keys() and all(torch.equal(found[part], expected[part]) for part in found)


@pytest.mark.parametrize("name", FAMILIES.values())
def test_the_config_of_transformers_5_means_the_same(name: str, tmp_path: Path) -> None:
    """As its save_pretrained writes it."""
    theirs, x = reference(name), some_tokens(1, 60, V)
    theirs.save_pretrained(tmp_path)
    assert (read_folder(tmp_path, tokenizer="none").model(x) - theirs(x).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "pythia"])
def test_a_large_tensor_is_read_in_pieces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is transposed, one of several parts of ours, and one that is interleaved by head."""
    write_folder(tmp_path, name)
    expected = read_folder(tmp_path, tokenizer="none").file.weights
    monkeypatch.setattr("light_llm.interop.weight_files.PIECE", 700)
    found = read_folder(tmp_path, tokenizer="none").file.weights
    assert all(torch.equal(found[part], expected[part]) for part in expected)


TINY = ["--max-length", "32", "--batch-size", "2", "--max-steps", "2", "--device", "cpu", "--dtype", "float32"]
TINY += ["--skip-doctor", "--quiet", "--force"]
KINDS = {"gpt2": "gpt2", "smollm2": "smollm", "mistral": "llama2", "qwen2.5": "qwen2", "qwen3": "qwen2"}
KINDS |= {"pythia": "gpt_neox", "tinystories": "gpt2", "gemma3": "gemma"}
GENERATION = b'{"temperature": 0.6, "do_sample": true}'


def fine_tune(name: str, folder: Path) -> Path:
    """Import a published model with its tokenizer by the command, and train it for two steps. Return the run folder."""
    kind = tokenizer_kind(KINDS[name])
    # A table with more rows than the tokenizer has ids, as most published models have.
    ids: dict[str, Any] = {"vocab_size": kind.vocab_size + 5, "eos_token_id": kind.eos, "bos_token_id": kind.bos}
    files = kind.files() | {"generation_config.json": GENERATION, "chat_template.jinja": b"{{ messages }}"}
    write_folder(folder / "published", name, shards=True, files=files, **ids)
    assert main(["import", str(folder / "published"), "--out", str(folder / "model.pt")]) == 0
    cache_profile(load_model(folder / "model.pt").file.config)
    (folder / "text.txt").write_text(SONNET * 5)
    how = ["--init-from", str(folder / "model.pt"), "--data", str(folder / "text.txt"), "--out", str(folder / "run")]
    assert main(["train", *how, *TINY]) == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_command_takes_every_family(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An export has the tokenizer, chat template and settings of generation that came in, byte for byte."""
    run, text, out = fine_tune(name, tmp_path), str(tmp_path / "text.txt"), tmp_path / "out"
    for words in (
        ["export", "hf", "--checkpoint", str(run), "--out", str(out)],
        ["eval", str(run), "--text", text, "--context", "32", "--device", "cpu"],
        ["generate", "text", "--checkpoint", str(run), "--max-new-tokens", "5", "--device", "cpu"],
        ["analyze", str(run), "--k", "1", "--steps", "2", "--context", "16", "--device", "cpu"],
        ["train", "--out", str(run), "--resume", "--max-steps", "3", *TINY[-3:]],
        ["export", "hf", "--checkpoint", str(run / "step-000003"), "--out", str(out), "--overwrite"],
    ):
        assert main(words) == 0, (words, capsys.readouterr())
    assert same_but_for_the_weights(tmp_path / "published", out)
    assert "fine-tuned from published" in (out / "README.md").read_text()


def same_but_for_the_weights(published: Path, out: Path) -> bool:
    """Return whether all files are the same, and some weights differ, in the dtypes that they had."""
    found = differences_of(published, out)
    dtypes = [{name: t.dtype for name, t in weights(folder).items()} for folder in (published, out)]
    assert all(part.endswith(("weight", "bias")) for part in found), found
    return bool(found) and dtypes[0] == dtypes[1]


def test_a_run_keeps_the_record_of_the_import(tmp_path: Path) -> None:
    """Also when it is resumed."""
    loaded, _ = imported(tmp_path, "mistral-v0.3")
    cache_profile(loaded.file.config)
    batches = [(some_tokens(2, 8, V), some_tokens(2, 8, V))] * 3
    how: dict[str, Any] = {"device": "cpu", "dtype": "float32", "out": tmp_path / "run", "quiet": True, "report": False}
    trainer = Trainer(loaded.model, batches, max_steps=1, skip_doctor=True, model_files=loaded.file.files, **how)
    trainer.checkpointer.base = loaded.file.meta["imported"]
    trainer.train()
    Trainer(load_model(tmp_path / "run").model, batches, max_steps=2, resume=True, skip_doctor=True, **how).train()
    tuned = load_model(tmp_path / "run" / "step-000002")
    export(tuned, HF, tmp_path / "out")
    # A Mistral without windows could be written as a Llama.
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "mistral"
    assert same_but_for_the_weights(tmp_path / "published", tmp_path / "out")


def test_a_model_of_mixed_dtypes_with_a_padded_table_goes_back_as_it_came(tmp_path: Path) -> None:
    write_folder(tmp_path / "published", "tinyllama", dtype="bfloat16")
    path = tmp_path / "published" / "model.safetensors"
    tensors = {name: t.float() if "norm" in name else t for name, t in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    write_model(read_folder(tmp_path / "published", tokenizer="byte"), tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    assert loaded.file.tokenizer is not None and loaded.file.tokenizer.vocab_size < loaded.model.config.vocab_size
    result = export(loaded, HF, tmp_path / "back")
    assert result.check is not None
    assert differences_of(tmp_path / "published", tmp_path / "back") == ["tokenizer.json", "tokenizer_config.json"]
    assert "padding rows" not in (tmp_path / "back" / "README.md").read_text()


def test_a_field_is_ignored_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a warning, which the card of an export repeats."""
    write_folder(tmp_path / "published", "smollm2", mup_scale=8.0, auto_map={"AutoModel": "code.Model"})
    words = ["import", str(tmp_path / "published"), "--tokenizer", "none", "--out", str(tmp_path / "model.pt")]
    assert main(words) == 2
    assert "mup_scale=8.0" in (said := capsys.readouterr().err) and "--ignore-field mup_scale" in said
    assert main([*words, "--ignore-field", "mup_scale"]) == 0
    assert "warning    mup_scale=8.0 was ignored" in capsys.readouterr().out
    export(load_model(tmp_path / "model.pt"), HF, tmp_path / "back")
    assert "`mup_scale`: `8.0`" in (tmp_path / "back" / "README.md").read_text()
    assert json.loads((tmp_path / "back" / "config.json").read_text())["mup_scale"] == 8.0
    assert main([*words, "--ignore-field", "mup_scales", "--overwrite"]) == 2
    assert "did you mean mup_scale?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("gemma3", "nearest family is gemma3_text, .* gemma-3-270m"),
        ("mixtral", "nearest family is mistral, .* experts"),
        ("t5", "it has an encoder as well"),
        ("qwen4", "did you mean qwen[23]"),
        (
            "zzz",
            "cannot be imported; light-llm reads gpt2, llama, mistral, qwen2, qwen3, gpt_neox, gpt_neo, gemma3_text",
        ),
    ],
)
def test_an_unknown_family_is_named_with_the_nearest(kind: str, named: str) -> None:
    with pytest.raises(CheckpointError, match=f"model_type='{kind}' .*{named}"):
        read_config({"model_type": kind}, "config.json")
