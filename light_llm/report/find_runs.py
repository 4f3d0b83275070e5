"""Find run folders, tell their state, and open the one that a user named."""

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError, ConfigError, did_you_mean
from .run_log import RunLog, read_run_log

# Names that only a run leaves in a folder. A damaged run may have lost any of them.
_RUN_FILES = re.compile(r"run\.json|metrics\.jsonl|step-\d{6,}")


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Return the run folders among these folders and their direct children, each once, without hidden children.

    Raises:
        ConfigError: a root is not a folder.
    """
    runs: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            siblings = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
            hint = did_you_mean(root.name, siblings)
            raise ConfigError(f"there is no folder {root}{hint}")
        children = sorted(p for p in root.iterdir() if not p.name.startswith("."))
        for path in (root, *children):
            if _is_run(path):
                runs.setdefault(path.resolve(), path)
    return list(runs.values())


def read_runs(folders: Iterable[Path]) -> tuple[list[RunLog], list[CheckpointError]]:
    """Read the runs in these folders. Returns them newest first, and an error for each that cannot be read."""
    logs, errors = [], []
    for folder in folders:
        try:
            logs.append(read_run_log(folder))
        except CheckpointError as error:
            errors.append(error)
    return sorted(logs, key=lambda log: log.started, reverse=True), errors


def run_state(run: RunLog) -> str:
    """Return done, running, interrupted, stopped early or not finite; and whether no checkpoint was saved."""
    state = {"stopped": "stopped early", "nonfinite": "not finite"}.get(run.status, run.status)
    has_checkpoint = any(run.folder.glob("step-*")) or (run.folder / "best_model.pt").exists()
    return state if has_checkpoint or state == "running" else f"{state}, no checkpoint"


def open_run(folder: str | Path) -> RunLog:
    """Read the run in a folder that a user named.

    Raises:
        ConfigError: no run was found; the message suggests one with a similar name.
        CheckpointError: the run is damaged.
    """
    folder = Path(folder)
    if _is_run(folder):
        try:
            return read_run_log(folder)
        except CheckpointError as error:
            remedy = f"name another run (its model may still be whole: light-llm eval --checkpoint {folder})"
            raise CheckpointError(f"{error.message}; {remedy}") from None
    if _is_run(folder.parent) and folder.exists():
        raise ConfigError(f"{folder} is part of a run; name the run folder, {folder.parent}")
    problem = "is not a run folder: it has no run.json" if folder.exists() else "is not there"
    inside = find_runs([folder]) if folder.is_dir() else []
    if inside:
        raise ConfigError(f"{folder} {problem}; name one that is in it: {', '.join(map(str, inside))}")
    siblings = find_runs([folder.parent]) if folder.parent.is_dir() else []
    hint = did_you_mean(folder.name, [run.name for run in siblings if run != folder.parent])
    raise ConfigError(f"{folder} {problem}{hint} light-llm runs lists the runs")


def _is_run(path: Path) -> bool:
    """Return whether a folder holds any file of a run; False for a folder that may not be listed."""
    try:
        return path.is_dir() and any(_RUN_FILES.fullmatch(p.name) for p in path.iterdir())
    except OSError:
        return False
