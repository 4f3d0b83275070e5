"""The files of a published model go from the imported model through training to every checkpoint, byte for byte."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import Files, read_model, write_model_file
from light_llm.cli import main
from light_llm.config import ModelConfig, get_model_size
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.errors import ConfigError
from light_llm.model import LightLLM
from light_llm.train import Trainer

FIXTURES = Path(__file__).parent / "fixtures"
TOKENIZER = (FIXTURES / "published/stopped/step-000007/tokenizer.json").read_bytes()
FILES = {"tokenizer.json": TOKENIZER, "generation_config.json": b'{ "eos_token_id": 0 }\n', "added_tokens.json": b""}
QUICK = ["--device", "cpu", "--dtype", "float32", "--skip-doctor", "--quiet", "--force"]


def imported(path: Path) -> None:
    """Write a model as an import leaves it: in bfloat16, with a table that is larger than its tokenizer."""
    config = ModelConfig(vocab_size=96, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    weights = {name: tensor.bfloat16() for name, tensor in LightLLM(config).state_dict().items()}
    meta = {"config": asdict(config), "tokenizer": HuggingFaceTokenizer(TOKENIZER, separator=0).to_dict()}
    meta |= {"data": {"max_length": 16, "documents": 2}, "step": 0, "dtype": "float32", "evaluation": None}
    write_model_file(path, weights, meta, Files(), FILES)


def test_fine_tuning_keeps_tokenizer_and_files() -> None:
    imported(Path("model.pt"))
    shutil.copy(FIXTURES / "poem.txt", "poem.txt")
    start = ["train", "--init-from", "model.pt", "--data", "poem.txt", "--out", "run", "--batch-size", "2"]
    assert main([*start, "--max-steps", "2", "--set", "train.save_interval=1", *QUICK]) == 0
    assert main(["train", "--resume", "--out", "run", "--max-steps", "3", "--skip-doctor", "--quiet", "--force"]) == 0
    record = json.loads(Path("run/run.json").read_text())["data"]
    for path in ("run", "run/step-000002", "run/step-000003"):
        file = read_model(path)
        assert file.files == FILES and {str(t.dtype) for t in file.weights.values()} == {"torch.float32"}
        assert isinstance(file.tokenizer, HuggingFaceTokenizer) and file.tokenizer.data == TOKENIZER
        assert (
            file.config == read_model("model.pt").config and file.data["tokenizer_sha256"] == record["tokenizer_sha256"]
        )


def test_a_fine_tuning_is_planned_from_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Its shape, its tokenizer and its window, without a second copy of its weights."""
    imported(Path("model.pt"))
    shutil.copy(FIXTURES / "poem.txt", "poem.txt")
    words = ["plan", "--init-from", "model.pt", "--data", "poem.txt", "--device", "cpu", "--dtype", "float32"]
    assert main([*words, "--batch-size", "2", "--max-steps", "3", "--json"]) == 0
    plan, n = json.loads(capsys.readouterr().out), get_model_size(read_model("model.pt").config)
    assert plan["parameters"] == n and plan["tokens"] == 3 * 2 * 16
    assert plan["memory"]["weights"] == 4 * n and plan["memory"]["optimizer"] == 8 * n  # in float32, whatever the file
    for wrong, named in ((["--budget", "5min"], "--budget"), (["--tokenizer", "char"], "model.pt has its own, hf")):
        assert main([*words, *wrong]) == 2 and named in capsys.readouterr().err


def test_another_tokenizer_is_another_run_and_another_encoding() -> None:
    """One byte more in its file, even where the ids are the same."""
    shutil.copytree(FIXTURES / "published/stopped", "stopped")
    shutil.copy(FIXTURES / "poem.txt", "poem.txt")
    shards = []
    for data in (TOKENIZER, TOKENIZER + b"\n"):
        dataset, _ = prepare_dataset("poem.txt", 16, HuggingFaceTokenizer(data, separator=0))
        shards.append(dataset.record()["tokenizer_sha256"])
    assert shards[0] != shards[1]
    model = LightLLM(read_model("stopped").config)
    with pytest.raises(ConfigError, match="tokenizer, SHA-256: f4941f4c9d49... -> "):
        Trainer(model, create_dataloader(dataset, 4, seed=1), out="stopped", resume=True, quiet=True)


def test_a_tokenizer_brings_its_file_and_an_unknown_file_is_refused() -> None:
    shutil.copy(FIXTURES / "poem.txt", "poem.txt")
    dataset, tokenizer = prepare_dataset("poem.txt", 16, HuggingFaceTokenizer(TOKENIZER, separator=0))
    config = ModelConfig(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    settings: dict[str, Any] = {"max_steps": 1, "out": "run", "quiet": True}
    assert Trainer(config, dataset, **settings).model_files == {"tokenizer.json": TOKENIZER}
    with pytest.raises(ConfigError, match=r"model_files has 'model.safetensors', .* tokenizer.json, "):
        Trainer(config, dataset, model_files={"model.safetensors": b""}, **settings)
