"""Checkpoints: complete or absent; same content, same bytes; damage is named (also test_fuzz.py, test_hostile.py)."""

import io
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from light_llm.atomic_io import atomic_write
from light_llm.checkpoint import (
    Files,
    RunFolder,
    StepState,
    load_model,
    model_meta,
    read_model,
    read_step,
    restore_optimizer,
    write_model_file,
    write_step,
)
from light_llm.checkpoint.commit import commit_folder, verify_folder
from light_llm.checkpoint.tensors import TYPES, read_tensors, write_tensors
from light_llm.config import TrainConfig
from light_llm.data.tokenizers import CharTokenizer
from light_llm.errors import CheckpointError
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.runtime import rng_state, set_rng_state
from tests.support.faults import Dying
from tests.support.tools import some_tokens, tiny_model

# Of a published model; they are also in every folder and file that test_fuzz.py damages.
FILES = {"tokenizer.json": b'{"version": "1.0"}', "chat_template.jinja": "{{ é }}\r\n".encode(), "merges.txt": b""}


class PowerCut(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def cut_power() -> None:
    raise PowerCut


def fill_disk() -> None:
    raise OSError(28, "No space left on device")


def meta_of(model: Any, step: int = 3) -> dict[str, Any]:
    return model_meta(model, None, step=step, dtype="float32", evaluation=None) | {
        "tokenizer": CharTokenizer("".join(chr(65 + i) for i in range(60))).to_dict()
    }


def trained(seed: int = 0, **changes: Any) -> tuple[Any, torch.optim.Optimizer]:
    """Return a model and an optimizer that has made a step."""
    model = tiny_model(seed, **changes)
    optimizer = build_optimizer(model, TrainConfig())
    NextTokenLoss(model)(some_tokens(), some_tokens(seed=9)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def save(
    path: Path, model: Any, optimizer: Any, disk: Files | None = None, step: int = 3, meta: Any = None, **how: Any
) -> None:
    state, meta = StepState(step=step, tokens=99, batches=4, lr_horizon=10), meta or meta_of(model, step)
    how |= {"rng": rng_state("cpu"), "disk": disk or Files(), "run": {}, "files": FILES}
    write_step(path, model=model, optimizer=optimizer, state=state, meta=meta, **how)


# ---- the commit protocol


def test_operations_come_in_the_order_of_the_protocol(tmp_path: Path) -> None:
    files = Dying(10**9, end=cut_power)
    commit_folder(tmp_path / "step", {"a": lambda f: f.write(b"1"), "b": lambda f: f.write(b"2")}, files)
    assert files.done == ["make_folder", *(["write", "sync"] * 3), "sync_folder", "rename", "sync_folder"]
    files.done.clear()
    atomic_write(tmp_path / "file", lambda f: f.write(b"1"), files)
    assert files.done == ["write", "sync", "rename", "sync_folder"]


def test_a_cut_at_any_operation_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Every operation of writing a second step fails once: the first is intact, the second whole or absent."""
    model, optimizer = trained()
    other, other_optimizer = trained(seed=1)
    for n in range(1, 100):
        folder = RunFolder(tmp_path / str(n))
        folder.path.mkdir()
        save(folder.step_path(3), model, optimizer)
        with suppress(PowerCut):
            save(folder.step_path(6), other, other_optimizer, files := Dying(n, end=cut_power), step=6)
        steps = folder.steps()
        assert steps[0].name == "step-000003"
        for step in steps:
            verify_folder(step)
        if files.left > 0:
            assert len(steps) == 2 and n > 8
            return
        folder.remove_stale()
        assert not list(folder.path.glob("*tmp*"))
        save(folder.step_path(6), other, other_optimizer, step=6)  # the same step can be written afterwards
        assert len(folder.steps()) == 2


def test_a_step_written_twice_is_never_absent(tmp_path: Path) -> None:
    model, optimizer = trained()
    other, other_optimizer = trained(seed=1)
    for n in range(1, 100):
        path = tmp_path / str(n) / "step-000003"
        path.parent.mkdir()
        save(path, model, optimizer)
        try:
            save(path, other, other_optimizer, Dying(n, end=cut_power))
        except PowerCut:
            RunFolder(path.parent).remove_stale()
            assert [p.name for p in path.parent.iterdir()] == ["step-000003"], f"after operation {n}"
            verify_folder(path)
            continue
        assert [p.name for p in path.parent.iterdir()] == ["step-000003"]
        return


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    model, other = tiny_model(), tiny_model(seed=1)
    write_model_file(path, model.state_dict(), meta_of(model), Files(), FILES)
    before = path.read_bytes()
    for n in (1, 2, 3):
        with pytest.raises(OSError, match="No space left"):
            write_model_file(path, other.state_dict(), meta_of(other), Dying(n, end=fill_disk), FILES)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["best_model.pt"]


# ---- same content, same bytes


def test_save_load_save_is_the_same_bytes(tmp_path: Path) -> None:
    model, _ = trained()
    first, second = tmp_path / "first.pt", tmp_path / "other name.pt"
    write_model_file(first, model.state_dict(), meta_of(model), Files(), FILES)
    stored = read_model(first)
    assert stored.files == FILES
    write_model_file(second, stored.weights, stored.meta, Files(), stored.files)
    assert first.read_bytes() == second.read_bytes()

    model, optimizer = trained()
    save(tmp_path / "step-000003", model, optimizer)
    weights, moments, rng, _, _ = read_step(tmp_path / "step-000003")
    again = tiny_model(seed=7)
    again.load_state_dict(weights)
    fresh = build_optimizer(again, TrainConfig())
    restore_optimizer(again, fresh, moments)
    set_rng_state(rng, "cpu")
    save(tmp_path / "step-000004", again, fresh)
    for name in (
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "state.json",
        "MANIFEST.json",
        *FILES,
    ):
        assert (tmp_path / "step-000003" / name).read_bytes() == (tmp_path / "step-000004" / name).read_bytes(), name


def test_a_model_file_is_readable_by_plain_torch(tmp_path: Path) -> None:
    model = tiny_model()
    write_model_file(tmp_path / "m.pt", model.state_dict(), meta_of(model), Files(), FILES)
    payload = torch.load(tmp_path / "m.pt", weights_only=True)
    assert torch.equal(payload["model"]["wte.weight"], model.wte.weight) and payload["format"] == 2
    assert {name: bytes(data.tolist()) for name, data in payload["files"].items()} == FILES


def test_names_of_wrappers_are_never_stored(tmp_path: Path) -> None:
    model, _ = trained()
    wrapped = torch.nn.Module()
    wrapped.module = torch.compile(model, backend="eager")
    optimizer = build_optimizer(wrapped, TrainConfig())
    NextTokenLoss(model)(some_tokens(), some_tokens()).backward()
    optimizer.step()
    save(tmp_path / "step-000003", wrapped, optimizer, meta=meta_of(model))
    weights, moments, *_ = read_step(tmp_path / "step-000003")
    assert weights.keys() == model.state_dict().keys()
    assert {key.rpartition("/")[0] for key in moments} == {name for name, _ in model.named_parameters()}


# ---- loading


def test_all_three_kinds_of_path_give_the_model(tmp_path: Path) -> None:
    model, optimizer = trained()
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    save(run.step_path(3), model, optimizer)
    x = some_tokens()
    for path in (run.step_path(3), run.path):
        assert torch.equal(load_model(path).model(x), model(x)) and read_model(path).files == FILES
    write_model_file(run.best_model, tiny_model(seed=5).state_dict(), meta_of(model), Files())
    assert torch.equal(load_model(run.path).model(x), tiny_model(seed=5)(x))
    file = read_model(run.best_model)
    assert file.tokenizer is not None and file.tokenizer.vocab_size == 61 and file.meta["step"] == 3


@pytest.mark.parametrize("name", ["MANIFEST.json", "run.json"])
def test_any_flip_in_what_no_manifest_covers_is_seen(tmp_path: Path, name: str) -> None:
    """Each byte once, white space too."""
    model, optimizer = trained()
    run = RunFolder(tmp_path)
    save(run.step_path(3), model, optimizer)
    run.write_run({"format": 1, "run": {"train": {"lr": 0.01}}, "started": "now"})
    read = {"MANIFEST.json": lambda: verify_folder(run.step_path(3)), "run.json": run.read_run}[name]
    file = run.step_path(3) / name if name == "MANIFEST.json" else run.path / name
    good = file.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"damaged|newer light-llm|is missing"):
            read()
    file.write_bytes(good)
    read()
    (run.step_path(3) / "rng.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rng.safetensors is missing"):
        read_step(run.step_path(3))


def test_another_format_is_named(tmp_path: Path) -> None:
    path, model = tmp_path / "best_model.pt", tiny_model()
    write_model_file(path, model.state_dict(), meta_of(model), Files())
    for change, message in {
        ("format", 3): "best_model.pt was written by a newer light-llm, in format 3",
        ("format", "2"): "best_model.pt is damaged: its format is '2'",
        ("kind", "something else"): "is not a light-llm model file",
    }.items():
        torch.save(torch.load(path, weights_only=True) | dict([change]), path)
        with pytest.raises(CheckpointError, match=message):
            read_model(path)
    model, optimizer = trained()
    save(tmp_path / "step-000003", model, optimizer)
    manifest = tmp_path / "step-000003" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 9'))
    with pytest.raises(CheckpointError, match="step-000003 was written by a newer light-llm, in format 9"):
        read_model(tmp_path / "step-000003")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"n_embed": 3}}, "written by another version .*n_embd"),
        ({"config": {"n_embd": 48, "n_head": 3}}, r"m.pt does not fit its own config: .* 28 tensors"),
        ({"tokenizer": {"kind": "morse"}}, "tokenizer of kind 'morse'"),
        ({"tokenizer": {"kind": "char"}}, "a damaged tokenizer of kind 'char'"),
    ],
)
def test_a_description_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    model = tiny_model()
    write_model_file(tmp_path / "m.pt", model.state_dict(), meta_of(model) | change, Files())
    with pytest.raises(CheckpointError, match=message):
        read_model(tmp_path / "m.pt")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/best_model.pt. .*light-llm train"):
        read_model("nowhere/best_model.pt")
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*; that folder holds other.pt. Train one with"):
        read_model(tmp_path / "best_model.pt")
    (tmp_path / "my-run").mkdir()
    (tmp_path / "my-run" / "best_model.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*myrun; did you mean my-run\? Train one with"):
        read_model(tmp_path / "myrun")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="there is no model in the folder"):
        read_model(tmp_path / "empty")


def test_tensors_are_written_as_the_library_writes_them(tmp_path: Path) -> None:
    """The very bytes of safetensors' own `save`, for each type, no dimension, no element, a view, an odd name."""
    pairs = zip("hgfedcba", TYPES, strict=True)
    tensors = {name: some_tokens(3, 5, V=2).to(dtype) for name, dtype in pairs}
    tensors |= {"step": torch.tensor(3.0), "none": torch.zeros(2, 0), 'é"\\': torch.arange(6.0).view(2, 3).T}
    write_all = io.BytesIO()
    write_tensors(write_all, tensors)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert write_all.getvalue() == safetensors.torch.save(whole, metadata={"format": "pt"})
    (tmp_path / "x").write_bytes(write_all.getvalue())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(tmp_path / "x").items())


def test_writing_tensors_makes_no_second_copy_of_them(tmp_path: Path) -> None:
    """A save must not be the moment at which a run that fits into memory no longer does."""
    tensors = {str(i): torch.ones(1 << 18) for i in range(16)}  # 16 MB in all
    tracemalloc.start()
    try:
        with open(tmp_path / "x", "wb") as file:
            write_tensors(file, tensors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
