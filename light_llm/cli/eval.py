"""`light-llm eval`: evaluate on the held-out text like `generate eval`, on any text, or on lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import UseAppendAction, arg

from ..atomic_io import atomic_write
from ..config import check_choice
from ..errors import ConfigError
from ..json_io import canonical_json
from ..text_format import format_number
from .args import CHECKPOINT_ARG, PositionalArgs, SeveralValues, Words, file_to_write, flag_of, parse
from .eval_text import DTYPES, evaluate_texts
from .model_text import evaluate_held_out
from .output import new_table, number_column, print_rich

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..lm_eval import LightLLMForEval, Row

TASK_FLAGS = ("include", "limit", "num_fewshot", "batch_size", "last_window")
TEXT_FLAGS = ("context", "stride", "text_field", "separator", "suffixes", "errors")
COMMON_FLAGS = ("dtype", "output", "offline")  # of tasks and texts
MAX_WARNINGS = 5
_POSITIONAL = PositionalArgs("checkpoint", "light-llm eval, or light-llm eval checkpoints --tasks piqa", max_count=1)


@dataclass(frozen=True)
class EvalFlags:
    """The flags of `eval`."""

    model: Annotated[Words, CHECKPOINT_ARG, _POSITIONAL] = ()
    checkpoint: Annotated[str, arg(metavar="PATH", help="the same as CHECKPOINT, as a flag", help_behavior_hint="")] = (
        ""
    )
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    data: Annotated[
        str, arg(metavar="PATH", help="path of the held-out text, if it has moved", help_behavior_hint="")
    ] = ""
    text: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="FILE...", help="any texts: files, folders, JSONL, Parquet, - (stdin)", help_behavior_hint=""),
        SeveralValues(),
    ] = ()
    context: Annotated[int, arg(metavar="N", help="text: tokens of a window; 0: as in training")] = 0
    stride: Annotated[int, arg(metavar="N", help="text: new tokens of a window; 0: the context")] = 0
    dtype: Annotated[
        str,
        arg(metavar="NAME", help="text, tasks: float32 or bfloat16", help_behavior_hint="(default: as in training)"),
    ] = ""
    text_field: Annotated[str, arg(metavar="NAME", help="text: its field in JSON, CSV, Parquet")] = "text"
    separator: Annotated[
        str | None, arg(metavar="LINE", help="text: line between documents", help_behavior_hint="")
    ] = None
    suffixes: Annotated[str, arg(metavar="LIST", help="text: files of a folder: .py,.md", help_behavior_hint="")] = ""
    errors: Annotated[str, arg(metavar="NAME", help="text: invalid UTF-8: strict, replace")] = "strict"
    tasks: Annotated[str, arg(metavar="A,B", help="tasks: names, patterns or YAML files", help_behavior_hint="")] = ""
    include: Annotated[str, arg(metavar="DIR", help="tasks: folder of your own tasks", help_behavior_hint="")] = ""
    limit: Annotated[int, arg(metavar="N", help="tasks: documents per task; 0: all")] = 0
    num_fewshot: Annotated[int, arg(metavar="N", help="tasks: examples shown; -1: the task's own")] = -1
    output: Annotated[str, arg(metavar="FILE", help="text, tasks: write results as JSON", help_behavior_hint="")] = ""
    batch_size: Annotated[int, arg(metavar="N", help="tasks: windows in a batch")] = 16
    last_window: Annotated[str, arg(metavar="NAME", help="tasks: cold or full; see docs/eval.md")] = "cold"
    offline: Annotated[bool, arg(help="text, tasks: download nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Evaluate a model on its held-out text, or on tasks."""
    about = (
        "Without --tasks: measure loss, perplexity and bits per byte on the held-out text, or with --text on any "
        "text.\n\n"
        "With --tasks: run tasks of lm-evaluation-harness, or your own; see docs/eval.md."
    )
    flags, given = parse(EvalFlags, argv, prog="light-llm eval", about=about)
    if flags.model and flags.checkpoint:
        raise ConfigError(f"two checkpoints are named, {flags.model[0]} and {flags.checkpoint}; leave one out")
    checkpoint = flags.model[0] if flags.model else flags.checkpoint or "checkpoints"
    modes = [name for name in ("tasks", "text") if name in given]
    if "data" in given and modes:
        raise ConfigError(f"--data names the held-out text and has no effect on {flag_of(modes[0])}; leave one out")
    if len(modes) > 1:
        raise ConfigError("--tasks and --text cannot be used together; leave one out")
    for name, allowed in _allowed_modes().items():
        if name in given and not set(modes) & set(allowed):
            raise ConfigError(
                f"{flag_of(name)} applies to {' and '.join(map(flag_of, allowed))} only; add "
                f"{'--text FILE' if 'text' in allowed else '--tasks NAME'}, or leave it out"
            )
    if "tasks" in given:
        _run_tasks(flags, checkpoint)
    elif "text" in given:
        evaluate_texts(checkpoint, flags)
    else:
        evaluate_held_out(checkpoint, flags.device, flags.data)
    return 0


