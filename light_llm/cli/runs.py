"""`light-llm runs`: list the runs of a folder, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from rich.table import Column, Table
from rich.text import Text

from ..report import RunLog, find_runs, read_runs
from ..text_format import format_count
from .args import PositionalArgs, Words, parse, words_arg
from .output import new_table, number_column, print_rich

_POSITIONAL = PositionalArgs("folder", "light-llm runs, or light-llm runs FOLDER")


@dataclass(frozen=True)
class RunsFlags:
    """The flags of `runs`."""

    folders: Annotated[
        Words, words_arg("[FOLDER ...]", "a run, or a folder of runs", "(default: this folder)"), _POSITIONAL
    ] = ()


def command(argv: Sequence[str]) -> int:
    """Print a table of runs, and a line for each that cannot be read."""
    about = "The runs in each FOLDER and one level below it, newest first."
    flags, _ = parse(RunsFlags, argv, prog="light-llm runs", about=about)
    roots = [Path(f) for f in flags.folders or (".",)]
    runs, errors = read_runs(find_runs(roots))
    if runs:
        print_rich(_table(runs))
    elif not errors:
        where = ", ".join(map(str, roots)) if flags.folders else "this folder"
        print_rich(f"There is no run in {where}, nor one level below. Start one:", "  light-llm train")
    # Damaged runs come last and do not change the exit code: the others have been listed.
    for error in errors:
        print_rich(Text.assemble(("cannot be listed: ", "red"), str(error)))
    return 0


def _table(runs: Sequence[RunLog]) -> Table:
    """Return one row per run. A narrow terminal cuts names short, never numbers."""
    model, *numbers = (number_column(name) for name in ("model", "steps", "held out", "bits/B"))
    table = new_table(Column("run", style="bold"), model, "data, tokens", *numbers, Column("started", no_wrap=True))
    for run in runs:
        best, data = run.best, run.data
        table.add_row(
            # Cut short and not wrapped, so that columns of numbers keep their width.
            Text(str(run.folder), no_wrap=True),
            format_count(run.parameters),
            Text(f"{data['title']}, {data['tokenizer']}" if data else "a loader of its own", no_wrap=True),
            f"{run.last_step}/{run.run.train.max_steps}",
            f"{best.loss:.3f}" if best else "-",
            f"{best.bits_per_byte:.3f}" if best and best.bits_per_byte is not None else "-",
            format_date(run.started, datetime.now().astimezone()),
        )
    return table


def format_date(moment: datetime, now: datetime) -> str:
    """Format a moment like `ls`, in the time zone of `now`: with the hour if it is in the same year, else the year."""
    local = moment.astimezone(now.tzinfo)
    day = f"{local.day:2} {_MONTHS[local.month - 1]}"
    return f"{day} {local:%H:%M}" if local.year == now.year else f"{day}  {local.year}"


# strftime's %b depends on the locale, and its width with it.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
