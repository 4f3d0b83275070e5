"""Weights in 16 bits: a file keeps them as they are, and reading converts one tensor at a time."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.checkpoint import (
    Files,
    describe_model,
    load_model,
    read_meta,
    read_model,
    read_step,
    restore_optimizer,
    write_model_file,
)
from light_llm.config import TrainConfig
from light_llm.errors import CheckpointError
from light_llm.optim import build_optimizer
from tests.checkpoint.test_checkpoint import FILES, meta_of, save, trained
from tests.support.live_bytes import allocations
from tests.support.tools import some_tokens, tiny_model

LARGE: dict[str, Any] = {"vocab_size": 2048, "n_embd": 128, "n_layer": 3, "n_head": 2}
TYPES = (torch.bfloat16, torch.float16, torch.float32)


def mixed(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: t.to(TYPES[i % 3]) for i, (name, t) in enumerate(model.state_dict().items())}


def halved(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: t.bfloat16() for name, t in model.state_dict().items()}


def peak(run: Any) -> int:
    return max(accumulate(allocations(run)), default=0)


def test_a_file_keeps_its_number_formats(tmp_path: Path) -> None:
    model = tiny_model()
    stored, path = mixed(model), tmp_path / "best_model.pt"
    write_model_file(path, stored, meta_of(model), Files())
    read = read_model(path).weights
    assert all(read[name].dtype == t.dtype and torch.equal(read[name], t) for name, t in stored.items())
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_model(path, dtype=dtype)
        for name, t in loaded.model.state_dict().items():
            assert t.dtype == dtype and torch.equal(t, stored[name].to(dtype))
            assert t.data_ptr() == loaded.file.weights[name].data_ptr()  # not held twice
    wide = load_model(path).model
    assert wide(some_tokens()).dtype == torch.float32 and all(p.requires_grad for p in wide.parameters())
    assert [p.dtype for p in load_model(path, dtype=None).model.parameters()] == [t.dtype for t in stored.values()]


def test_a_step_folder_can_be_read_in_16_bits(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "step-000003", model, optimizer)
    half = load_model(tmp_path / "step-000003", dtype=torch.bfloat16).model
    assert all(torch.equal(t, model.state_dict()[name].bfloat16()) for name, t in half.state_dict().items())


def test_no_second_copy_is_held(tmp_path: Path) -> None:
    """Writing copies nothing; reading needs the result, and one tensor in the number format of the file."""
    model = tiny_model(**LARGE)
    stored, path = halved(model), tmp_path / "best_model.pt"
    size, largest = (f(t.nbytes for t in stored.values()) for f in (sum, max))
    assert size > 1_500_000
    write = lambda: write_model_file(path, stored, meta_of(model), Files(), {"merges.txt": b"abc"})  # noqa: E731
    assert peak(write) < size / 100
    small = 100_000  # of single numbers and of the buffers of a new model
    assert peak(lambda: load_model(path, dtype=torch.bfloat16)) < size + small
    assert peak(lambda: load_model(path)) < 2 * size + largest + small
    assert peak(lambda: read_meta(path)) <= 2 * largest


def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    """As the rows of a fused matrix: torch.save would write all of it with each."""
    model, path = tiny_model(), tmp_path / "best_model.pt"
    weights = model.state_dict()
    whole = torch.cat([weights["wte.weight"], torch.ones(1000, weights["wte.weight"].size(1))])
    write_model_file(path, weights | {"wte.weight": whole[: len(weights["wte.weight"])]}, meta_of(model), Files())
    assert torch.equal(read_model(path).weights["wte.weight"], weights["wte.weight"])
    assert path.stat().st_size < whole.nbytes


def test_a_model_is_described_without_its_weights(tmp_path: Path) -> None:
    model, optimizer = trained()
    path, step = tmp_path / "best_model.pt", tmp_path / "step-000003"
    write_model_file(path, model.state_dict(), meta_of(model), Files(), FILES)
    save(step, model, optimizer)
    (step / "model.safetensors").write_bytes(b"not read")
    for place in (path, step):
        file = describe_model(place)
        assert file.config == model.config and file.files == FILES and not file.weights
        assert file.tokenizer is not None and file.tokenizer.vocab_size == 61


def test_an_optimizer_is_restored_without_a_second_copy(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "step-000003", model, optimizer)
    moments = read_step(tmp_path / "step-000003")[1]
    fresh = build_optimizer(model, TrainConfig())
    assert len(moments) == 3 * len(list(model.parameters()))
    restore_optimizer(model, fresh, moments)
    assert not moments and all(
        torch.equal(fresh.state[p][k], v) for p, e in optimizer.state.items() for k, v in e.items()
    )


def test_damage_is_seen_without_holding_the_weights(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / "best_model.pt"
    write_model_file(path, model.state_dict(), meta_of(model), Files())
    assert read_meta(path)["step"] == 3
    data = bytearray(path.read_bytes())
    at = data.index(model.h[0].mlp.c_proj.weight.detach().numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    for read in (read_meta, read_model):
        with pytest.raises(CheckpointError, match="do not match its digest"):
            read(path)
