"""The folder of one run: its paths, which step folder to resume from, which to remove, and how a run is replaced."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic_io import REAL_FILES, Files, atomic_write
from ..errors import CheckpointError
from ..json_io import dump_with_digest, load_verified
from ..runtime import expand_path
from ..text_format import format_bytes
from .commit import is_complete, read_json, verify_folder
from .lock import FolderLock

DEFAULT_OUT = Path("checkpoints")
RECENT_STEPS = 2  # newest step folders that are never pruned
PREVIOUS = ".previous-run"  # holds the run that --overwrite replaces until the new one has a checkpoint
_FILES = ("best_model.pt", "best_step.json", "run.json", "metrics.jsonl", "train.log", "report.html", "analysis.json")
_TRACKER_FOLDERS = ("wandb", "tensorboard")
_STEP = re.compile(r"step-(\d{6,})")
_PARTIAL = re.compile(r"step-\d{6,}\.(tmp|old)-\d+|\.[\w.]+\.tmp-\d+")


class CorruptCheckpoint(NamedTuple):
    """A step folder that fails verification, and the reason."""

    path: Path
    reason: str


class RunFolder:
    """Paths and maintenance of a run folder. The constructor touches nothing on disk.

    The states of a run folder (PREVIOUS is the hidden folder `.previous-run`):

    | state              | on disk                          | arises from                   | ended by               |
    |--------------------|----------------------------------|-------------------------------|------------------------|
    | free               | no file of a run                 | a new folder                  | the first save         |
    | not begun          | `run.json`, no checkpoint        | an end before the first save  | the first save         |
    | in use             | a held lock, `.lock`             | a run that is training        | the end of its process |
    | complete           | step folders, `best_model.pt`    | the end of a run              | `archive_existing_run` |
    | being replaced     | PREVIOUS, no checkpoint          | `--overwrite`                 | `remove_previous_run`  |
    | failed replacement | PREVIOUS, no checkpoint          | its end without a checkpoint  | `restore_previous_run` |
    | interrupted save   | `*.tmp-PID`, `*.old-PID`         | a kill during a save          | `remove_stale`         |
    | corrupt checkpoint | a step folder fails verification | a fault of the disk           | `quarantine`           |

    `ensure_folder_available` refuses a folder that is in use, or complete and named by the user without `--overwrite`,
    or that holds files of these names that are not a run's. A run that has not begun holds no work: a new run replaces
    it, and `--resume` starts it at step 0.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path = expand_path(path)
        self.files = files or REAL_FILES
        self.best_model = self.path / "best_model.pt"
        self.best_step = self.path / "best_step.json"  # names a step folder in place of `best_model`
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "train.log"

    def step_path(self, step: int) -> Path:
        """Return the path of a step's folder."""
        return self.path / f"step-{step:06d}"

    def steps(self) -> list[Path]:
        """Return the complete step folders, oldest first."""
        if not self.path.is_dir():
            return []
        complete = [p for p in self.path.iterdir() if _STEP.fullmatch(p.name) and is_complete(p)]
        return sorted(complete, key=step_number)

    def latest_step(self) -> Path:
        """Return the newest complete step folder. Raises CheckpointError."""
        steps = self.steps()
        if not steps:
            raise self.resume_error(f"there is no checkpoint to resume from in {self.path}")
        return steps[-1]

    def keep_as_best(self, step: int, evaluation: dict[str, Any] | None) -> None:
        """Name a step folder as the best model of the run, in place of `best_model.pt`, and keep it from `prune`."""
        atomic_write(self.best_step, dump_with_digest({"step": step, "evaluation": evaluation}), self.files)

    def read_best_step(self) -> dict[str, Any]:
        """Return the step and evaluation that `keep_as_best` wrote. Raises CheckpointError."""
        values = read_json(self.best_step, load_verified)
        if type(values.get("step")) is not int:
            raise CheckpointError(f"{self.best_step} is damaged: it names no step; use another checkpoint")
        return values

    def best(self) -> Path | None:
        """Return `best_model.pt`, or the step folder that is kept in its place; None if there is neither."""
        if self.best_model.is_file():
            return self.best_model
        try:
            step = self.step_path(self.read_best_step()["step"])
        except CheckpointError:
            return None
        return step if is_complete(step) else None

    def latest_valid_step(self, every: int = 1) -> tuple[Path, list[CorruptCheckpoint]]:
        """Return the newest checkpoint that passes verification, and the newer ones that fail.

        Args:
            every: prefer steps that are a multiple of this to newer ones.

        Raises:
            CheckpointError: no checkpoint passes; the message lists the damage.
        """
        self.latest_step()
        step, corrupt = self.verify_steps(every)
        if step is None:
            reasons = "; ".join(c.reason for c in corrupt)
            raise self.resume_error(f"{reasons}; no step in {self.path} can be resumed from")
        return step, corrupt

    def verify_steps(self, every: int = 1) -> tuple[Path | None, list[CorruptCheckpoint]]:
        """Return what `latest_valid_step` does, with None if no checkpoint passes."""
        corrupt: list[CorruptCheckpoint] = []
        for path in sorted(self.steps(), key=lambda p: (step_number(p) % every == 0, step_number(p)), reverse=True):
            try:
                verify_folder(path)
                return path, corrupt
            except CheckpointError as error:
                corrupt.append(CorruptCheckpoint(path, error.message.partition(";")[0]))
        return None, corrupt

    def resume_error(self, reason: str) -> CheckpointError:
        """Return the error for a run that cannot be resumed, with a way out that works for what is in the folder."""
        way_out = "start the run without {--resume}"
        if self.best_model.is_file():
            way_out = (
                f"continue from its model in another folder ({{--init-from {self.best_model}}} with {{--out}}), or "
                "replace the run ({--overwrite})"
            )
        return CheckpointError(f"{reason}; {way_out}")

    def holds_work(self) -> bool:
        """Return whether the folder has a checkpoint or a model, intact or not, or an earlier run that was replaced."""
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        return any(name in (self.best_model.name, PREVIOUS) or _STEP.fullmatch(name) for name in names)

    def quarantine(self, corrupt: Sequence[CorruptCheckpoint]) -> None:
        """Rename corrupt step folders to `step-N.damaged`, so that they are neither loaded nor counted."""
        for path, _ in corrupt:
            target = path.with_name(f"{path.name}.damaged")
            if target.exists():
                self.files.remove(target)
            self.files.rename(path, target)

    def write_run(self, record: dict[str, Any]) -> None:
        """Write run.json with a digest: a resumed run takes its settings from it."""
        atomic_write(self.path / "run.json", dump_with_digest(record), self.files)

    def read_run(self) -> dict[str, Any]:
        """Read run.json. Raises CheckpointError when it is missing or damaged."""
        return read_json(self.path / "run.json", load_verified)

    def prune(self, *, every: int = 1, keep_every: int = 0) -> None:
        """Remove old step folders; `best_model.pt` is never touched.

        Keeps the two newest, the newest multiple of `every` (a regular save), all multiples of `keep_every` and the one
        that is the best model.
        Verifies the newest before anything is removed.

        Raises:
            CheckpointError: the newest step folder is damaged.
            OSError: a folder cannot be removed; the next call tries again.
        """
        steps, best = self.steps(), self.best()
        regular = [path for path in steps if step_number(path) % every == 0][-1:]
        old = [
            path
            for path in steps[:-RECENT_STEPS]
            if path not in regular and path != best and not (keep_every and step_number(path) % keep_every == 0)
        ]
        if old:
            verify_folder(steps[-1])
        # Folders that an earlier call renamed and could not delete.
        for path in self.path.glob(f"step-*.tmp-{os.getpid()}"):
            self.files.remove(path)
        for path in old:
            # Renamed first: a crash during the deletion would leave a step folder that looks damaged.
            doomed = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            self.files.rename(path, doomed)
            self.files.remove(doomed)

    def lock(self) -> FolderLock:
        """Lock the folder against other runs. Raises CheckpointError when another run holds it."""
        return FolderLock(self.path)

    def create(self) -> None:
        """Create the folder if it is missing. Raises CheckpointError when it cannot be created."""
        try:
            if not self.path.is_dir():
                self.files.make_folder(self.path)
                self.files.sync_folder(self.path.parent)
        except OSError as error:
            raise self._cannot_be_made(error.strerror or str(error)) from None
        self._refuse_folder_as_model()

    def _refuse_folder_as_model(self) -> None:
        if self.best_model.is_dir():
            raise CheckpointError(
                f"{self.best_model} is a folder, where the run would write its best model; rename it, or name another "
                "folder with {--out}"
            )

    def _cannot_be_made(self, reason: str) -> CheckpointError:
        return CheckpointError(f"the run folder {self.path} cannot be made ({reason}); name another with {{--out}}")

    def remove_stale(self) -> None:
        """Remove partial files of a killed run, and restore a step folder that it was replacing."""
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else []:
            if _PARTIAL.fullmatch(path.name):
                replaced = path.name.partition(".old-")[0]
                if replaced != path.name and not path.with_name(replaced).exists():
                    self.files.rename(path, path.with_name(replaced))
                else:
                    self.files.remove(path)

    def archive_existing_run(self, *, explicit: bool, overwrite: bool) -> str | None:
        """Move a run that is already in the folder out of the way.

        With `overwrite` it goes to `.previous-run`, to be removed at the new run's first checkpoint; otherwise the
        whole folder is renamed to the first free `out.N`.

        Returns:
            A line to print when something was moved.

        Raises:
            CheckpointError: the folder was named explicitly, holds a run, and may not be overwritten.
        """
        self.ensure_folder_available(explicit=explicit, overwrite=overwrite)
        self.restore_previous_run()
        if not self._run_files():
            return None
        if self._is_run() and not self.holds_work():
            for path in self._run_files():
                self.files.remove(path)
            return f"the run in {self.path} ended before its first checkpoint; it starts again at step 0"
        if overwrite:
            previous = self.path / PREVIOUS
            # Left by a run that was killed between its first checkpoint and `remove_previous_run`.
            if previous.exists():
                self.files.remove(previous)
            self.files.make_folder(previous)
            for path in self._run_files():
                self.files.rename(path, previous / path.name)
            return f"the run in {self.path} is replaced: it is removed once the new one has a checkpoint"
        number = 1
        while (archive := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.files.rename(self.path, archive)
        return f"the earlier run in {self.path} is now in {archive}"

    def ensure_folder_available(self, *, explicit: bool, overwrite: bool) -> None:
        """Raise CheckpointError if the folder cannot be made, is in use, or was named and holds a run to keep."""
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file; name a folder with {{--out}}")
        if problem := _why_not_writable(self.path):
            raise self._cannot_be_made(problem)
        if not self.path.is_dir():
            return
        self.lock().release()
        self._refuse_folder_as_model()
        # A run in the default folder is moved away as a whole, so that nothing in it can be lost.
        if not explicit and not overwrite:
            return
        files = [path.name for path in self._run_files()]
        if files and not self._is_run():
            raise CheckpointError(
                f"{self.path} is not the folder of a run, and holds {', '.join(sorted(files))}, which a run would "
                "replace; name another folder with {--out}"
            )
        if not overwrite and self.holds_work():
            raise CheckpointError(
                f"{self.path} already holds a run; continue it ({{--resume}}), replace it ({{--overwrite}}), "
                "or name another folder ({--out})"
            )

    def restore_previous_run(self) -> bool:
        """Restore the run that `--overwrite` was replacing if the new one has no checkpoint. Returns whether it did."""
        previous = self.path / PREVIOUS
        if not previous.is_dir() or self.steps() or self.best_model.exists():
            return False
        for path in self._run_files():
            self.files.remove(path)
        for path in sorted(previous.iterdir()):
            self.files.rename(path, self.path / path.name)
        self.files.remove(previous)
        return True

    def remove_previous_run(self) -> None:
        """Remove the run that `--overwrite` replaced; called when the new run has its first checkpoint."""
        if (self.path / PREVIOUS).is_dir():
            self.files.remove(self.path / PREVIOUS)

    def check_space(self, path: Path, needed: int) -> None:
        """Raise CheckpointError unless the disk has the bytes needed to write `path`."""
        free = self.files.free(self.path)
        if free is not None and free < needed:
            raise self.disk_full(path, needed, "the disk is full")

    def disk_full(self, path: Path, needed: int, reason: str) -> CheckpointError:
        """Return the error for a save that failed: bytes needed, bytes free, and the newest complete checkpoint."""
        free, steps = self.files.free(self.path), self.steps()
        rest = "there is no checkpoint yet"
        if steps:
            rest = f"{steps[-1]} is complete: make room, and continue with {{--resume}}"
        return CheckpointError(
            f"{path} could not be written ({reason}): it needs {format_bytes(needed)}, "
            f"{'unknown' if free is None else format_bytes(free)} free; {rest}"
        )

    def _is_run(self) -> bool:
        """Return whether the files in the folder are those of a run, and not of another program."""
        return (self.path / "run.json").is_file() or (self.path / PREVIOUS).is_dir() or bool(self.steps())

    def _run_files(self) -> list[Path]:
        """Return the files and folders of a run, without those that a user may have put beside them."""
        if not self.path.is_dir():
            return []
        return [p for p in self.path.iterdir() if p.name in _FILES + _TRACKER_FOLDERS or _STEP.fullmatch(p.name)]


def step_number(step: Path) -> int:
    """Return the step number of a step folder.

    >>> step_number(Path("step-000500"))
    500
    """
    return int(step.name.split("-")[1])


def _why_not_writable(folder: Path) -> str | None:
    """Return why a folder cannot be made or written to, as far as that is known without trying; None if nothing is."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not existing.is_dir():
        return os.strerror(errno.ENOTDIR)
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} is not writable"


def contains_run(path: Path) -> bool:
    """Return whether a folder holds a run or a part of one."""
    return path.is_dir() and any(
        p.name in ("run.json", "best_model.pt", PREVIOUS) or _STEP.fullmatch(p.name) for p in path.iterdir()
    )
