"""Several ranks write the files of a large step at the same time, and commit them as one would."""

import shutil
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from light_llm.atomic_io import Files, NullFiles, WriteFn
from light_llm.checkpoint import RunFolder, read_step
from light_llm.checkpoint.commit import MANIFEST
from tests.checkpoint.test_checkpoint import PowerCut, cut_power, fill_disk, save, trained
from tests.checkpoint.test_gather import Gathers, in_file_order
from tests.checkpoint.test_several_files import LIMIT, files_of
from tests.support.faults import Dying
from tests.support.rank_threads import ThreadWorld, run_threads

END = 200  # more operations than a save has


class Noted(Files):
    """The real file system, with the names of the files that were written."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def write(self, path: Path, write_fn: WriteFn) -> str:
        self.names.append(path.name)
        return super().write(path, write_fn)


class Apart(ThreadWorld):
    """Ranks without a common folder."""

    def agree(self, **flags: int) -> dict[str, int]:
        return super().agree(**flags) | {"missing": 1}


def save_on_ranks(path: Path, disks: list[Files], gathers: list[Gathers], world: ThreadWorld, seed: int = 0) -> None:
    """Save as one of several ranks; rank 0 writes with its disk, the others with theirs in a folder that all see."""
    model, optimizer = trained(seed)
    disk = disks[world.rank] if world.is_first else NullFiles(own=disks[world.rank])
    save(path, model, optimizer, disk, gather=gathers[world.rank], world=world, file_parameters=LIMIT)


def failure_of(path: Path, disks: list[Files], gathers: list[Gathers], world: ThreadWorld) -> str:
    """Return the error of a save, empty if there is none."""
    try:
        save_on_ranks(path, disks, gathers, world)
    except OSError as error:
        return str(error)
    return ""


def in_turn(path: Path, ranks: int) -> list[Any]:
    """Return the tensors of a step of several files in the order in which so many ranks gather them together."""
    from light_llm.checkpoint.tensors import TensorWriter, read_tensors

    files, found = [*files_of(path, "model"), *files_of(path, "optimizer")], []
    for i in range(0, len(files), ranks):
        writers = [TensorWriter(read_tensors(file)) for file in files[i : i + ranks]]
        while any(writer.waiting for writer in writers):
            found += [writer.next() for writer in writers if writer.waiting]
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_share_a_folder_each_write_some_files(tmp_path: Path, size: int) -> None:
    """The bytes of one process; each rank hashes its own files; at most three tensors in memory."""
    save(tmp_path / "one", *trained(), file_parameters=LIMIT)
    tensors = in_turn(tmp_path / "one", size)
    disks, gathers = [Noted() for _ in range(size)], [Gathers(tensors) for _ in range(size)]

    def write(world: ThreadWorld) -> list[Any]:
        save_on_ranks(tmp_path / "together", list(disks), gathers, world)
        return world.messages

    messages = run_threads(size, write)
    assert all(sent == messages[0] for sent in messages)
    for path in (tmp_path / "one").iterdir():
        if path.name not in ("rng.safetensors", MANIFEST):
            assert path.read_bytes() == (tmp_path / "together" / path.name).read_bytes(), path.name
    read_step(tmp_path / "together")
    stems = ("model", "optimizer")
    files = [path.name for stem in stems for path in files_of(tmp_path / "one", stem)]
    for rank, disk in enumerate(disks):
        assert [name for name in disk.names if name in files] == files[rank::size]
        assert rank == 0 or len(disk.names) == len(files[rank::size]), "rank 0 writes everything else"
    for gather in gathers:
        assert gather.calls == len(tensors) and gather.peak <= 4 * max(t.nbytes for t in tensors)


def test_ranks_without_a_common_folder_leave_all_files_to_rank_0(tmp_path: Path) -> None:
    save(tmp_path / "one", *trained(), file_parameters=LIMIT)
    tensors = in_file_order(tmp_path / "one")
    disks, gathers = [Noted(), Noted()], [Gathers(tensors), Gathers(tensors)]

    def write(world: ThreadWorld) -> None:
        world.__class__ = Apart
        save_on_ranks(tmp_path / "together", list(disks), gathers, world)

    run_threads(2, write)
    assert disks[1].names == [] and [gather.calls for gather in gathers] == [len(tensors)] * 2
    assert [p.read_bytes() for p in files_of(tmp_path / "one", "model")] == [
        p.read_bytes() for p in files_of(tmp_path / "together", "model")
    ]
    read_step(tmp_path / "together")


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_of_any_rank_is_an_error_of_all(tmp_path: Path, failing: int) -> None:
    """Each operation of a rank fails once: every tensor is gathered on all ranks, and the old step stays."""
    save(tmp_path / "old", *trained(seed=1), file_parameters=LIMIT)
    tensors = in_turn(tmp_path / "old", 2)
    for n in range(1, END):
        run = RunFolder(tmp_path / str(n))
        shutil.copytree(tmp_path / "old", path := run.step_path(3))
        disks: list[Files] = [Files(), Files()]
        disks[failing] = disk = Dying(n, end=fill_disk, halfway=bool(n % 2))
        gathers = [Gathers(tensors), Gathers(tensors)]

        errors = run_threads(2, partial(failure_of, path, disks, gathers))
        assert [gather.calls for gather in gathers] == [len(tensors)] * 2, f"operation {n}"
        assert bool(errors[0]) == bool(errors[1]) and all("No space left" in error for error in errors if error)
        assert not errors[0] or ("on rank 1" in errors[0]) == (failing == 1)
        run.remove_stale()
        assert [p.name for p in run.path.iterdir()] == ["step-000003"], f"operation {n}"
        read_step(path)
        if disk.left > 0:
            assert n > (20 if failing == 0 else 4)
            return
    raise AssertionError("the save has no end")


@pytest.mark.slow
def test_a_rank_that_dies_leaves_the_old_step(tmp_path: Path) -> None:
    save(tmp_path / "old", *trained(seed=1), file_parameters=LIMIT)
    tensors = in_turn(tmp_path / "old", 2)
    for dying in (0, 1):
        for n in range(1, END):
            run = RunFolder(tmp_path / f"{dying} {n}")
            shutil.copytree(tmp_path / "old", path := run.step_path(3))
            disks: list[Files] = [Files(), Files()]
            disks[dying] = disk = Dying(n, end=cut_power)
            with suppress(PowerCut, threading.BrokenBarrierError):
                run_threads(2, partial(save_on_ranks, path, disks, [Gathers(tensors), Gathers(tensors)]))
            run.remove_stale()
            assert [p.name for p in run.path.iterdir()] == ["step-000003"], f"rank {dying}, operation {n}"
            read_step(path)
            if disk.left > 0:
                break
