"""The folder of a run: which step is the newest, what is in the way, what is put back, and who may be in it."""

import errno
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from light_llm.atomic_io import Files
from light_llm.checkpoint import RunFolder, read_model
from light_llm.checkpoint.commit import verify_folder
from light_llm.checkpoint.lock import FolderLock
from light_llm.checkpoint.run_folder import contains_run
from light_llm.errors import CheckpointError
from light_llm.generate import TextGenerator
from light_llm.report import find_runs, read_run_log, read_runs
from tests.checkpoint.test_checkpoint import save, trained
from tests.support.child import Child
from tests.support.faults import in_child
from tests.support.tools import train_small


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
    assert run.latest_step().name == "step-000100"


class DyingAmidADeletion(Files):
    """The process ends when one file of a folder is gone."""

    def remove(self, path: Path) -> None:
        min(path.iterdir()).unlink()
        raise KeyboardInterrupt


def test_a_step_that_is_half_deleted_is_no_step(tmp_path: Path) -> None:
    """A kill can come between two files of an old step; what is left must not look like a damaged checkpoint."""
    model, optimizer = trained()
    run = RunFolder(tmp_path / "run", DyingAmidADeletion())
    run.path.mkdir()
    for step in (1, 2, 3):
        save(run.step_path(step), model, optimizer)
    with pytest.raises(KeyboardInterrupt):
        run.prune()
    assert [path.name for path in run.steps()] == ["step-000002", "step-000003"]
    for path in run.steps():
        verify_folder(path)
    again = RunFolder(run.path)
    again.remove_stale()
    assert sorted(path.name for path in run.path.iterdir()) == ["step-000002", "step-000003"]


def test_an_earlier_run_is_set_aside_and_a_named_folder_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "checkpoints")
    assert run.archive_existing_run(explicit=True, overwrite=False) is None
    for expected in ("checkpoints.1", "checkpoints.2"):
        run.path.mkdir()
        (run.path / "run.json").write_text(expected)
        run.step_path(1).mkdir()
        with pytest.raises(CheckpointError, match=r"already holds a run; continue it \(resume=True\), replace it"):
            run.archive_existing_run(explicit=True, overwrite=False)
        note = run.archive_existing_run(explicit=False, overwrite=False)
        assert note is not None and expected in note
        assert (tmp_path / expected / "run.json").read_text() == expected and not run.path.exists()


