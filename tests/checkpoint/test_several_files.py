"""A model that is too large for one file: the same tensors in several, under the same commit protocol."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.checkpoint import RunFolder, load_model, read_model, read_step, restore_optimizer
from light_llm.checkpoint.commit import MANIFEST, as_json, read_json, verify_folder
from light_llm.checkpoint.tensors import file_order, read_tensors, split_by_bytes
from light_llm.config import TrainConfig
from light_llm.errors import CheckpointError
from light_llm.optim import build_optimizer
from tests.checkpoint.test_checkpoint import PowerCut, cut_power, fill_disk, save, trained
from tests.checkpoint.test_gather import Gathers, in_file_order
from tests.support.faults import Dying
from tests.support.tools import some_tokens, tiny_model

LIMIT = 6000  # parameters of a file; the tiny model has about 16,000


def files_of(path: Path, stem: str) -> list[Path]:
    return sorted(path.glob(f"{stem}*.safetensors"))


@pytest.mark.parametrize("limit", [0, 1, 100, 399, 400, 800, 10**9])
def test_tensors_are_divided_in_order_by_bytes(limit: int) -> None:
    """Every tensor once, in the order of one file; a file is within the limit or has one tensor; none could grow."""
    tensors = {str(i): torch.zeros(n) for i, n in enumerate([5, 100, 60, 40, 1, 0, 99])} | {"x": torch.zeros(9).half()}
    parts = split_by_bytes("model", tensors, limit)
    n = len(parts)
    assert list(parts) == ["model.safetensors"] * (n == 1) or list(parts) == [
        f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)
    ]
    assert [name for part in parts.values() for name in part] == file_order(tensors)
    sizes = [sum(t.nbytes for t in part.values()) for part in parts.values()]
    assert all(size <= limit or len(part) == 1 for size, part in zip(sizes, parts.values(), strict=True))
    firsts = [next(iter(part.values())).nbytes for part in parts.values()]
    assert all(size + first > limit for size, first in zip(sizes, firsts[1:], strict=False))


def test_several_files_hold_what_one_file_holds(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "one", model, optimizer)
    save(tmp_path / "several", model, optimizer, file_parameters=LIMIT)
    save(tmp_path / "barely", model, optimizer, file_parameters=sum(p.numel() for p in model.parameters()))
    assert [p.name for p in files_of(tmp_path / "barely", "model")] == ["model.safetensors"]
    assert [p.name for p in files_of(tmp_path / "barely", "optimizer")] == ["optimizer.safetensors"]
    for stem in ("model", "optimizer"):
        several = files_of(tmp_path / "several", stem)
        n = len(several)
        assert n > 3 and [p.name for p in several] == [f"{stem}-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]
        parts = {name: t for path in several for name, t in read_tensors(path).items()}
        whole = read_tensors(tmp_path / "one" / f"{stem}.safetensors")
        assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in whole)
    assert {p.name for p in (tmp_path / "several").iterdir()} == {*verify_folder(tmp_path / "several"), MANIFEST}

    weights, moments, rng, state, meta = read_step(tmp_path / "several")
    assert read_step(tmp_path / "one")[3:] == (state, meta)
    again = tiny_model(seed=7)
    again.load_state_dict(weights)
    fresh = build_optimizer(again, TrainConfig())
    restore_optimizer(again, fresh, moments)
    save(tmp_path / "again", again, fresh, file_parameters=LIMIT)
    for name in verify_folder(tmp_path / "several"):
        if name != "rng.safetensors":
            assert (tmp_path / "several" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_folder_of_several_files_is_a_model(tmp_path: Path) -> None:
    model, optimizer = trained()
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    save(run.step_path(3), model, optimizer, file_parameters=LIMIT)
    x = some_tokens()
    for path in (run.path, run.step_path(3)):
        assert torch.equal(load_model(path).model(x), model(x))
        assert {t.dtype for t in read_model(path, torch.bfloat16).weights.values()} == {torch.bfloat16}
    assert run.latest_valid_step()[0] == run.step_path(3)


def test_a_step_of_several_files_is_gathered_in_the_order_of_one(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "step", model, optimizer)
    tensors = in_file_order(tmp_path / "step")
    gather = Gathers(tensors)
    save(tmp_path / "several", model, optimizer, gather=gather, file_parameters=LIMIT)
    assert gather.shapes == [tuple(t.shape) for t in tensors] and gather.peak <= 2 * max(t.nbytes for t in tensors)


@pytest.mark.parametrize("halfway", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_cut_leaves_the_old_step_or_the_new(tmp_path: Path, halfway: bool) -> None:
    """Every operation of writing several files fails once, by a power cut and by a full disk."""
    model, optimizer = trained()
    other, other_optimizer = trained(seed=1)
    save(tmp_path / "old", model, optimizer, file_parameters=LIMIT)
    tensors = in_file_order(tmp_path / "old")
    for n in range(1, 200):
        end = cut_power if n % 2 else fill_disk
        folder = RunFolder(tmp_path / str(n))
        shutil.copytree(tmp_path / "old", folder.step_path(3))
        gather, disk = Gathers(tensors), Dying(n, end=end, halfway=halfway)
        with suppress(PowerCut, OSError):
            save(folder.step_path(3), other, other_optimizer, disk, gather=gather, file_parameters=LIMIT)
        if end is fill_disk:
            assert gather.calls == len(gather.whole), "all tensors are gathered before the error"
            assert not list(folder.path.glob("*.tmp-*")) or disk.left > 0
        folder.remove_stale()
        assert [p.name for p in folder.path.iterdir()] == ["step-000003"], f"after operation {n}"
        read_step(folder.step_path(3))
        if disk.left > 0:
            assert n > 2 * len(files_of(folder.step_path(3), ""))
            return
    raise AssertionError("the save has no end")


def test_damage_to_one_of_several_files_is_named(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "step", model, optimizer, file_parameters=LIMIT)
    for path in [*files_of(tmp_path / "step", "model"), *files_of(tmp_path / "step", "optimizer")]:
        good = path.read_bytes()
        for bad, message in ((good[:-1], "bytes"), (good[:-1] + bytes([good[-1] ^ 1]), "SHA-256"), (None, "missing")):
            path.unlink()
            if bad is not None:
                path.write_bytes(bad)
            with pytest.raises(CheckpointError, match=rf"{path.name}.*{message}"):
                read_step(tmp_path / "step")
        path.write_bytes(good)
    read_step(tmp_path / "step")


def rename_in_manifest(folder: Path, names: dict[str, str | None]) -> None:
    """Rename files of a folder, or remove them, and write a manifest that fits: as a hostile folder would have."""
    entries: dict[str, Any] = read_json(folder / MANIFEST)["files"]
    for old, new in names.items():
        entry = entries.pop(old)
        if new is None:
            (folder / old).unlink()
        else:
            os.replace(folder / old, folder / new)
            entries[new] = entry
    with open(folder / MANIFEST, "wb") as file:
        as_json({"format": 2, "files": entries})(file)


def test_a_manifest_of_an_impossible_set_of_files(tmp_path: Path) -> None:
    """Under a right manifest: a file too few, two counts, a name of one file beside them, a tensor twice."""
    model, optimizer = trained()
    save(tmp_path / "whole", model, optimizer, file_parameters=LIMIT)
    names = [p.name for p in files_of(tmp_path / "whole", "model")]
    n = len(names)
    changes: dict[str, dict[str, str | None]] = {
        r"does not list model-00002-of": {names[1]: None},
        r"does not list model-00001-of": {names[0]: f"model-00001-of-{n + 1:05}.safetensors"},
        r"does not list model\.safetensors": dict.fromkeys(names),
        r"does not list model-0": {names[-1]: "model-99999-of-99999.safetensors"},
    }
    for i, (message, change) in enumerate(changes.items()):
        save(folder := tmp_path / str(i), model, optimizer, file_parameters=LIMIT)
        rename_in_manifest(folder, change)
        verify_folder(folder)
        for read in (read_step, read_model):
            with pytest.raises(CheckpointError, match=message):
                read(folder)
    save(folder := tmp_path / "twice", model, optimizer, file_parameters=LIMIT)
    (folder / names[1]).write_bytes((folder / names[0]).read_bytes())
    entries = read_json(folder / MANIFEST)["files"]
    entries[names[1]] = entries[names[0]]
    with open(folder / MANIFEST, "wb") as file:
        as_json({"format": 2, "files": entries})(file)
    with pytest.raises(CheckpointError, match=rf"{names[1]} is damaged: .* is in another file"):
        read_model(folder)
