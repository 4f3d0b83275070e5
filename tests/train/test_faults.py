"""Each fault of `make faults`, fewer times."""

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from light_llm.atomic_io import Files
from light_llm.checkpoint import RunFolder
from light_llm.checkpoint.commit import verify_folder
from light_llm.errors import CheckpointError
from light_llm.train import Trainer
from light_llm.train.checkpointer import size_on_disk, step_bytes
from tests.support import faults
from tests.support.faults import RUN_SETTINGS, Outcome, exit_code, in_child, train
from tests.support.power import Recorded
from tests.support.tools import byte_loader, byte_model, flip, same

resource = pytest.importorskip("resource", reason="NOT RUN: Windows has no limits of a process")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: forks, signals and limits are POSIX")


def nothing_lost(outcome: Outcome) -> bool:
    return outcome.tried == outcome.survived > 0 and outcome.lost == 0


def test_a_process_that_ends_at_a_file_operation(poem: Path) -> None:
    assert nothing_lost(faults.dying_at_an_operation(poem, every=11))


def test_a_power_cut_loses_nothing_that_was_said_to_be_saved(poem: Path) -> None:
    assert nothing_lost(faults.power_cuts(poem))


def test_the_rows_of_a_step_are_safe_before_the_step(poem: Path) -> None:
    """After a power cut the numbers on the way to a checkpoint are there as it is."""
    files = Recorded()
    train(poem, "run", files=files)
    done = [(kind, path.name.partition(".tmp")[0]) for kind, path, *_ in files.done]
    for step in (10, 20, 30):
        assert done[done.index(("make_folder", f"step-{step:06d}")) - 1] == ("sync", "metrics.jsonl")


def test_kills_at_random_moments(poem: Path) -> None:
    assert nothing_lost(faults.kills(poem, 4))


def test_a_preparation_that_is_killed_goes_on(poem: Path) -> None:
    assert nothing_lost(faults.killed_preparations(3))


def test_a_full_disk_at_a_file_operation(poem: Path) -> None:
    assert nothing_lost(faults.full_disk(poem, every=9))


def test_a_step_that_is_not_finite(poem: Path) -> None:
    assert nothing_lost(faults.not_finite(poem, (0, 19)))


@pytest.mark.parametrize(
    ("steps", "how"),
    [
        ((1, 10, 11, 29), {}),  # the first, an evaluation and a save, in between, before the last
        ((6, 17), {"optimizer": "muon", "schedule": "wsd", "z_loss": 1e-3}),
        ((6, 17), {"dtype": "bfloat16"}),
        ((7, 14), {"patience": 1, "eval_interval": 7, "save_interval": 4}),
    ],
)
def test_a_resume_is_exact(poem: Path, steps: tuple[int, ...], how: dict[str, Any]) -> None:
    assert nothing_lost(faults.resumes(poem, steps, **how))


def test_a_resume_is_exact_across_the_end_of_a_pass(tmp_path: Path) -> None:
    """A text of a few windows: passes end in the middle of batches."""
    text = tmp_path / "short.txt"
    text.write_text("The owl and the cat went to sea in a boat. " * 9)
    assert byte_loader(text).order.per_epoch < 30
    assert nothing_lost(faults.resumes(text, (5, 6, 7, 8)))


# ---- the disk


def limited_run(text: Path, at: int, most: int, **how: Any) -> str:
    """A run in which the kernel refuses files beyond a size from step `at` on: what it ended with."""

    def limited() -> None:
        trainer = Trainer(byte_model(dropout=0.2), byte_loader(text), out="run", **(RUN_SETTINGS | how))
        trainer.every(at, lambda step: resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1)))
        try:
            trainer.train()
        except CheckpointError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            Path("said").write_text(str(error))

    assert exit_code(in_child(limited)) == 0
    return Path("said").read_text()


def test_a_real_limit_on_files_ends_the_run_and_keeps_what_was_there(poem: Path) -> None:
    """RLIMIT_FSIZE: the kernel itself refuses the bytes, in the middle of a file."""
    train(poem, "whole")
    most = size_on_disk(Path("whole/step-000030/optimizer.safetensors")) // 2
    said = limited_run(poem, 15, most, model_files=faults.FILES)
    assert said.startswith("run/step-000020 could not be written (File too large): it needs 4.")
    assert "run/step-000010" in said and "resume=True" in said
    assert [p.name for p in RunFolder("run").steps()] == ["step-000010"] and not list(Path("run").glob("*tmp*"))
    train(poem, "run")
    assert same("whole", "run")


