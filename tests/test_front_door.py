"""Run the commands and the Python example of the front door as written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.support.tools import run_child

COMMANDS = """\
python train.py                     # micro on Shakespeare, 500 steps, checkpoints/ is created
python generate.py demo             # sample prompts
python generate.py interactive      # a prompt
python generate.py eval             # loss, perplexity, bits per byte of the held-out split
"""

EXAMPLE = """\
from model_config import ModelConfig, get_model_size
from light_llm import LightLLM
from train import Trainer
from dataset import prepare_dataset, create_dataloader

config = ModelConfig.nano()                                   # also .micro() (default) and .small()
dataset, tokenizer = prepare_dataset("shakespeare", max_length=512)
train_loader = create_dataloader(dataset, batch_size=8)
model = LightLLM(config)
trainer = Trainer(model, train_loader, max_steps=1000)
trainer.train()

from generate import TextGenerator
generator = TextGenerator("checkpoints/best_model.pt")
text = generator.generate(prompt="To be or not to be", max_new_tokens=100, temperature=0.8,
                          top_k=40, top_p=0.9, repetition_penalty=1.1)

config = ModelConfig(n_embd=256, n_layer=8, n_head=8, n_positions=512, dropout=0.1)
print(f"Estimated parameters: {get_model_size(config):,}")     # exact, in fact
"""


@pytest.fixture
def checkout(tmp_path: Path, offline_files: Path) -> Path:
    """A clone of the repository: the front files and the package."""
    folder = tmp_path / "light-llm"
    folder.mkdir()
    for name in ("model_config.py", "dataset.py", "train.py", "generate.py"):
        shutil.copy(CHECKOUT / name, folder)
    shutil.copytree(CHECKOUT / "light_llm", folder / "light_llm", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def shell(line: str, checkout: Path) -> "subprocess.CompletedProcess[str]":
    words = line.split("#")[0].split()
    assert words[0] == "python"
    env = {"LIGHT_LLM_STOP_AFTER": "1", "PYTHONPATH": ""}
    return run_child([sys.executable, *words[1:]], cwd=checkout, env=env, stdin="ROMEO:\n/temperature 0\nJULIET:\n")


def test_the_commands_work_as_written(checkout: Path) -> None:
    train, demo, prompt, evaluate = (shell(line, checkout) for line in COMMANDS.splitlines())
    assert train.returncode == 130, train.stderr  # LIGHT_LLM_STOP_AFTER ends it as Ctrl-C would
    assert "30,339,456 parameters" in train.stdout and "301,966 training tokens, 36,059 held out" in train.stdout
    assert "6.8 passes over the text" in train.stdout
    assert (checkout / "checkpoints" / "best_model.pt").is_file()
    assert demo.returncode == 0 and "To be or not to be" in demo.stdout, demo.stderr
    assert prompt.returncode == 0 and re.match(r"ROMEO:[\s\S]+\nJULIET:", prompt.stdout), prompt.stderr
    assert evaluate.returncode == 0, evaluate.stderr
    assert re.search(r"loss +\d+\.\d+ ± [\d.]+ nats per token\nperplexity +[\d.]+\nbits/byte +\d\.\d+", evaluate.stdout)
    assert "36,058 targets, 111,5" in evaluate.stdout


def test_the_example_works_as_written(checkout: Path) -> None:
    program = EXAMPLE + "\nassert text.startswith('To be or not to be') and len(text) > 60\n"
    child = run_child(
        [sys.executable, "-c", program], cwd=checkout, env={"LIGHT_LLM_STOP_AFTER": "1", "PYTHONPATH": ""}
    )
    assert child.returncode == 0, child.stderr
    assert "Estimated parameters: 19,315,456" in child.stdout and "12,515,520 parameters" in child.stdout