def _allowed_modes() -> dict[str, tuple[str, ...]]:
    """Return for each flag the flags of which one has to be given with it."""
    return {
        **dict.fromkeys(TASK_FLAGS, ("tasks",)),
        **dict.fromkeys(TEXT_FLAGS, ("text",)),
        **dict.fromkeys(COMMON_FLAGS, ("tasks", "text")),
    }


def _run_tasks(flags: EvalFlags, checkpoint: str) -> None:
    if flags.dtype:
        check_choice("dtype", flags.dtype, DTYPES)
    target = file_to_write("--output", flags.output)
    from ..interop.exporter import require

    require("lm_eval", "eval")  # before the model is loaded
    from ..checkpoint import load_model
    from ..lm_eval import EvalJob, LightLLMForEval, result_rows, run_tasks
    from ..runtime import choose_device, expand_path
    from .progress import counting

    job = EvalJob(
        tasks=tuple(filter(None, (name.strip() for name in flags.tasks.split(",")))),
        include=expand_path(flags.include) if flags.include else None,
        limit=flags.limit,
        num_fewshot=None if flags.num_fewshot == -1 else flags.num_fewshot,
        offline=flags.offline,
    )
    device = choose_device(flags.device)
    loaded = load_model(checkpoint, device.value)
    with counting("evaluating") as progress:
        model = LightLLMForEval(
            loaded,
            batch_size=flags.batch_size,
            dtype=flags.dtype or None,
            last_window=flags.last_window,
            progress=lambda kind, done, total: progress(done, total),
        )
        results, warnings = run_tasks(model, job)
    file = loaded.file
    print_rich(f"{file.path}, step {file.meta.get('step')}", "", _table(result_rows(results)), "")
    print_rich(*_notes(model, flags, device.value, warnings))
    if target:
        atomic_write(target, canonical_json(_report(file, model, flags, results, warnings)))
        print_rich(Text(f"written to {target}"))


def _table(rows: Sequence[Row]) -> Table:
    """Return a table with a line for each metric. The task is named on its first line only."""
    numbers = map(number_column, ("value", "±", "docs", "shots"))
    table = new_table(Column("task", style="bold"), "metric", *numbers, Column("better", style="dim", no_wrap=True))
    before = ""
    for row in rows:
        task, docs, shots = (row.task, row.documents, row.shots) if row.task != before else ("", None, None)
        counts = ("" if n is None else f"{n:,}" for n in (docs, shots))
        table.add_row(task, row.metric, _result(row.value), _result(row.stderr), *counts, row.better)
        before = row.task
    return table


def _result(value: float | str | None) -> str:
    return value or "" if value is None or isinstance(value, str) else format_number(value, digits=4)


def _notes(model: LightLLMForEval, flags: EvalFlags, device: str, warnings: Sequence[str]) -> list[Text]:
    """Return the lines below the table: the settings of the evaluation, and warnings."""
    lines = [
        f"context {model.context:,} tokens; {model.dtype} on {device}",
        f"a text without a context starts after {model.start_name}",
    ]
    if flags.limit:
        lines.append(f"at most {flags.limit:,} documents of each task: a sample, not a result to report")
    if model.truncated:
        lines.append(f"{model.truncated:,} requests were longer than the context and lost their beginning")
    lines += [f"the harness: {line}" for line in warnings[:MAX_WARNINGS]]
    if len(warnings) > MAX_WARNINGS:
        lines.append(f"the harness: {len(warnings) - MAX_WARNINGS} more warnings")
    return [Text(line) for line in lines]


def _report(
    file: ModelFile, model: LightLLMForEval, flags: EvalFlags, results: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """Return the content of --output: the results, and the settings and versions behind them."""
    from importlib.metadata import version

    from .. import __version__
    from ..lm_eval import summarize_results

    return summarize_results(results) | {
        "model": file.path.name,
        "step": file.meta.get("step"),
        "context": model.context,
        "last_window": flags.last_window,
        "dtype": model.dtype,
        "start": model.start_name,
        "cut": model.truncated,
        "limit": flags.limit,
        "batch_size": flags.batch_size,
        "light_llm": __version__,
        "lm_eval": version("lm_eval"),
        "warnings": list(warnings),
    }
