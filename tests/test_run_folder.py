"""The folder of a run: which step is the newest, what is in the way, what is put back, and who may be in it."""

import subprocess
import sys
from pathlib import Path

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.errors import CheckpointError

from .test_checkpoint import save, trained


def test_only_the_last_two_steps_are_kept(tmp_path: Path) -> None:
    model, optimizer = trained()
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.best_model.write_bytes(b"x")
    for step in (5, 100, 20):
        save(run.step_path(step), model, optimizer)
    (run.path / "step-000200").mkdir()  # never finished: not a step
    run.prune()
    assert [p.name for p in run.steps()] == ["step-000020", "step-000100"] and run.best_model.exists()
    assert run.newest_step().name == "step-000100"


def test_an_earlier_run_is_set_aside_and_a_named_folder_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "checkpoints")
    assert run.make_room(explicit=True, overwrite=False) is None
    for expected in ("checkpoints.1", "checkpoints.2"):
        run.path.mkdir()
        (run.path / "run.json").write_text(expected)
        with pytest.raises(CheckpointError, match=r"already holds a run; go on with it \(--resume\), replace it"):
            run.make_room(explicit=True, overwrite=False)
        note = run.make_room(explicit=False, overwrite=False)
        assert note is not None and expected in note
        assert (tmp_path / expected / "run.json").read_text() == expected and not run.path.exists()


def test_overwriting_removes_only_what_it_knows_and_only_later(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for name in ("run.json", "best_model.pt", "my notes.txt"):
        (run.path / name).write_text("old")
    (run.path / "step-000007").mkdir()
    assert "overwriting" in (run.make_room(explicit=True, overwrite=True) or "")
    assert (run.path / ".previous-run" / "best_model.pt").read_text() == "old"
    assert sorted(p.name for p in run.path.iterdir()) == [".previous-run", "my notes.txt"]
    (run.path / "run.json").write_text("new, and dead before its first checkpoint")
    run.make_room(explicit=True, overwrite=True)
    assert (run.path / ".previous-run" / "run.json").read_text() == "old"
    run.recover_previous()
    assert sorted(p.name for p in run.path.iterdir()) == ["best_model.pt", "my notes.txt", "run.json", "step-000007"]
    assert (run.path / "run.json").read_text() == "old"
    run.make_room(explicit=True, overwrite=True)
    run.drop_previous()
    assert [p.name for p in run.path.iterdir()] == ["my notes.txt"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second is refused while the first lives, and not a moment longer, even if the first was killed."""
    run = RunFolder(tmp_path)
    lock = run.lock()
    for explicit in (True, False):
        with pytest.raises(CheckpointError, match="a run is going on in .*; wait for it, stop it, or name another"):
            run.make_room(explicit=explicit, overwrite=True)
    lock.release()
    run.make_room(explicit=True, overwrite=True)
    program = (
        "import os, sys; from pathlib import Path; from light_llm.checkpoint.lock import FolderLock\n"
        f"lock = FolderLock(Path({str(tmp_path)!r})); print('locked', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "locked\n"
    with pytest.raises(CheckpointError, match="a run is going on"):
        run.lock()
    child.kill()
    child.wait()
    run.lock().release()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file is a file; name a folder with --out"):
        RunFolder(tmp_path / "file").check_free(explicit=False, overwrite=False)
    with pytest.raises(CheckpointError, match=r"the run folder .*file/run cannot be made \(Not a directory\)"):
        RunFolder(tmp_path / "file" / "run").create()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from in .*; start the run without --resume"):
        RunFolder(tmp_path / "none").newest_step()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run.json is missing or damaged"):
        RunFolder(tmp_path).read_run()
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"run.json is damaged: it holds no JSON object"):
        RunFolder(tmp_path).read_run()
