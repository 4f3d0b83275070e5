"""The compiled loop is the plain one. Compiling takes a minute, so this is part of `make check-all`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.train import Trainer
from tests.support import faults
from tests.support.tools import byte_loader, byte_model, rows_of


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_training_is_plain_training(poem: Path) -> None:
    """Ten steps each, float32: the same losses, and checkpoints under the plain names."""
    losses = {}
    settings: dict[str, Any] = {"max_steps": 10, "device": "cpu", "dtype": "float32", "quiet": True}
    for mode in ("off", "on"):
        model = byte_model()
        Trainer(model, byte_loader(poem), out=mode, compile=mode, sample_interval=0, **settings).train()
        losses[mode] = [row["loss"] for row in rows_of(mode, "step")]
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)
    names = [set(torch.load(f"{mode}/best_model.pt", weights_only=True)["model"]) for mode in ("off", "on")]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_run_is_resumed_bit_for_bit(poem: Path, dtype: str) -> None:
    """On one machine, with the same versions and threads; dropout and accumulation are on."""
    outcome = faults.resumes(poem, (6,), compile="on", dtype=dtype)
    assert outcome.survived == outcome.tried == 1
