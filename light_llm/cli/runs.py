"""`light-llm runs`: list the runs of a folder, with their results and the settings that differ."""

import csv
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text
from tyro.conf import arg

from ..errors import CheckpointError, ConfigError, did_you_mean
from ..report import (
    WITHOUT_EFFECT,
    RunLog,
    data_names,
    differing_settings,
    find_runs,
    read_runs,
    results_of,
    run_state,
)
from ..text_format import format_count
from .args import PositionalArgs, Words, parse, words_arg
from .output import new_table, number_column, print_rich

_POSITIONAL = PositionalArgs("folder", "light-llm runs, or light-llm runs FOLDER")
SORT_KEYS = ("held-out", "loss", "date", "steps", "speed", "run")  # or the name of a setting
# Settings that have a column of their own, or follow from one.
SHOWN_ELSEWHERE = ("data.data", "data.tokenizer", "model.vocab_size", "train.max_steps", *WITHOUT_EFFECT)
MIN_NAME = 16  # letters of a shortened name
GAP = 2  # spaces between columns
LEFT = ("data, tokens", "state", "started")  # columns of text; the others hold numbers
WRAPPED = ("data, tokens", "state")


@dataclass(frozen=True)
class RunsFlags:
    """The flags of `runs`."""

    folders: Annotated[
        Words, words_arg("[FOLDER ...]", "a run, or a folder of runs", "(default: this folder)"), _POSITIONAL
    ] = ()
    sort: Annotated[str, arg(metavar="KEY", help="held-out, loss, date, steps, speed, run or a setting such as lr")] = (
        "date"
    )
    json: Annotated[bool, arg(help="print one JSON object")] = False
    csv: Annotated[bool, arg(help="print a CSV table")] = False


@dataclass(frozen=True)
class Listed:
    """A run with what the table shows of it."""

    log: RunLog
    name: str  # of the folder, as the user would type it
    data: str  # text and tokenizer
    state: str
    settings: dict[str, Any]  # that differ among the listed runs


def command(argv: Sequence[str]) -> int:
    """Print a table of runs, and a line for each that cannot be read. Returns 0, also if there is no run."""
    about = "List the runs in each FOLDER and one level below it, with their results and the settings that differ."
    flags, _ = parse(RunsFlags, argv, prog="light-llm runs", about=about)
    if flags.json and flags.csv:
        raise ConfigError("--json and --csv cannot be combined; leave one out")
    roots = [Path(f) for f in flags.folders or (".",)]
    logs, errors = read_runs(find_runs(roots))
    runs = sort_runs(list_runs(logs), flags.sort)
    if flags.json:
        print(json.dumps({"runs": [row_of(run) for run in runs], "not_readable": [str(e) for e in errors]}, indent=1))
    elif flags.csv:
        _print_csv(runs)
    elif runs:
        _print_table(runs, flags.sort)
    elif not errors:
        where = ", ".join(map(str, roots)) if flags.folders else "this folder"
        print_rich(f"No runs in {where} or one level below. Start one:", "  light-llm train")
    if not flags.json:
        _print_errors(errors, to_stderr=flags.csv)
    return 0


def list_runs(logs: Sequence[RunLog]) -> list[Listed]:
    """Return what the table shows of each run."""
    differing = differing_settings(logs, SHOWN_ELSEWHERE)
    return [
        Listed(log, str(log.folder), data, run_state(log), {name: values[i] for name, values in differing.items()})
        for i, (log, data) in enumerate(zip(logs, data_names(logs), strict=True))
    ]


