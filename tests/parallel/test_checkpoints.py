"""Checkpoints and evaluations of a model that is sharded over real ranks."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from light_llm.checkpoint import load_model, read_step
from light_llm.checkpoint.commit import MANIFEST
from light_llm.runtime import World
from tests.checkpoint.test_several_files import files_of
from tests.support.checkpoint_runs import evaluations, save_read_and_evaluate
from tests.support.ranks import run_ranks


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_sharded_model_is_saved_read_and_evaluated_as_a_whole_one(tmp_path: Path, size: int) -> None:
    """In several files, each rank writing some; restored from rank 0; the evaluation of one process, to the bit."""
    results = run_ranks(size, save_read_and_evaluate, str(tmp_path), timeout=120)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"], "a failed save leaves no file"
    first, second = tmp_path / "first", tmp_path / "second"
    read_step(first)
    for path in first.iterdir():
        if path.name not in ("rng.safetensors", MANIFEST):
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    names = [path.name for stem in ("model", "optimizer") for path in files_of(first, stem)]
    found = evaluations(load_model(first).model, World())
    expected = json.loads(json.dumps([asdict(found[0]), found[1], asdict(found[2])]))
    for rank, result in enumerate(results):
        # Each of the two saves.
        assert result["wrote"] == names[rank::size] * 2
        assert result["sees"] and result["own state"]
        assert result["generators"] == ["cpu", *(f"cpu.{r}" for r in range(1, size))]
        # All disks but that of rank 0 are full.
        assert "No space left" in result["message"] and ("on rank 1" in result["message"]) == (rank == 0)
        assert result["evaluations"] == expected
        assert result["peak"] <= 3, "gathered tensors, in units of the largest"
