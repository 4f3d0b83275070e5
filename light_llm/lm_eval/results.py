"""Results of the harness as rows of a table, and as plain values for a JSON file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SUMMARY_PARTS = ("results", "groups", "group_subtasks", "versions", "n-shot", "n-samples", "higher_is_better")


@dataclass(frozen=True)
class Row:
    """A metric of one task, or of a group of tasks."""

    task: str
    metric: str  # with the filter that the answers went through, if any
    value: float | str
    stderr: float | None  # standard error over documents
    better: str  # higher, lower, or "" if the task does not say
    documents: int | None
    shots: int | None  # examples before each question


def result_rows(results: Mapping[str, Any]) -> list[Row]:
    """Return the rows of the results of `run_tasks`, task by task, the groups last."""
    groups = results.get("groups", {})
    # The harness lists a group in both parts.
    tasks = {name: metrics for name, metrics in results["results"].items() if name not in groups} | groups
    return [_row(results, task, key) for task in tasks for key in tasks[task] if "," in key and "_stderr," not in key]


def summarize_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that are results, without samples, as plain values."""
    return {name: to_json(results[name]) for name in SUMMARY_PARTS if name in results}


def to_json(value: Any) -> Any:
    """Convert a value for JSON: NaN and infinity become None, other types text.

    >>> to_json({"acc,none": float("nan"), 3: [True, 0.5, {1}]})
    {'acc,none': None, '3': [True, 0.5, '{1}']}
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(inner) for inner in value]
    # After the containers, and before numbers: True has __float__ as well.
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if (number := _as_float(value)) is None:
        return str(value)
    return number if math.isfinite(number) else None


def _row(results: Mapping[str, Any], task: str, key: str) -> Row:
    """Return the row of a metric, whose key is `metric,filter`."""
    metrics = results.get("groups", {}).get(task) or results["results"][task]
    metric, _, filter_name = key.partition(",")
    stderr = _as_float(metrics.get(f"{metric}_stderr,{filter_name}"))
    higher = results.get("higher_is_better", {}).get(task, {}).get(metric)
    number = _as_float(metrics[key])
    return Row(
        task=task,
        metric=metric if filter_name == "none" else f"{metric} ({filter_name})",
        value=str(metrics[key]) if number is None else number,
        stderr=stderr if stderr is not None and math.isfinite(stderr) else None,
        better={True: "higher", False: "lower"}.get(higher, ""),
        documents=results.get("n-samples", {}).get(task, {}).get("effective"),
        shots=results.get("n-shot", {}).get(task),
    )


def _as_float(value: Any) -> float | None:
    """Return the number of any library as a float; None for other values."""
    if isinstance(value, (str, bool)) or not hasattr(value, "__float__"):
        return None
    return float(value)
