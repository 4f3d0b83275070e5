"""What the harness found, as rows of a table and as plain values for a file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEPT = ("results", "groups", "group_subtasks", "versions", "n-shot", "n-samples", "higher_is_better")


@dataclass(frozen=True)
class Row:
    """One number of one task, or of a group of them."""

    task: str
    metric: str  # with the filter that the answers went through, where there is one
    value: float | str
    stderr: float | None  # standard error over documents
    better: str  # higher, lower, or "" where the task does not say
    documents: int | None
    shots: int | None  # examples before each question


def rows_of(results: Mapping[str, Any]) -> list[Row]:
    """The rows of what `run_tasks` returned, a task after another, the groups last."""
    rows = []
    for part in ("results", "groups"):
        for task, found in results.get(part, {}).items():
            if part == "results" and task in results.get("groups", {}):
                continue  # the harness lists a group twice
            rows += [_row(results, task, key) for key in found if "," in key and "_stderr," not in key]
    return rows


def without_samples(results: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that are results, as plain values: numbers that are no numbers become None."""
    return {name: plain(results[name]) for name in KEPT if name in results}


def plain(value: Any) -> Any:
    """A value of JSON: what it cannot hold becomes None (NaN, infinity) or text.

    >>> plain({"acc,none": float("nan"), 3: [True, 0.5, {1}]})
    {'acc,none': None, '3': [True, 0.5, '{1}']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, str, int)):
        return value
    number = _number(value)
    if number is None:
        return str(value)
    return number if math.isfinite(number) else None


def _row(results: Mapping[str, Any], task: str, key: str) -> Row:
    part = "groups" if task in results.get("groups", {}) else "results"
    found = results[part][task]
    metric, _, name = key.partition(",")
    stderr = _number(found.get(f"{metric}_stderr,{name}"))
    higher = results.get("higher_is_better", {}).get(task, {}).get(metric)
    documents = results.get("n-samples", {}).get(task, {}).get("effective")
    number = _number(found[key])
    return Row(
        task=task,
        metric=metric if name == "none" else f"{metric} ({name})",
        value=str(found[key]) if number is None else number,
        stderr=stderr if stderr is not None and math.isfinite(stderr) else None,
        better={True: "higher", False: "lower"}.get(higher, ""),
        documents=documents,
        shots=results.get("n-shot", {}).get(task),
    )


def _number(value: Any) -> float | None:
    """A number of any library; None for what is none."""
    if isinstance(value, (str, bool)) or not hasattr(value, "__float__"):
        return None
    return float(value)
