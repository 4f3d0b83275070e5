"""Runs of the Trainer with a sharded model: the files of one process, resumed by one process."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from light_llm.config import ModelConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.model import LightLLM
from light_llm.runtime import World
from light_llm.train import Trainer
from tests.support.ranks import run_ranks
from tests.support.tools import cache_profile, files_of, rows_of

# Of everything but the norm that clips, which is added up in another order.
MUON: dict[str, Any] = {"optimizer": "muon", "dtype": "bfloat16", "grad_clip": 1e9}
SETTINGS: dict[str, Any] = {
    "max_steps": 8,
    "warmup_steps": 2,
    "eval_interval": 8,
    "save_interval": 4,
    "keep_every": 4,
    "sample_interval": 0,
    "probe_interval": 8,
    "device": "cpu",
    "micro_batch": 4,
    "seed": 3,
}
SHAPE: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_kv_head": 2, "n_positions": 16}
LLAMA: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "tied_head": False}


def run(out: Path, text: str, settings: dict[str, Any], *, stop: int | None = None, **how: Any) -> str:
    """Train on a text, or continue. Returns how the run ended."""
    dataset, tokenizer = prepare_dataset(text, max_length=16, tokenizer="byte")
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE, **LLAMA)
    cache_profile(config)  # of this number of threads
    model = LightLLM(config, seed=3)
    loader = create_dataloader(dataset, batch_size=8, seed=3)
    trainer = Trainer(model, loader, out=out, quiet=True, report=False, skip_doctor=True, **settings, **how)
    trainer.stop_flag.stop_after = stop
    return trainer.train().status


def run_sharded(world: World, text: str, folder: str) -> list[str]:
    """On each rank: a whole run with Muon, one that stops in the middle, and one whose gradients are clipped."""
    sharded = SETTINGS | MUON | {"parallel": "fsdp"}
    clipped = SETTINGS | {"parallel": "fsdp", "dtype": "float32", "grad_clip": 0.5, "lr": 1e-3}
    return [
        run(Path(folder, "sharded"), text, sharded),
        run(Path(folder, "stopped"), text, sharded, stop=4),
        run(Path(folder, "clipped"), text, clipped),
    ]


NAMES = ("model.safetensors", "optimizer.safetensors", "state.json", "model.json")


def test_a_sharded_run_is_that_of_one_process(poem: Path, tmp_path: Path) -> None:
    ended = run_ranks(2, run_sharded, str(poem), str(tmp_path), timeout=120)
    assert ended == [["done", "interrupted", "done"]] * 2
    run(tmp_path / "one", str(poem), SETTINGS | MUON)
    last = files_of(tmp_path / "one" / "step-000008")
    sharded = files_of(tmp_path / "sharded" / "step-000008")
    assert {name: sharded[name] == last[name] for name in NAMES} == dict.fromkeys(NAMES, True)
    assert (tmp_path / "sharded/best_model.pt").read_bytes() == (tmp_path / "one/best_model.pt").read_bytes()
    # Norms are not equal to the last bit, and so are rounded to other digits at times.
    losses = [[row["loss"] for row in rows_of(tmp_path / name, "step")] for name in ("one", "sharded")]
    assert losses[0] == losses[1]
    assert rows_of(tmp_path / "one", "eval") == rows_of(tmp_path / "sharded", "eval")

    # Resumed by one process.
    run(tmp_path / "stopped", str(poem), {"max_steps": 8, "parallel": "auto"}, resume=True)
    resumed = files_of(tmp_path / "stopped" / "step-000008")
    assert {name: resumed[name] == last[name] for name in NAMES} == dict.fromkeys(NAMES, True)

    run(tmp_path / "plain", str(poem), SETTINGS | {"dtype": "float32", "grad_clip": 0.5, "lr": 1e-3})
    plain, clipped = (
        safetensors.torch.load_file(tmp_path / name / "step-000008" / "model.safetensors")
        for name in ("plain", "clipped")
    )
    for name, weight in plain.items():
        assert float((weight - clipped[name]).abs().max()) <= 1e-5, name
    rows = [rows_of(tmp_path / name, "step") for name in ("plain", "clipped")]
    for one, several in zip(*rows, strict=True):
        assert several["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert several["update_ratios"] == pytest.approx(one["update_ratios"], rel=2e-3)
