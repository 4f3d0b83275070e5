"""The tasks that a command names: of a folder of one's own, and of the harness."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..config import repr_short
from ..errors import ConfigError, did_you_mean

ENDINGS = (".yaml", ".yml")
SINGLE = ("TASK", "PY_TASK")  # kinds of the harness that are no groups of others


def find_tasks(names: Sequence[str], include: Path | None = None) -> tuple[Any, list[str]]:
    """The harness's task manager, and the names it is to load, patterns such as `mmlu_*` written out.

    The harness comes with more than ten thousand tasks, and listing them takes seconds: it is left out where the
    folder `include` has every name, or all are paths of YAML files.

    Raises:
        ConfigError: no such folder, or no such task, with the nearest name that exists.
    """
    if not names:
        raise ConfigError("no task was named; write one, or several with commas, as in --tasks lambada_openai,piqa")
    if lost := [name for name in names if name.endswith(ENDINGS) and not Path(name).is_file()]:
        raise ConfigError(f"there is no file {lost[0]}; a task is a name, or the path of a YAML file")
    if include is not None and not include.is_dir():
        raise ConfigError(f"there is no folder {include} with tasks; it is where your task's YAML file is")
    make = import_module("lm_eval.tasks").TaskManager
    folder = str(include) if include else None
    manager = make(include_path=folder, include_defaults=False)
    if not all(name.endswith(ENDINGS) or _is_single(manager, name) for name in names):
        manager = make(include_path=folder)
    found = [one for name in names for one in _matching(name, manager)]
    return manager, list(dict.fromkeys(found))


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that share the most pairs of letters with a name, the best first: few enough to compare well."""
    pairs = Counter(pairwise(name))
    shared = {other: (pairs & Counter(pairwise(other))).total() for other in known}
    return sorted(shared, key=lambda other: -shared[other])[:200]


@contextmanager
def on_this_machine(offline: bool) -> Iterator[None]:
    """Inside, where offline is asked for, data sets come from their cache and from files, and nothing is downloaded.

    The libraries read HF_HUB_OFFLINE once, when they are imported, into these names, and ask the names.
    """
    if not offline:
        yield
        return
    names = [("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE")]
    names.append(("datasets.config", "HF_DATASETS_OFFLINE"))
    before = [(module := import_module(path), name, getattr(module, name)) for path, name in names]
    try:
        for module, name, _ in before:
            setattr(module, name, True)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _is_single(manager: Any, name: str) -> bool:
    """Whether the name is a task by itself. A group or a tag may have members elsewhere."""
    entry = manager.task_index.get(name)
    return entry is not None and entry.kind.name in SINGLE


def _matching(name: str, manager: Any) -> list[str]:
    """What one name stands for. Raises ConfigError."""
    if name.endswith(ENDINGS) or name in manager.task_index:
        return [name]
    matches: list[str] = manager.match_tasks([name]) if any(sign in name for sign in "*?[") else []
    if matches:
        return matches
    known = nearest(name, manager.all_tasks)
    raise ConfigError(
        f"there is no task {repr_short(name)}{did_you_mean(name, known)} Tasks of your own are found with --include "
        "FOLDER; "
        "all others: lm-eval ls tasks"
    )
