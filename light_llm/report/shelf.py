"""Where runs are: the run folders in and below a folder, and one of them by name."""

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError, ConfigError, did_you_mean
from .past_run import Passing, PastRun, read_past_run

_SIGNS = re.compile(r"run\.json|metrics\.jsonl|step-\d{6,}")  # what only a run leaves behind


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """The run folders among these folders and their direct children, each once. Hidden children are left out.

    Raises:
        ConfigError: a root that is no folder.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            near = _near(root, root.parent)
            raise ConfigError(f"there is no folder {root}{near} Without a folder, this one is looked into")
        children = sorted(p for p in root.iterdir() if not p.name.startswith("."))
        for path in (root, *children):
            if _is_run(path):
                found.setdefault(path.resolve(), path)
    return list(found.values())


def read_all(folders: Iterable[Path]) -> tuple[list[PastRun], list[CheckpointError]]:
    """The runs in these folders, newest first; and an error for each that cannot be read."""
    runs, errors = [], []
    for folder in folders:
        try:
            runs.append(read_past_run(folder))
        except CheckpointError as error:
            errors.append(error)
    return sorted(runs, key=lambda r: r.started, reverse=True), errors


def open_run(folder: Path, passing: Passing = iter) -> PastRun:
    """The run in a folder that a user named.

    Args:
        passing: what all its rows go through on their way, for those who want more of them than a `PastRun` keeps.

    Raises:
        ConfigError: there is no run; the message names one that is near.
        CheckpointError: there is one, and it is damaged.
    """
    if _is_run(folder):
        try:
            return read_past_run(folder, passing)
        except CheckpointError as error:
            way_out = f"name another run (its model may still be whole: light-llm eval --checkpoint {folder})"
            raise CheckpointError(f"{error}; {way_out}") from None
    if _is_run(folder.parent) and folder.exists():
        raise ConfigError(f"{folder} is part of a run; name the run folder, {folder.parent}")
    what = "is not a run folder: it has no run.json" if folder.exists() else "is not there"
    inside = find_runs([folder]) if folder.is_dir() else []
    if inside:
        raise ConfigError(f"{folder} {what}; name one that is in it: {', '.join(map(str, inside))}")
    raise ConfigError(f"{folder} {what}{_near(folder, folder.parent, runs=True)} light-llm runs lists the runs")


def _near(path: Path, parent: Path, *, runs: bool = False) -> str:
    """The end of a sentence: a folder beside this one with a similar name, or a full stop."""
    if not parent.is_dir():
        return "."
    beside = find_runs([parent]) if runs else [p for p in parent.iterdir() if p.is_dir()]
    return did_you_mean(path.name, [p.name for p in beside if p != path])


def _is_run(path: Path) -> bool:
    """Whether a folder has anything of a run in it; one that may not be looked into has nothing."""
    try:
        return path.is_dir() and any(_SIGNS.fullmatch(p.name) for p in path.iterdir())
    except OSError:
        return False
