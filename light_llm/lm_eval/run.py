"""Tasks in, results out: the harness runs, the model answers."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..config import check_range
from ..errors import DataError, LightLLMError
from ..interop.optional_deps import need
from .lm import Answers
from .tasks import find_tasks, on_this_machine

FEWSHOT_SEED = 1234  # the harness's own
DEFAULTS = "using default"  # a warning for each metric of a task that leaves to the harness how it is added up


@dataclass(frozen=True)
class Job:
    """Which tasks are run, and how much of them.

    Raises:
        ConfigError: a number below 0.
    """

    tasks: tuple[str, ...]  # names, patterns such as mmlu_*, or paths of YAML files
    include: Path | None = None  # a folder of tasks
    limit: int = 0  # the first so many documents of each task; 0: all
    num_fewshot: int | None = None  # examples before each question; None: as the task says
    offline: bool = False  # data sets only from this machine

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0, integer=True)
        if self.num_fewshot is not None:
            check_range("num_fewshot", self.num_fewshot, low=0, integer=True)


def run_tasks(answers: Answers, job: Job) -> tuple[dict[str, Any], list[str]]:
    """Run tasks by lm-evaluation-harness.

    Returns:
        What `lm_eval.evaluate` returns, without samples: `results`, `versions`, `n-shot`, `n-samples` and more; and
        what the harness warned of, a line each.

    Raises:
        ConfigError: no lm_eval on this machine, an unknown task, or wishes of one that this model cannot fulfil.
        DataError: a task whose data cannot be had, or that fails.
    """
    need("lm_eval", "eval")
    with _quiet() as warnings, on_this_machine(job.offline):
        manager, names = find_tasks(job.tasks, job.include)
        tasks = _loaded(manager, names, job)
        model = _model(answers)
        evaluate = import_module("lm_eval.evaluator").evaluate
        try:
            results = evaluate(model, tasks, limit=job.limit or None, log_samples=False)
        except LightLLMError:
            raise
        except Exception as error:
            if error is model.failure:  # ours: not the task's fault
                raise
            raise DataError(f"the tasks {', '.join(names)} cannot be run: {_line(error)}") from error
    return dict(results), warnings


def _loaded(manager: Any, names: Sequence[str], job: Job) -> Any:
    """The tasks with their data, ready to run. Raises DataError."""
    tasks: dict[str, Any] = {}
    try:
        tasks = manager.load(list(names))
    except Exception as error:
        more = f" and {len(names) - 3:,} more" if names[3:] else ""
        said = f"{', '.join(names[:3])}{more} cannot be loaded: {_line(error)}; {_way_out(error, job)}"
        raise DataError(said) from error
    for task in tasks["tasks"].values():
        own = task.get_config("num_fewshot")
        if job.num_fewshot is not None and own != 0:  # a task that says 0 cannot have any
            task.set_config(key="num_fewshot", value=job.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _model(answers: Answers) -> Any:
    """The answers as the harness wants them: an instance of a subclass of its LM."""
    base: Any = import_module("lm_eval.api.model").LM

    class Model(base):  # type: ignore[misc]
        """Ours under the harness."""

        failure: Exception | None = None

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return self._answer(answers.likelihoods, requests)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return self._answer(lambda all_args: answers.texts([text for (text,) in all_args]), requests)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return self._answer(answers.continuations, requests)

        def _answer(self, ask: Callable[[list[Any]], list[Any]], requests: Sequence[Any]) -> list[Any]:
            try:
                return ask([request.args for request in requests])
            except Exception as error:
                self.failure = error
                raise

    return Model()


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Inside, the harness's bars and remarks go nowhere, and each of its warnings once into the list."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = " ".join(record.getMessage().split())
            if line not in found and DEFAULTS not in line:
                found.append(line)

    logger, handler = logging.getLogger("lm_eval"), Keep(logging.WARNING)
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def _way_out(error: Exception, job: Job) -> str:
    """What to do where a task or its data cannot be loaded."""
    if isinstance(error, ConnectionError):
        return "without --offline it is downloaded" if job.offline else "once it was downloaded, it is kept"
    return "install what it needs" if isinstance(error, ImportError) else "look into its YAML file and its data"


def _line(error: BaseException) -> str:
    """An error of another program in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
