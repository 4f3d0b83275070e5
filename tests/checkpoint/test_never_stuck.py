"""Folders from which a run can neither start nor resume without care: each has a way out, and the message names it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.errors import CheckpointError
from light_llm.train import Trainer
from light_llm.train.saved_run import read_saved_run
from tests.support.tools import SMALL, byte_loader, byte_model, flip, train_small


def stopped_early(poem: Path, out: str = "run", **changes: Any) -> Trainer:
    """A run that ended before its first step."""
    trainer = Trainer(byte_model(), byte_loader(poem), out=out, **(SMALL | {"skip_doctor": True} | changes))
    trainer.request_stop()
    trainer.train()
    return trainer


def test_a_run_without_a_checkpoint_starts_again_both_ways(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starts: list[dict[str, Any]] = [{"resume": True}, {"max_steps": 2}]
    for how in starts:
        stopped_early(poem, max_steps=2)
        assert not RunFolder("run").holds_work() and Path("run/run.json").is_file()
        _, result = train_small(poem, quiet=False, skip_doctor=True, **how)
        said = capsys.readouterr().out
        assert result.step == 2 and "the run in run ended before its first checkpoint; it starts again at" in said
        assert ("resumed  at step 0" in said) == ("resume" in how)
        shutil.rmtree("run")


def test_steps_that_are_all_damaged_are_named_and_the_model_is_the_way_out(poem: Path) -> None:
    train_small(poem, max_steps=20, skip_doctor=True)
    for step in (10, 20):
        flip(Path(f"run/step-0000{step}/MANIFEST.json"), 0.9)
    with pytest.raises(
        CheckpointError, match=r"init_from='run/best_model.pt' with out=.*replace the run \(overwrite=True"
    ):
        read_saved_run(RunFolder("run"))
    assert sorted(p.name for p in Path("run").glob("step*")) == ["step-000010.damaged", "step-000020.damaged"]
    with pytest.raises(CheckpointError, match="no checkpoint to resume from in run; continue from its model"):
        read_saved_run(RunFolder("run"))
    Path("run/best_model.pt").unlink()
    assert read_saved_run(RunFolder("run")).step is None


def test_files_of_other_programs_are_never_replaced(poem: Path) -> None:
    folder = Path("mine")
    for name in ("best_model.pt", "metrics.jsonl", "wandb", "step-000100"):
        folder.mkdir()
        (folder / name).write_text("mine")
        for overwrite in (True, False):
            with pytest.raises(
                CheckpointError,
                match=f"mine .*(not the folder of a run, and holds {name}|best_model.pt is a folder).*out=",
            ):
                Trainer(byte_model(), byte_loader(poem), out="mine", overwrite=overwrite, **SMALL)
        assert (folder / name).read_text() == "mine"
        shutil.rmtree(folder)


def test_a_folder_in_place_of_the_best_model_is_refused_before_the_first_step(poem: Path) -> None:
    train_small(poem, max_steps=2, skip_doctor=True)
    Path("run/best_model.pt").unlink()
    Path("run/best_model.pt").mkdir()
    starts: list[dict[str, Any]] = [{"resume": True}, {"overwrite": True}]
    for how in starts:
        with pytest.raises(CheckpointError, match="best_model.pt is a folder.*rename it"):
            train_small(poem, max_steps=3, skip_doctor=True, **how)


def test_a_resume_names_the_process_that_is_training(poem: Path) -> None:
    stopped_early(poem)
    with (
        RunFolder("run").lock(),
        pytest.raises(CheckpointError, match=r"training in run \(process \d+ on .*; wait for it"),
    ):
        Trainer(byte_model(), byte_loader(poem), out="run", resume=True, **SMALL)