def sort_runs(runs: Sequence[Listed], key: str) -> list[Listed]:
    """Sort runs, the best first: lowest loss, latest, longest, fastest; by a setting, the smallest first.

    Raises:
        ConfigError: no such key.
    """
    if key in SORT_KEYS:
        values = [_sort_value(run, key) for run in runs]
    else:
        path = _setting_path(key, runs)
        part, _, name = path.partition(".")
        values = [getattr(getattr(run.log.run, part), name) for run in runs]
    if key == "held-out" and len({run.log.data and run.log.data["tokenizer_sha256"] for run in runs}) > 1:
        values = [run.log.best and run.log.best.bits_per_byte for run in runs]
    with_value = [(value, run) for value, run in zip(values, runs, strict=True) if value is not None]
    without = [run for value, run in zip(values, runs, strict=True) if value is None]
    numeric = all(isinstance(value, (int, float)) for value, _ in with_value)
    with_value.sort(key=lambda pair: pair[0] if numeric else str(pair[0]), reverse=key in ("date", "steps", "speed"))
    return [run for _, run in with_value] + without


def _sort_value(run: Listed, key: str) -> Any:
    log = run.log
    return {
        "held-out": log.best.loss if log.best else None,
        "loss": log.final_loss,
        "date": log.started.timestamp(),
        "steps": log.last_step,
        "speed": log.tokens_per_second,
        "run": run.name,
    }[key]


def _setting_path(name: str, runs: Sequence[Listed]) -> str:
    """Return the dotted name of a setting. Raises ConfigError."""
    from ..config import SETTINGS

    if name in SETTINGS:
        return name
    word = name.replace("-", "_")
    paths = [path for path in SETTINGS if path.partition(".")[2] == word]
    if paths:
        return paths[-1]  # train.seed before data.seed
    known = [*SORT_KEYS, *(path.partition(".")[2] for path in SETTINGS)]
    raise ConfigError(
        f"--sort {name} is not known{did_you_mean(name, known)} It can be {', '.join(SORT_KEYS)}, or a setting as lr"
    )


def row_of(run: Listed) -> dict[str, Any]:
    """Return a run as plain values."""
    log = run.log
    return {
        "run": run.name,
        "state": run.state,
        "started": log.started.isoformat(),
        "data": run.data,
        "parameters": log.parameters,
        **results_of(log),
        "settings": run.settings,
    }


def _print_csv(runs: Sequence[Listed]) -> None:
    rows = [row_of(run) for run in runs]
    for row in rows:
        row |= row.pop("settings")
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _print_errors(errors: Sequence[CheckpointError], *, to_stderr: bool) -> None:
    # Damaged runs come last and do not change the exit code: the others have been listed.
    for error in errors:
        if to_stderr:
            print(f"not listed: {error}", file=sys.stderr)
        else:
            print_rich(Text.assemble(("not listed: ", "red"), str(error)))


# ---- the table


def _print_table(runs: Sequence[Listed], sort: str) -> None:
    """Print one row per run; on a terminal that is too narrow for it, a block of lines per run.

    What all runs have in common is in one line above, so that the settings that differ have room.
    """
    console = Console()
    width = console.width if console.is_terminal else None
    shared, columns = _columns(runs, sort)
    parts: list[RenderableType] = [Text(f"All runs: {', '.join(shared)}", style="dim"), ""] if shared else []
    names = [run.name for run in runs]
    if width is None:
        print_rich(*parts, _one_row_each(names, columns))
        return
    for wrapped in ((), WRAPPED):
        if shown := fit_names(names, width - sum(_width(columns, head, wrapped) + GAP for head in columns)):
            print_rich(*parts, _one_row_each(shown, columns))
            return
    print_rich(*parts, *_one_block_each(names, columns, width))


def _width(columns: dict[str, list[str]], head: str, wrapped: Collection[str]) -> int:
    """Return the width of a column: of its longest cell, or, if its cells are wrapped, of its longest word."""
    cells = [head, *columns[head]]
    return max(len(word) for cell in cells for word in (cell.split() if head in wrapped else [cell]))


