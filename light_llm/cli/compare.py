"""`light-llm compare A B ...`: compare two runs in detail, or any number of them by groups over seeds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import arg

from ..errors import ConfigError
from ..report import (
    FINAL_STEPS,
    SEEDS,
    Evaluation,
    LossUnit,
    RunLog,
    common_evals,
    comparable_unit,
    data_names,
    eval_difference,
    exceeds_error,
    group_runs,
    open_run,
    run_differences,
)
from ..report.figures.plot import evenly_spaced
from ..text_format import format_duration
from .args import PositionalArgs, Words, parse, words_arg
from .compare_groups import compare_runs, length_notes, tables, to_json
from .output import new_table, number_column, print_rich

EXAMPLE = "light-llm compare checkpoints.1 checkpoints"
MAX_EVALS = 12  # rows of held-out losses, so that everything fits on one screen
EvalPairs = list[tuple[Evaluation, Evaluation]]  # of A and B at common steps
_POSITIONAL = PositionalArgs("run folder", EXAMPLE, min_count=2)


@dataclass(frozen=True)
class CompareFlags:
    """The flags of `compare`."""

    folders: Annotated[Words, words_arg("A B [...]", "two or more run folders"), _POSITIONAL] = ()
    json: Annotated[bool, arg(help="print one JSON object")] = False


def command(argv: Sequence[str]) -> int:
    """Print two runs side by side, or a table of more."""
    about = (
        "Compare the results of runs, and show the settings that differ. With more than two runs, those that differ "
        "only in the seed form a group, shown with its mean and standard deviation."
    )
    flags, _ = parse(CompareFlags, argv, prog="light-llm compare", about=about)
    folders = [Path(f) for f in flags.folders]
    # By the resolved path: two names of one folder would show a run that equals itself.
    for first, second in combinations(folders, 2):
        if first.resolve() == second.resolve():
            raise ConfigError(f"{first} and {second} are the same run; name each once, as in {EXAMPLE}")
    runs = [open_run(folder) for folder in folders]
    if flags.json:
        print(json.dumps(to_json(compare_runs(runs)), indent=1))
    elif len(runs) == 2:
        _print_pair(*runs)
    else:
        print_rich(*tables(compare_runs(runs)))
    return 0


def _print_pair(a: RunLog, b: RunLog) -> None:
    """Print two runs side by side, with their held-out curves."""
    unit, reason = comparable_unit(a, b)
    print_rich(_heads(a, b), "", _settings(a, b), "", _results(a, b, unit))
    evals = common_evals(a, b) if unit else []
    if unit and evals:
        print_rich("", _eval_table(evals, unit))
    for note in _notes(a, b, unit, reason, evals):
        print_rich("", Text(note))


def _heads(a: RunLog, b: RunLog) -> Table:
    table = new_table("", Column("run", style="bold", overflow="fold"), "data, tokens", "started")
    for letter, run, data in zip("AB", (a, b), data_names([a, b]), strict=True):
        table.add_row(letter, str(run.folder), data, f"{run.started.astimezone():%Y-%m-%d %H:%M}")
    return table


def _settings(a: RunLog, b: RunLog) -> Table | Text:
    changes = run_differences(a, b)
    if not changes:
        return Text("The settings, the text, the machine and the versions are the same.")
    table = new_table("what differs", Column("A", overflow="fold"), Column("B", overflow="fold"))
    for name, left, right in changes:
        table.add_row(name, _plain(left), _plain(right))
    return table


def _results(a: RunLog, b: RunLog, unit: LossUnit | None) -> Table:
    """Return the results of both runs, with their difference where losses may be compared."""
    table = new_table("result", *map(number_column, ("A", "B", "B - A")))
    same_tokens = unit == "loss"

    def add(
        name: str, value: Callable[[RunLog], Any], form: str, compared: bool = False, gap_form: str = "+.3f"
    ) -> None:
        left, right = value(a), value(b)
        gap = ""
        if compared and left is not None and right is not None:
            gap = f"{right - left:{gap_form}}" if left != right else "same"
        table.add_row(name, *("-" if v is None else format(v, form) for v in (left, right)), gap)

    table.add_row("steps", *(f"{r.last_step:,} of {r.run.train.max_steps:,}" for r in (a, b)), "")
    add("parameters", lambda r: r.parameters, ",", True, "+,")
    add("tokens trained on", lambda r: r.tokens, ",", same_tokens, "+,")
    losses = [_with_error(r.best, "loss") for r in (a, b)]
    # Losses per token are subtracted only if the tokens are the same; a difference of other numbers means nothing.
    table.add_row("best held-out loss", *losses, _gap(a.best, b.best, "loss") if same_tokens else "")
    add("  at step", lambda r: r.best and r.best.step, ",")
    bits = [_with_error(r.best, "bits_per_byte") for r in (a, b)]
    table.add_row("  bits per byte", *bits, _gap(a.best, b.best, "bits_per_byte") if unit else "")
    counts = dict.fromkeys(str(min(FINAL_STEPS, len(r.steps))) for r in (a, b))
    add(f"training, last {' and '.join(counts)} steps", lambda r: r.final_loss, ".3f", same_tokens)
    add("  bits per byte", lambda r: r.final_bits_per_byte, ".3f", unit is not None)
    table.add_row("time in steps", *(format_duration(r.seconds) for r in (a, b)), "")
    speeds = [r.tokens_per_second for r in (a, b)]
    times = f"x {speeds[1] / speeds[0]:.2f}" if same_tokens and speeds[0] and speeds[1] else ""
    table.add_row("tokens/s", *("-" if s is None else f"{s:,.0f}" for s in speeds), times)
    return table


def _eval_table(evals: EvalPairs, unit: LossUnit) -> Table:
    """Return the held-out losses at common steps, with the lower one of each row in bold."""
    title = "held-out loss" if unit == "loss" else "held-out bits/byte"
    table = new_table(title, *map(number_column, ("A", "B", "B - A")), "")
    for a, b in (evals[i] for i in evenly_spaced(len(evals), MAX_EVALS)):
        gap, error = eval_difference(a, b, unit)
        cells = [Text(_with_error(e, unit)) for e in (a, b)]
        # gap is b - a, so a negative gap means that b, at index 1, has the lower loss: that one is bold.
        if gap:
            cells[gap < 0].stylize("bold green")
        word = {True: "beyond", False: "within", None: ""}[exceeds_error(gap, error)]
        table.add_row(f"step {a.step:,}", *cells, _gap(a, b, unit), word)
    return table


def _notes(a: RunLog, b: RunLog, unit: LossUnit | None, reason: str, evals: EvalPairs) -> list[str]:
    """Return the caveats of the numbers above."""
    notes = [reason] if reason else []
    if unit is None:
        return notes
    notes += length_notes((a, b), "AB")
    if {name for name, *_ in run_differences(a, b)} & {*SEEDS} and len(group_runs((a, b))) == 1:
        notes.append("The runs differ in the seed alone: the difference is variation between seeds.")
    if not evals:
        notes.append("No step has an evaluation of both runs, so there is no curve to compare.")
    elif len(evals) > MAX_EVALS:
        notes.append(f"{MAX_EVALS} of {len(evals)} common evaluations are shown.")
    if any(exceeds_error(*eval_difference(*pair, unit)) is not None for pair in evals):
        notes.append(
            '"beyond": the difference is larger than its error bar (±); "within": it is smaller. The bar is '
            "sqrt(A² + B²) of the two standard errors. It is wider than necessary, because both runs were evaluated "
            'on the same windows, hard or easy for both: "within" does not mean equal. The bars do not include the '
            "variation between seeds: train other seeds to see that, and compare them all."
        )
    return notes


def _with_error(evaluation: Evaluation | None, unit: LossUnit) -> str:
    """Format a loss ± its standard error."""
    value, error = evaluation.in_unit(unit) if evaluation else (None, None)
    return "-" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _gap(a: Evaluation | None, b: Evaluation | None, unit: LossUnit) -> str:
    """Format b - a ± its standard error as if the two were independent."""
    if a is None or b is None:
        return ""
    gap, error = eval_difference(a, b, unit)
    return "" if gap is None else f"{gap:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def _plain(value: Any) -> str:
    """Format a setting as on the command line, and a hash by its first digits."""
    # A SHA-256 is 64 hexadecimal digits; the first 12 tell two files apart and fit into the column.
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