def test_overwriting_removes_only_what_it_knows_and_only_later(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for name in ("run.json", "best_model.pt", "my notes.txt"):
        (run.path / name).write_text("old")
    (run.path / "step-000007").mkdir()
    assert "is replaced" in (run.archive_existing_run(explicit=True, overwrite=True) or "")
    assert (run.path / ".previous-run" / "best_model.pt").read_text() == "old"
    assert sorted(p.name for p in run.path.iterdir()) == [".previous-run", "my notes.txt"]
    (run.path / "run.json").write_text("new, and dead before its first checkpoint")
    run.archive_existing_run(explicit=True, overwrite=True)
    assert (run.path / ".previous-run" / "run.json").read_text() == "old"
    run.restore_previous_run()
    assert sorted(p.name for p in run.path.iterdir()) == ["best_model.pt", "my notes.txt", "run.json", "step-000007"]
    assert (run.path / "run.json").read_text() == "old"
    run.archive_existing_run(explicit=True, overwrite=True)
    run.remove_previous_run()
    assert [p.name for p in run.path.iterdir()] == ["my notes.txt"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second is refused while the first lives, and not a moment longer, even if the first was killed."""
    run = RunFolder(tmp_path)
    lock = run.lock()
    for explicit in (True, False):
        with pytest.raises(
            CheckpointError, match="another process is training in .*; wait for it, stop it, or name another"
        ):
            run.archive_existing_run(explicit=explicit, overwrite=True)
    lock.release()
    run.archive_existing_run(explicit=True, overwrite=True)
    child = Child([str(tmp_path)], function=lock_forever)
    child.wait_until(lambda: child.output[0] == "locked\n")
    with pytest.raises(CheckpointError, match="another process is training"):
        run.lock()
    child.send(signal.SIGKILL)
    child.wait()
    run.lock().release()


def lock_forever(words: list[str]) -> None:
    lock = FolderLock(Path(words[0]))
    print("locked", flush=True)
    time.sleep(600)
    lock.release()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file is a file; name a folder with out="):
        RunFolder(tmp_path / "file").ensure_folder_available(explicit=False, overwrite=False)
    for refused in (partial(RunFolder.ensure_folder_available, explicit=True, overwrite=False), RunFolder.create):
        with pytest.raises(CheckpointError, match=r"the run folder .*file/run cannot be made \(Not a directory\)"):
            refused(RunFolder(tmp_path / "file" / "run"))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from in .*; start the run without resume=True"):
        RunFolder(tmp_path / "none").latest_step()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run.json is missing or damaged"):
        RunFolder(tmp_path).read_run()
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(
        CheckpointError, match=r"run.json is missing or damaged \(it was changed after it was written\)"
    ):
        RunFolder(tmp_path).read_run()


# ---- who is in it


def is_alive(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None


@contextmanager
def run_in_child(poem: Path, is_ready: Callable[[], bool], **changes: Any) -> Iterator[int]:
    """Train in "run" in a process that would take hours; yield its id once it is ready."""
    intervals = {"save_interval": 100_000, "eval_interval": 100_000}
    child = in_child(lambda: train_small(poem, max_steps=100_000, **(intervals | changes)))
    try:
        while not is_ready():
            assert is_alive(child)
            time.sleep(0.005)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture
def running(poem: Path) -> Iterator[int]:
    rows = Path("run/metrics.jsonl")
    with run_in_child(poem, lambda: rows.exists() and rows.read_bytes().count(b"\n") > 2) as child:
        yield child


def test_who_is_refused_hears_who_is_in_the_folder(running: int, poem: Path) -> None:
    who = rf"process {running} on {re.escape(platform.node())} since 20\d\d-\d\d-\d\d \d\d:\d\d"
    way_out = "wait for it, stop it, or name another folder with out="
    with pytest.raises(CheckpointError, match=rf"another process is training in run \({who}\); {way_out}"):
        train_small(poem, max_steps=2, overwrite=True)
    Path("run/.lock").write_text("half of it {")
    with pytest.raises(CheckpointError, match=f"another process is training in run; {way_out}"):
        train_small(poem, max_steps=2, overwrite=True)


def test_a_note_that_a_killed_run_left_refuses_nothing(running: int, poem: Path) -> None:
    """Not even when the process it names lives, as another one by now."""
    Path("run/.lock").write_text(f'{{"pid": {os.getpid()}, "host": "h", "started": "2026-01-01T00:00:00+00:00"}}')
    os.kill(running, signal.SIGKILL)
    os.waitid(os.P_PID, running, os.WEXITED | os.WNOWAIT)
    _, result = train_small(poem, max_steps=2, overwrite=True)
    assert result.status == "done" and not Path("run/.lock").exists()


def test_a_note_of_an_owner_is_no_run_and_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").write_text("{}")
    assert not contains_run(tmp_path)
    RunFolder(tmp_path).ensure_folder_available(explicit=True, overwrite=False)
    assert (tmp_path / ".lock").read_text() == "{}"  # to look is not to enter

    def full(self: Path, *args: object, **how: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with RunFolder(tmp_path).lock(), pytest.raises(CheckpointError, match="another process is training"):
        RunFolder(tmp_path).lock()
    assert not list(tmp_path.iterdir())


# ---- readers of a run that goes on


def test_a_step_that_is_removed_while_it_is_read_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two newer ones are saved and the chosen one pruned between the choice and the first byte read."""
    run, (model, optimizer) = RunFolder(tmp_path / "run"), trained()
    run.path.mkdir()
    save(run.step_path(1), model, optimizer, step=1)
    read: list[str] = []

    def overtaken(path: Path) -> list[str]:
        read.append(path.name)
        if len(read) == 1:
            for step in (2, 3):
                save(run.step_path(step), model, optimizer, step=step)
            run.prune()
            assert not path.exists()
        return verify_folder(path)

    monkeypatch.setattr("light_llm.checkpoint.load.verify_folder", overtaken)
    assert read_model(run.path).meta["step"] == 3 and read == ["step-000001", "step-000003"]
    with pytest.raises(CheckpointError, match="no checkpoint at .*step-000001"):  # asked for by name: no other is
        read_model(run.step_path(1))
    (run.step_path(3) / "model.safetensors").write_bytes(b"damaged")
    read.append("from now on nothing is removed")
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):  # and no older one in silence
        read_model(run.path)


@pytest.mark.parametrize("best", [True, False])
def test_a_running_folder_can_be_read_at_any_time(best: bool, poem: Path) -> None:
    """A run in another process that saves, prunes and replaces its best model at every step, read again and again."""
    run, seen = RunFolder("run"), list[int]()
    changes = {"save_interval": 1, "eval_interval": 1 if best else 100_000, "lr": 1e-3}
    with run_in_child(poem, lambda: bool(run.steps()) and (run.best_model.exists() or not best), **changes) as child:
        while len(set(seen)) <= 3:
            seen.append(int(read_model("run").meta["step"]))
            assert TextGenerator("run").generate("The ", max_new_tokens=2, seed=1).startswith("The ")
            log = read_run_log("run")
            assert log.steps.step == tuple(range(1, len(log.steps) + 1))
            assert [found.folder for found in read_runs(find_runs([Path()]))[0]] == [Path("run")]
            assert is_alive(child)
        assert seen == sorted(seen)
