"""Find the tasks that a command names, in a folder of the user and in the harness."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..config import repr_short
from ..errors import ConfigError, did_you_mean

YAML_SUFFIXES = (".yaml", ".yml")
SINGLE_KINDS = ("TASK", "PY_TASK")  # of the harness; the others are groups of tasks
MAX_CANDIDATES = 200  # names that did_you_mean compares letter by letter


def find_tasks(names: Sequence[str], include: Path | None = None) -> tuple[Any, list[str]]:
    """Return the harness's task manager and the names to load, with patterns such as `mmlu_*` expanded.

    The harness has more than ten thousand tasks, and listing them takes seconds. They are not listed if the folder
    `include` has every name, or all names are paths of YAML files.

    Raises ConfigError for an unknown folder or task; the nearest name is suggested.
    """
    # The harness would report these three in its own words, after seconds.
    if not names:
        raise ConfigError("no task was named; write one, or several with commas, as in {--tasks lambada_openai,piqa}")
    if missing := [name for name in names if name.endswith(YAML_SUFFIXES) and not Path(name).is_file()]:
        raise ConfigError(f"there is no file {missing[0]}; a task is a name, or the path of a YAML file")
    if include is not None and not include.is_dir():
        raise ConfigError(f"there is no folder {include} with tasks; name the folder of your task's YAML file")
    task_manager = import_module("lm_eval.tasks").TaskManager
    folder = str(include) if include else None
    # First without the harness's own tasks, which take seconds to list.
    manager = task_manager(include_path=folder, include_defaults=False)
    if not all(name.endswith(YAML_SUFFIXES) or _is_single(manager, name) for name in names):
        manager = task_manager(include_path=folder)
    expanded = [task for name in names for task in _expand(name, manager)]
    # Two patterns may match the same task.
    return manager, list(dict.fromkeys(expanded))


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that share the most pairs of letters with a name, the best first."""
    pairs = Counter(pairwise(name))
    shared = {other: (pairs & Counter(pairwise(other))).total() for other in known}
    return sorted(shared, key=lambda other: -shared[other])[:MAX_CANDIDATES]


@contextmanager
def offline_datasets(offline: bool) -> Iterator[None]:
    """Load data sets only from their cache and from files, if `offline`.

    The libraries read HF_HUB_OFFLINE once, when they are imported, into the attributes that are set here.
    """
    if not offline:
        yield
        return
    names = [("huggingface_hub.constants", "HF_HUB_OFFLINE")]
    names += [("datasets.config", "HF_HUB_OFFLINE"), ("datasets.config", "HF_DATASETS_OFFLINE")]
    before = [(module := import_module(path), name, getattr(module, name)) for path, name in names]
    try:
        for module, name, _ in before:
            setattr(module, name, True)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _is_single(manager: Any, name: str) -> bool:
    """Return whether the manager knows the name as one task. The members of a group or a tag may be elsewhere."""
    entry = manager.task_index.get(name)
    return entry is not None and entry.kind.name in SINGLE_KINDS


def _expand(name: str, manager: Any) -> list[str]:
    """Return the tasks that one name or pattern matches. Raises ConfigError without a match."""
    if name.endswith(YAML_SUFFIXES) or name in manager.task_index:
        return [name]
    matches: list[str] = manager.match_tasks([name]) if any(sign in name for sign in "*?[") else []
    if matches:
        return matches
    known = nearest(name, manager.all_tasks)
    raise ConfigError(
        f"there is no task {repr_short(name)}{did_you_mean(name, known)} Tasks of your own are found with "
        "{--include FOLDER}; all others: lm-eval ls tasks"
    )
