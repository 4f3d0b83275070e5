"""Run tasks of the harness on a model; results as rows of a table, and as plain values for a JSON file."""

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..config import check_range
from ..errors import DataError, LightLLMError
from ..interop.exporter import require
from .lm import LightLLMForEval
from .tasks import find_tasks, offline_datasets

FEWSHOT_SEED = 1234  # the harness's default
# The harness warns of each metric for which a task does not say how it is aggregated, which is usual.
USUAL_WARNING = "using default"
SUMMARY_PARTS = ("results", "groups", "group_subtasks", "versions", "n-shot", "n-samples", "higher_is_better")


@dataclass(frozen=True)
class EvalJob:
    """The tasks to run, and how much of each."""

    tasks: tuple[str, ...]  # names, patterns such as mmlu_*, or paths of YAML files
    include: Path | None = None  # a folder of tasks
    limit: int = 0  # documents of each task; 0: all
    num_fewshot: int | None = None  # examples before each question; None: as the task says
    offline: bool = False  # download no data sets

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0, integer=True)
        if self.num_fewshot is not None:
            check_range("num_fewshot", self.num_fewshot, low=0, integer=True)


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


def run_tasks(model: LightLLMForEval, job: EvalJob) -> tuple[dict[str, Any], list[str]]:
    """Run tasks with lm-evaluation-harness.

    Returns:
        The result of `lm_eval.evaluate` without samples: `results`, `versions`, `n-shot`, `n-samples` and more; and
        the harness's warnings, a line each.

    Raises:
        ConfigError: lm_eval is not installed, a task is unknown, or it needs a setting that this model lacks.
        DataError: the data of a task cannot be loaded, or the task fails.
    """
    # Before any other import of lm_eval, for a message that names the extra.
    require("lm_eval", "eval")
    with _collect_warnings() as warnings, offline_datasets(job.offline):
        manager, names = find_tasks(job.tasks, job.include)
        tasks = _load_tasks(manager, names, job)
        adapter = _adapt(model)
        evaluate = import_module("lm_eval.evaluator").evaluate
        try:
            results = evaluate(adapter, tasks, limit=job.limit or None, log_samples=False)
        except LightLLMError:
            raise
        except Exception as error:
            # A bug in our code must show its traceback; an error in a task is the user's to fix.
            if error is adapter.failure:
                raise
            raise DataError(f"the tasks {', '.join(names)} cannot be run: {_one_line(error)}") from error
    return dict(results), warnings


def _load_tasks(manager: Any, names: Sequence[str], job: EvalJob) -> Any:
    """Return the tasks with their data, ready to run. Raises DataError."""
    try:
        tasks = manager.load(list(names))
    except Exception as error:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if names[3:] else "")
        raise DataError(f"{shown} cannot be loaded: {_one_line(error)}; {_remedy(error, job)}") from error
    for task in tasks["tasks"].values():
        default_fewshot = task.get_config("num_fewshot")
        # The harness does the same: a task that says 0 was written to have no examples.
        if job.num_fewshot is not None and default_fewshot != 0:
            task.set_config(key="num_fewshot", value=job.num_fewshot)
        elif default_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _adapt(model: LightLLMForEval) -> Any:
    """Return the model as an instance of the harness's `LM`, which is a base class only once lm_eval is imported."""
    base: Any = import_module("lm_eval.api.model").LM

    class Adapter(base):  # type: ignore[misc]
        """Passes the arguments of the harness's requests on."""

        failure: Exception | None = None

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return self._answer(model.loglikelihood, requests)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return self._answer(lambda args: model.loglikelihood_rolling([text for (text,) in args]), requests)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return self._answer(model.generate_until, requests)

        def _answer(self, method: Callable[[list[Any]], list[Any]], requests: Sequence[Any]) -> list[Any]:
            try:
                return method([request.args for request in requests])
            except Exception as error:
                self.failure = error
                raise

    return Adapter()


@contextlib.contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Silence the harness's progress bars and messages, and yield a list that gets each of its warnings once."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = " ".join(record.getMessage().split())
            if line not in lines and USUAL_WARNING not in line:
                lines.append(line)

    # propagate is off, so that the root logger does not print the warnings a second time.
    logger, handler = logging.getLogger("lm_eval"), Collect(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    ignored = io.StringIO()
    try:
        with contextlib.redirect_stdout(ignored), contextlib.redirect_stderr(ignored):
            yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _remedy(error: Exception, job: EvalJob) -> str:
    """Return what to do about a task that cannot be loaded."""
    if isinstance(error, ConnectionError):
        return "without {--offline} it is downloaded" if job.offline else "once downloaded, it is cached"
    return "install what it needs" if isinstance(error, ImportError) else "check its YAML file and its data"


def _one_line(error: BaseException) -> str:
    """Return an error of another package in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


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
