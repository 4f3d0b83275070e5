"""Run folders of earlier versions still resume, and end as they would have ended then."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from light_llm.checkpoint import read_model
from light_llm.config import ModelConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.generate import TextGenerator
from light_llm.model import LightLLM
from light_llm.train import Trainer
from tests.support.tools import rows_of

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {"generation_config.json": b'{"eos_token_id": 0 }', "chat_template.jinja": "{{ é }}\r\n".encode()}
TENSORS = ("model.safetensors", "optimizer.safetensors", "rng.safetensors")


def train(out: str, tokenizer: Any = "char", **settings: Any) -> None:
    """Train, or resume, the run that the fixtures were made with."""
    dataset, tokenizer = prepare_dataset("poem.txt", max_length=16, tokenizer=tokenizer)
    torch.manual_seed(0)
    model = LightLLM(
        ModelConfig(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=16, n_layer=1, n_head=2, dropout=0.1),
        seed=None,
    )
    how: dict[str, Any] = {
        "max_steps": 40,
        "lr": 1e-2,
        "warmup_steps": 3,
        "eval_interval": 10,
        "save_interval": 10,
        "sample_interval": 0,
        "device": "cpu",
        "dtype": "float32",
        "compile": "off",
    } | settings
    loader = create_dataloader(dataset, 4, seed=1)
    Trainer(model, loader, out=out, quiet=True, report=False, skip_doctor=True, **how).train()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_of_an_earlier_version_resumes_bit_for_bit(optimizer: str) -> None:
    """On a machine that rounds as the one of the fixtures did; elsewhere the numbers agree within rounding."""
    copy_fixture(FIXTURES / optimizer)
    train("whole", optimizer=optimizer)
    train("stopped", optimizer=optimizer, resume=True)
    check_resumed(FIXTURES / optimizer, 40)


def test_a_run_of_format_2_resumes_with_the_files_of_its_model() -> None:
    """A published tokenizer and its companions: the same bytes in every checkpoint before and after."""
    fixture = FIXTURES / "published"
    copy_fixture(fixture)
    files = read_model("stopped").files
    assert files == {**FILES, "tokenizer.json": (fixture / "stopped/step-000007/tokenizer.json").read_bytes()}
    tokenizer = HuggingFaceTokenizer(files["tokenizer.json"], separator=0)
    writer = TextGenerator("stopped/step-000007", device="cpu")
    assert isinstance(writer.tokenizer, HuggingFaceTokenizer) and writer.tokenizer.to_dict() == tokenizer.to_dict()
    assert len(writer.generate("The owl", 20, seed=1)) > len("The owl")
    train("whole", tokenizer, model_files=FILES, max_steps=12, eval_interval=5, save_interval=5)
    train("stopped", writer.tokenizer, max_steps=12, eval_interval=5, save_interval=5, resume=True)
    check_resumed(fixture, 12)
    for path in ("stopped", "stopped/step-000012"):
        assert read_model(path).files == files


def copy_fixture(fixture: Path) -> None:
    shutil.copy(FIXTURES / "poem.txt", "poem.txt")
    shutil.copytree(fixture / "stopped", "stopped")


def check_resumed(fixture: Path, steps: int) -> None:
    """Compare the resumed run `stopped` with `whole`, and with the fixture if this machine rounds as its machine."""
    losses = {name: [row["loss"] for row in rows_of(name, "step")] for name in ("whole", "stopped", fixture / "whole")}
    assert [len(values) for values in losses.values()] == [steps] * 3
    last = f"step-{steps:06d}"
    if losses["whole"] == losses[fixture / "whole"]:
        assert losses["stopped"] == losses["whole"]
        for name in TENSORS:
            resumed = Path("stopped", last, name).read_bytes()
            assert resumed == Path("whole", last, name).read_bytes(), name
            assert resumed == (fixture / "whole" / last / name).read_bytes(), name
        assert Path("stopped/best_model.pt").read_bytes() == Path("whole/best_model.pt").read_bytes()
        return
    warnings.warn("this machine rounds differently from the one of the fixtures: compared within 1e-4", stacklevel=1)
    assert losses["stopped"] == pytest.approx(losses[fixture / "whole"], rel=1e-4)
    for name in TENSORS[:2]:
        expected = load_file(fixture / "whole" / last / name)
        for key, value in load_file(Path("stopped", last, name)).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-2, atol=1e-4)
