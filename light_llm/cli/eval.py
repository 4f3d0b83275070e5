"""`light-llm eval`: the same as `light-llm generate eval`; with --tasks, the tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import Positional, arg

from ..errors import ConfigError
from ..text_format import format_number
from . import generate
from .args import PositionalArgs, file_to_write, parse
from .output import new_table, print_rich

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..lm_eval import Answers, Row

OF_TASKS = ("include", "limit", "num_fewshot", "output", "batch_size", "last_window", "offline")
MOST_WARNINGS = 5
_POSITIONAL = PositionalArgs("checkpoint", "light-llm eval, or light-llm eval checkpoints --tasks piqa", max_count=1)


@dataclass(frozen=True)
class EvalFlags:
    """The flags of `eval`."""

    model: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="[CHECKPOINT]", help="run folder, step folder, .pt", help_behavior_hint="(default: checkpoints)"),
        _POSITIONAL,
    ] = ()
    checkpoint: Annotated[str, arg(metavar="PATH", help="the same, as a flag", help_behavior_hint="")] = ""
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    data: Annotated[str, arg(metavar="PATH", help="held-out: where the text is now", help_behavior_hint="")] = ""
    tasks: Annotated[str, arg(metavar="A,B", help="names, mmlu_*, my.yaml", help_behavior_hint="")] = ""
    include: Annotated[str, arg(metavar="DIR", help="tasks: a folder of your own", help_behavior_hint="")] = ""
    limit: Annotated[int, arg(metavar="N", help="tasks: documents of each; 0: all")] = 0
    num_fewshot: Annotated[int, arg(metavar="N", help="tasks: examples; -1: as they say")] = -1
    output: Annotated[str, arg(metavar="FILE", help="tasks: the results as JSON", help_behavior_hint="")] = ""
    batch_size: Annotated[int, arg(metavar="N", help="tasks: windows at once")] = 16
    last_window: Annotated[str, arg(metavar="NAME", help="tasks: cold, or full as HF")] = "cold"
    offline: Annotated[bool, arg(help="tasks: download nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = (
        "Without --tasks: loss, perplexity and bits per byte of the held-out text.\n\n"
        "With --tasks: tasks of lm-evaluation-harness, or your own; see docs/eval.md."
    )
    given = {word.partition("=")[0] for word in argv}
    if not given & {"--tasks", "-h", "--help"}:
        return generate.command(["eval", *_of_held_out(argv, given)])
    flags, named = parse(EvalFlags, argv, prog="light-llm eval", about=about)
    if "data" in named:
        raise ConfigError("--data is of the held-out text and has no effect on --tasks; leave one out")
    if flags.model and flags.checkpoint:
        raise ConfigError(f"two checkpoints are named, {flags.model[0]} and {flags.checkpoint}; leave one out")
    return _run(flags)


def _of_held_out(argv: Sequence[str], given: set[str]) -> list[str]:
    """The words for `generate eval`, the checkpoint with its flag. Raises ConfigError for a flag that it has not."""
    for name in OF_TASKS:
        if (flag := f"--{name.replace('_', '-')}") in given:
            raise ConfigError(f"{flag} is of tasks; add --tasks NAME, or leave it out")
    known = {f"--{f.name.replace('_', '-')}" for f in fields(generate.ALL_FLAGS)}
    if any(word.startswith("--") and word not in known for word in given):
        parse(EvalFlags, argv, prog="light-llm eval", about="")  # it says so, with the nearest flag of this verb
    return ["--checkpoint", *argv] if argv and not argv[0].startswith("-") else list(argv)


def _run(flags: EvalFlags) -> int:
    target = file_to_write("--output", flags.output)
    from ..interop.optional_deps import need

    need("lm_eval", "eval")  # before a model is loaded for nothing
    from ..checkpoint import load_model
    from ..lm_eval import Answers, Job, rows_of, run_tasks
    from ..runtime import choose_device
    from .progress import counting

    job = Job(
        tasks=tuple(filter(None, (name.strip() for name in flags.tasks.split(",")))),
        include=Path(flags.include) if flags.include else None,
        limit=flags.limit,
        num_fewshot=None if flags.num_fewshot == -1 else flags.num_fewshot,
        offline=flags.offline,
    )
    device = choose_device(flags.device)
    loaded = load_model(flags.model[0] if flags.model else flags.checkpoint or "checkpoints", device.value)
    with counting("evaluating") as progress:
        answers = Answers(
            loaded,
            batch_size=flags.batch_size,
            last_window=flags.last_window,
            progress=lambda what, done, total: progress(done, total),
        )
        results, warnings = run_tasks(answers, job)
    file = loaded.file
    print_rich(f"{file.path}, step {file.meta.get('step')}", "", _table(rows_of(results)), "")
    print_rich(*_notes(answers, flags, device.value, warnings))
    if target:
        _write(target, _described(file, answers, flags, results, warnings))
        print_rich(Text(f"written to {target}"))
    return 0


def _table(rows: Sequence[Row]) -> Table:
    """A line a number; a task's name stands at its first."""
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("value", "±", "docs", "shots"))
    table = new_table(Column("task", style="bold"), "metric", *numbers, Column("better", style="dim", no_wrap=True))
    before = ""
    for row in rows:
        head = (row.task, count(row.documents), count(row.shots)) if row.task != before else ("", "", "")
        table.add_row(head[0], row.metric, _result(row.value), _result(row.stderr), head[1], head[2], row.better)
        before = row.task
    return table


def _result(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return format_number(value, digits=4)


def count(value: int | None) -> str:
    """A number of things; "" where nobody says."""
    return "" if value is None else f"{value:,}"


def _notes(answers: Answers, flags: EvalFlags, device: str, warnings: Sequence[str]) -> list[Text]:
    """How the numbers were made, and what to know of them."""
    lines = [
        f"context {answers.context:,} tokens; {answers.dtype} on {device}",
        f"what nothing stands before starts after {answers.start_name}",
    ]
    if flags.limit:
        lines.append(f"of each task at most {flags.limit:,} documents: a look, not a result to report")
    if answers.cut:
        lines.append(f"{answers.cut:,} requests were longer than the context and lost their beginning")
    lines += [f"the harness: {line}" for line in warnings[:MOST_WARNINGS]]
    if len(warnings) > MOST_WARNINGS:
        lines.append(f"the harness: {len(warnings) - MOST_WARNINGS} warnings more")
    return [Text(line) for line in lines]


def _described(
    file: ModelFile, answers: Answers, flags: EvalFlags, results: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """The results, and all that decided them."""
    from importlib.metadata import version

    from .. import __version__
    from ..lm_eval import without_samples

    return without_samples(results) | {
        "model": file.path.name,
        "step": file.meta.get("step"),
        "context": answers.context,
        "last_window": flags.last_window,
        "dtype": answers.dtype,
        "start": answers.start_name,
        "cut": answers.cut,
        "limit": flags.limit,
        "batch_size": flags.batch_size,
        "light_llm": __version__,
        "lm_eval": version("lm_eval"),
        "warnings": list(warnings),
    }


def _write(path: Path, values: Mapping[str, Any]) -> None:
    from ..atomic_io import atomic_write
    from ..json_io import canonical_json

    atomic_write(path, canonical_json(values))
