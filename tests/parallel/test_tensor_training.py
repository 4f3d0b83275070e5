"""A run with `tensor=2` is that of one process, and its checkpoints know nothing of how many processes there were."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.checkpoint import load_model, read_step
from light_llm.config import ModelConfig
from light_llm.errors import ConfigError
from light_llm.model import LightLLM
from light_llm.runtime import World
from light_llm.train import Trainer
from tests.support.ranks import run_ranks
from tests.support.tools import SMALL, byte_loader, cache_profile, rows_of

SHAPES: dict[str, dict[str, Any]] = {
    "gpt": {"n_embd": 32, "n_head": 4},
    "llama": {"n_embd": 32, "n_head": 4, "n_kv_head": 2, "positions": "rope", "norm": "rmsnorm", "mlp": "swiglu"}
    | {"bias": False, "tied_head": False, "qk_norm": True},
}
CONFIG = SMALL | {"max_steps": 12, "eval_interval": 6, "save_interval": 6, "sample_interval": 6, "probe_interval": 6}
CONFIG |= {"skip_doctor": True, "lr": 1e-3}


def model(shape: str, dropout: float) -> LightLLM:
    return LightLLM(ModelConfig(vocab_size=257, n_positions=32, n_layer=2, dropout=dropout, **SHAPES[shape]), seed=0)


def train(world: World, shape: str, text: str, out: str, dropout: float = 0.0, **changes: Any) -> Trainer:
    trainer = Trainer(model(shape, dropout), byte_loader(Path(text)), out=out, world=world, **(CONFIG | changes))
    trainer.train()
    return trainer


def tensor_runs(world: World, text: str, out: str, runs: list[dict[str, Any]]) -> None:
    """Train, one run after the other."""
    for run in runs:
        settings = {name: value for name, value in run.items() if name not in ("shape", "name")}
        train(world, run["shape"], text, str(Path(out, run["name"])), **settings)


def difference(a: Path, b: Path) -> float:
    """Return the largest difference of the weights of two step folders."""
    first, second = read_step(a)[0], read_step(b)[0]
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def compare(whole: Path, divided: Path) -> None:
    """Assert that a run on several processes wrote what a run on one wrote, to the last digits."""
    for step in ("step-000006", "step-000012"):
        assert difference(whole / step, divided / step) < 1e-4
    one, other = load_model(whole / "best_model.pt").model, load_model(divided / "best_model.pt").model
    tokens = torch.arange(20)[None]
    assert torch.allclose(one(tokens), other(tokens), atol=1e-3)
    for kind, names in {"step": ("loss", "grad_norm", "tokens"), "eval": ("loss", "step")}.items():
        rows = list(zip(rows_of(whole, kind), rows_of(divided, kind), strict=True))
        assert rows and all(a[name] == pytest.approx(b[name], rel=2e-5) for a, b in rows for name in names)
    for a, b in zip(rows_of(whole, "probe"), rows_of(divided, "probe"), strict=True):
        for layers_a, layers_b in zip(a["attention"]["entropy"], b["attention"]["entropy"], strict=True):
            assert layers_a == pytest.approx(layers_b, rel=1e-2), "of all heads, in their order"
    assert [row["text"] for row in rows_of(whole, "sample")] == [row["text"] for row in rows_of(divided, "sample")]


def test_two_ranks_train_as_one(tmp_path: Path, poem: Path) -> None:
    cache_profile(model("llama", 0.0).config)  # a measured one takes ten seconds
    # Ranks that share each matrix draw the masks of one process.
    run = {"shape": "llama", "name": "divided", "tensor": 2, "dropout": 0.1}
    run_ranks(2, tensor_runs, str(poem), str(tmp_path), [run], timeout=180)
    # As a run that was killed before its last save.
    shutil.copytree(tmp_path / "divided", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "step-000012")
    train(World(), "llama", str(poem), str(tmp_path / "whole"), dropout=0.1)
    compare(tmp_path / "whole", tmp_path / "divided")
    with pytest.raises(ConfigError, match="tensor=2 needs 2 processes"):
        train(World(), "llama", str(poem), str(tmp_path / "resumed"), dropout=0.1, resume=True, tensor=2)
    train(World(), "llama", str(poem), str(tmp_path / "resumed"), dropout=0.1, resume=True, tensor=1)
    compare(tmp_path / "whole", tmp_path / "resumed")
    assert json.loads((tmp_path / "divided" / "run.json").read_text())["world"]["tensor"] == 2


@pytest.mark.slow
def test_four_ranks_train_as_one(tmp_path: Path, poem: Path) -> None:
    runs = [
        {"shape": shape, "name": f"{shape}-{kind}", "tensor": 2, "parallel": kind}
        for shape in SHAPES
        for kind in ("ddp", "fsdp")
    ]
    runs += [{"shape": "gpt", "name": "gpt-4", "tensor": 4}]
    run_ranks(4, tensor_runs, str(poem), str(tmp_path), runs, timeout=400)
    for shape in SHAPES:
        train(World(), shape, str(poem), str(tmp_path / shape))
    for run in runs:
        compare(tmp_path / str(run["shape"]), tmp_path / str(run["name"]))