def test_the_systems_error_is_kept_whoever_was_writing(poem: Path) -> None:
    """torch.save makes a RuntimeError of a full disk; the run says what the system said."""
    said = limited_run(poem, 8, 60_000, save_interval=30)
    assert said.startswith("run/best_model.pt could not be written (File too large): it needs 85.7 kB, "), said
    assert "run/step-" not in said and not list(Path("run").glob(".best*"))


class Nearly(Files):
    """A disk with so many bytes left."""

    def __init__(self, left: int) -> None:
        self.left = left

    def free(self, path: Path) -> int | None:
        return self.left


def test_room_is_asked_for_before_a_run_begins(poem: Path) -> None:
    with pytest.raises(CheckpointError, match=r"[\d.]+ MB in run.*1.00 MB.*out="):
        train(poem, "run", files=Nearly(10**6))
    assert not Path("run/run.json").exists()


def test_room_is_asked_for_before_each_save(poem: Path) -> None:
    files = Nearly(10**9)
    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out="run", files=files, **RUN_SETTINGS)
    trainer.every(15, lambda step: setattr(files, "left", 10**6))
    message = r"step-000020 could not be written \(the disk is full\): it needs 4.\d+ MB, 1.00 MB free; run/step-"
    with pytest.raises(CheckpointError, match=message):
        trainer.train()
    verify_folder(Path("run/step-000010"))


def test_the_room_of_a_step_is_known_beforehand(poem: Path) -> None:
    for name, how in (("a", {}), ("m", {"optimizer": "muon"})):
        trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out=name, **(RUN_SETTINGS | how))
        trainer.train()
        known, real = step_bytes(trainer.model, trainer.config) - (4 << 20), size_on_disk(Path(name, "step-000030"))
        assert known < real < known + 40_000


# ---- what is kept


def test_every_k_th_step_is_kept(poem: Path) -> None:
    train(poem, "run", save_interval=4, keep_every=8)
    names = [p.name for p in RunFolder("run").steps()]
    assert names == ["step-000008", "step-000016", "step-000024", "step-000028", "step-000030"]


class NoRemoval(Files):
    """A disk that refuses to rename or to delete old step folders, a number of times."""

    def __init__(self, operation: str, refusals: int) -> None:
        self.operation, self.refusals = operation, refusals

    def refuse(self, operation: str, path: Path) -> None:
        if operation == self.operation and self.refusals and path.name.startswith("step-000010.tmp-"):
            self.refusals -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def rename(self, old: Path, new: Path) -> None:
        if old.name == "step-000010":
            self.refuse("rename", new)
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self.refuse("remove", path)
        super().remove(path)


@pytest.mark.parametrize("operation", ["rename", "remove"])
@pytest.mark.parametrize("refusals", [1, 10**9])
def test_a_checkpoint_that_cannot_be_removed_ends_no_run(poem: Path, operation: str, refusals: int) -> None:
    """One notice; the folder is removed after a later save, or by the next run."""
    train(poem, "whole")
    result = train(poem, "run", files=NoRemoval(operation, refusals))
    assert result.status == "done" and same("whole", "run")
    assert Path("run/train.log").read_text().count("cannot be removed (Input/output error)") == 1
    names = sorted(path.name for path in Path("run").glob("step-*"))
    assert (names == ["step-000020", "step-000030"]) == (refusals == 1)
    train(poem, "run", max_steps=31)
    assert sorted(path.name for path in Path("run").glob("step-*")) == ["step-000030", "step-000031"]


def test_nothing_is_removed_while_the_newest_is_not_known_to_be_good(poem: Path) -> None:
    """What was just written comes back damaged from the disk: the older steps stay, and the run says what is wrong."""

    class Flipping(Files):
        def rename(self, old: Path, new: Path) -> None:
            super().rename(old, new)
            if new.name == "step-000030":
                flip(new / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"step-000030/model.safetensors is damaged"):
        train(poem, "run", files=Flipping())
    assert [p.name for p in RunFolder("run").steps()] == ["step-000010", "step-000020", "step-000030"]
    train(poem, "run")
    shutil.rmtree("run/step-000030.damaged")
    train(poem, "whole")
    assert same("whole", "run") and os.listdir("run").count("step-000030") == 1
