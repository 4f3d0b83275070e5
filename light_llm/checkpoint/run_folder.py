"""The folder of one run: what is in it, which step is the newest, what may be removed, what is in the way."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic_io import Files, atomic_write
from ..errors import CheckpointError
from .commit import as_json_with_digest, is_complete, read_verified_json, verify_folder
from .lock import FolderLock

DEFAULT_OUT = Path("checkpoints")
RECENT_STEPS = 2
PREVIOUS = ".previous-run"  # where --overwrite puts the old run until the new one has a checkpoint
_KNOWN = ("best_model.pt", "run.json", "metrics.jsonl", "train.log", "report.html", "analysis.json")
_OF_TRACKERS = ("wandb", "tensorboard")  # folders
_STEP = re.compile(r"step-(\d{6,})")
_PARTIAL = re.compile(r"step-\d{6,}\.(tmp|old)-\d+|\.[\w.]+\.tmp-\d+")


class CorruptCheckpoint(NamedTuple):
    """A step folder that cannot be used, and why."""

    path: Path
    what: str


class RunFolder:
    """Paths and upkeep of a run folder. Making one touches nothing on disk."""

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path = Path(path)
        self.files = files or Files()

    @property
    def best_model(self) -> Path:
        """The best model so far, one portable file."""
        return self.path / "best_model.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: rows of kind step and eval."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the console said."""
        return self.path / "train.log"

    def step_path(self, step: int) -> Path:
        """The folder of a step."""
        return self.path / f"step-{step:06d}"

    def steps(self) -> list[Path]:
        """Complete step folders, oldest first."""
        if not self.path.is_dir():
            return []
        found = [p for p in self.path.iterdir() if _STEP.fullmatch(p.name) and is_complete(p)]
        return sorted(found, key=step_number)

    def latest_step(self) -> Path:
        """The newest complete step folder. Raises CheckpointError when there is none."""
        if (self.path / PREVIOUS).is_dir():
            with self.lock():
                self.restore_previous_run()
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f"there is no checkpoint to resume from in {self.path}; start the run without --resume"
                + (f", or from its model: --init-from {self.best_model}" if self.best_model.is_file() else "")
            )
        return steps[-1]

    def latest_valid_step(self, every: int = 1) -> tuple[Path, list[CorruptCheckpoint]]:
        """The newest step folder whose every byte is as it was written, and the newer ones, of which that is not so.

        Args:
            every: prefer one whose number is a multiple of this to a newer one.

        Raises:
            CheckpointError: there is none; it says what is damaged.
        """
        self.latest_step()
        damaged: list[CorruptCheckpoint] = []
        for path in sorted(self.steps(), key=lambda p: (step_number(p) % every == 0, step_number(p)), reverse=True):
            try:
                verify_folder(path)
                return path, damaged
            except CheckpointError as error:
                damaged.append(CorruptCheckpoint(path, str(error).partition(";")[0]))
        raise CheckpointError(
            f"{'; '.join(d.what for d in damaged)}; no step in {self.path} can be resumed from"
            + (f"; start anew from its model: --init-from {self.best_model}" if self.best_model.is_file() else "")
        )

    def quarantine(self, damaged: Sequence[CorruptCheckpoint]) -> None:
        """Rename damaged steps to `step-N.damaged`, so that none is taken for a checkpoint, or kept as one."""
        for path, _ in damaged:
            aside = path.with_name(f"{path.name}.damaged")
            if aside.exists():
                self.files.remove(aside)
            self.files.rename(path, aside)

    def write_run(self, record: dict[str, Any]) -> None:
        """Write run.json, under a digest: a resumed run takes its settings from it."""
        atomic_write(self.path / "run.json", as_json_with_digest(record), self.files)

    def read_run(self) -> dict[str, Any]:
        """Read run.json. Raises CheckpointError when it is missing or damaged."""
        return read_verified_json(self.path / "run.json")

    def prune(self, *, every: int = 1, keep_every: int = 0) -> None:
        """Remove what is no longer needed; `best_model.pt` is never touched.

        Kept are the last two step folders, the last one of the regular saves, which come `every` so many steps, and all
        whose number is a multiple of `keep_every`. The newest is read back first: while it is not known to be good,
        nothing is removed.
        """
        steps = self.steps()
        regular = [path for path in steps if step_number(path) % every == 0][-1:]
        old = [
            path
            for path in steps[:-RECENT_STEPS]
            if path not in regular and not (keep_every and step_number(path) % keep_every == 0)
        ]
        if old:
            verify_folder(steps[-1])
        for path in old:  # under another name first: a folder that is half deleted is never taken for a step
            going = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            self.files.rename(path, going)
            self.files.remove(going)

    def lock(self) -> FolderLock:
        """Keep other runs out of the folder. Raises CheckpointError when one is in it."""
        return FolderLock(self.path)

    def create(self) -> None:
        """Make the folder. Raises CheckpointError when the place cannot be written."""
        try:
            if not self.path.is_dir():
                self.files.make_folder(self.path)
                self.files.sync_folder(self.path.parent)
        except OSError as error:
            raise CheckpointError(
                f"the run folder {self.path} cannot be made ({error.strerror}); name another with --out"
            ) from None

    def remove_stale(self) -> None:
        """Remove what a run that died left half written; put back what it was about to replace."""
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else []:
            if _PARTIAL.fullmatch(path.name):
                final = path.name.partition(".old-")[0]
                if final != path.name and not path.with_name(final).exists():
                    self.files.rename(path, path.with_name(final))
                else:
                    self.files.remove(path)

    def archive_existing_run(self, *, explicit: bool, overwrite: bool) -> str | None:
        """See to a run that is already in the folder; nothing of it is lost in silence.

        Returns:
            A line to print when something was moved.

        Raises:
            CheckpointError: the folder was named explicitly, holds a run, and may not be overwritten.
        """
        self.ensure_folder_available(explicit=explicit, overwrite=overwrite)
        self.restore_previous_run()
        if not contains_run(self.path):
            return None
        if overwrite:
            self._set_previous_run_aside()
            return f"overwriting the run in {self.path}; it is removed once the new one has a checkpoint"
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.files.rename(self.path, aside)
        return f"the earlier run in {self.path} is now in {aside}"

    def ensure_folder_available(self, *, explicit: bool, overwrite: bool) -> None:
        """Raise CheckpointError if the path is no folder, is in use, or was named and holds a run that is to stay."""
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file; name a folder with --out")
        if self.path.is_dir():
            self.lock().release()
        if explicit and not overwrite and contains_run(self.path):
            raise CheckpointError(
                f"{self.path} already holds a run; go on with it (--resume), replace it (--overwrite), "
                "or name another folder (--out)"
            )

    def restore_previous_run(self) -> bool:
        """Put the run back that `--overwrite` was replacing, if the new one ended without a checkpoint. Was it so?"""
        aside = self.path / PREVIOUS
        if not aside.is_dir() or self.steps() or self.best_model.exists():
            return False
        for path in self._known():
            self.files.remove(path)
        for path in sorted(aside.iterdir()):
            self.files.rename(path, self.path / path.name)
        self.files.remove(aside)
        return True

    def remove_previous_run(self) -> None:
        """Remove the run that `--overwrite` replaced: called when the new one has its first checkpoint."""
        if (self.path / PREVIOUS).is_dir():
            self.files.remove(self.path / PREVIOUS)

    def _set_previous_run_aside(self) -> None:
        aside = self.path / PREVIOUS
        if aside.exists():  # of an overwriting run that had its first checkpoint and died before it could tidy up
            self.files.remove(aside)
        self.files.make_folder(aside)
        for path in self._known():
            self.files.rename(path, aside / path.name)

    def _known(self) -> list[Path]:
        """The files and folders of a run, and nothing a user may have put beside them."""
        known = (*_KNOWN, *_OF_TRACKERS)
        return [p for p in self.path.iterdir() if p.name in known or _STEP.fullmatch(p.name)]


def step_number(step: Path) -> int:
    """The step a folder is of.

    >>> number_of(Path("step-000500"))
    500
    """
    return int(step.name.split("-")[1])


def contains_run(path: Path) -> bool:
    """Whether a folder has anything of a run in it."""
    return path.is_dir() and any(
        p.name in ("run.json", "best_model.pt", PREVIOUS) or _STEP.fullmatch(p.name) for p in path.iterdir()
    )