def _columns(runs: Sequence[Listed], sort: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return what all runs have in common, and the columns of the rest: their heads and cells."""
    best = [run.log.best for run in runs]
    columns = {
        "model": [format_count(run.log.parameters) for run in runs],
        "data, tokens": [run.data for run in runs],
        "steps": [f"{run.log.last_step}/{run.log.run.train.max_steps}" for run in runs],
        "held out": [f"{b.loss:.3f}" if b else "-" for b in best],
        "bits/B": [f"{b.bits_per_byte:.3f}" if b and b.bits_per_byte is not None else "-" for b in best],
    }
    if sort == "loss":
        columns["loss"] = ["-" if (v := run.log.final_loss) is None else f"{v:.3f}" for run in runs]
    if sort == "speed":
        columns["tokens/s"] = ["-" if (v := run.log.tokens_per_second) is None else f"{v:,.0f}" for run in runs]
    columns |= {name: [format_setting(run.settings[name]) for run in runs] for name in runs[0].settings}
    shared = []
    if len(runs) > 1:
        for name, words in (("model", "{} parameters"), ("data, tokens", "{}")):
            if len(set(columns[name])) == 1:
                shared.append(words.format(columns.pop(name)[0]))
    states = [run.state for run in runs]
    if set(states) != {"done"}:
        columns["state"] = states
    columns["started"] = [local_date(run.log.started) for run in runs]
    return shared, columns


def fit_names(names: Sequence[str], room: int) -> list[str]:
    """Shorten names in the middle to a width. Returns [] if they cannot be, or if two would look alike.

    >>> fit_names(["a-long-name-of-a-run-1", "short"], 16)
    ['a-long-…-a-run-1', 'short']
    """
    if max(map(len, names)) <= room:
        return list(names)
    head, tail = (room - 1) // 2, room // 2
    shown = [name if len(name) <= room else f"{name[:head]}…{name[-tail:]}" for name in names]
    return shown if room >= MIN_NAME and len(set(shown)) == len(set(names)) else []


def _one_row_each(names: Sequence[str], columns: dict[str, list[str]]) -> Table:
    texts = {head: Column(head, no_wrap=head not in WRAPPED) for head in LEFT}
    table = new_table(Column("run", no_wrap=True), *(texts.get(head) or number_column(head) for head in columns))
    for i, name in enumerate(names):
        table.add_row(Text(name, style="bold"), *(Text(cells[i]) for cells in columns.values()))
    return table


def _one_block_each(names: Sequence[str], columns: dict[str, list[str]], width: int) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    for i, name in enumerate(names):
        facts = [cells[i] if head in WRAPPED else f"{head} {cells[i].strip()}" for head, cells in columns.items()]
        blocks += [Text(name, style="bold", overflow="fold"), *map(Text, join_facts(facts, width, indent="  "))]
    return blocks


def join_facts(facts: Sequence[str], width: int, indent: str) -> list[str]:
    """Return lines that hold the facts, two spaces apart, without a line break inside one that fits.

    >>> join_facts(["steps 5/5", "lr 0.001", "seed 1"], 20, indent=" ")
    [' steps 5/5  lr 0.001', ' seed 1']
    """
    lines = [indent]
    for fact in facts:
        if lines[-1] == indent:
            lines[-1] += fact
        elif len(lines[-1]) + 2 + len(fact) <= width:
            lines[-1] += f"  {fact}"
        else:
            lines.append(indent + fact)
    return lines


def format_setting(value: Any) -> str:
    """Return a setting's value as it is typed on the command line.

    >>> [format_setting(value) for value in (0.003, None, True, "cosine")]
    ['0.003', 'none', 'true', 'cosine']
    """
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def local_date(moment: datetime) -> str:
    """Format a moment for people, in the time zone of this machine."""
    return format_date(moment, datetime.now().astimezone())


def format_date(moment: datetime, now: datetime) -> str:
    """Format a moment like `ls`, in the time zone of `now`: with the hour if it is in the same year, else the year."""
    local = moment.astimezone(now.tzinfo)
    day = f"{local.day:2} {_MONTHS[local.month - 1]}"
    return f"{day} {local:%H:%M}" if local.year == now.year else f"{day}  {local.year}"


# strftime's %b depends on the locale, and its width with it.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
