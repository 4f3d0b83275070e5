"""`light-llm compare A B`: two runs side by side, what differs first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import Positional, arg

from ..errors import ConfigError
from ..report import (
    FINAL_STEPS,
    CurvePoint,
    HeldOut,
    Measure,
    PastRun,
    beyond,
    common_curve,
    common_measure,
    difference,
    open_run,
    what_differs,
)
from ..text_format import format_duration
from .args import PositionalArgs, parse
from .output import new_table, print_rich

EXAMPLE = "light-llm compare checkpoints.1 checkpoints"
MOST_POINTS = 12  # lines of the held-out curve: what fits on a screen with the rest
_POSITIONAL = PositionalArgs("run folder", EXAMPLE, min_count=2, max_count=2)


@dataclass(frozen=True)
class CompareFlags:
    """The flags of `compare`."""

    folders: Annotated[
        Positional[tuple[str, ...]], arg(metavar="A B", help="two run folders", help_behavior_hint=""), _POSITIONAL
    ] = ()


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = "Two runs side by side: what differs, what came of it, and the held-out curve."
    flags, _ = parse(CompareFlags, argv, prog="light-llm compare", about=about)
    first, second = (Path(f) for f in flags.folders)
    if first.resolve() == second.resolve():
        raise ConfigError(f"{first} and {second} are the same run; name two, as in {EXAMPLE}")
    a, b = open_run(first), open_run(second)
    measure, why = common_measure(a, b)
    print_rich(_heads(a, b), "", _settings(a, b), "", _results(a, b, measure))
    points = common_curve(a, b) if measure else []
    if measure and points:
        print_rich("", _curve(points, measure))
    for note in _notes(a, b, measure, why, points):
        print_rich("", Text(note))
    return 0


def _heads(a: PastRun, b: PastRun) -> Table:
    table = new_table("", Column("run", style="bold", overflow="fold"), "data, tokens", "started")
    for letter, run in (("A", a), ("B", b)):
        data = f"{run.data['title']}, {run.data['tokenizer']}" if run.data else "a loader of its own"
        table.add_row(letter, str(run.folder), data, f"{run.started.astimezone():%Y-%m-%d %H:%M}")
    return table


def _settings(a: PastRun, b: PastRun) -> Table | Text:
    differing = what_differs(a, b)
    if not differing:
        return Text("No setting differs; nor do the text, the machine and the versions.")
    table = new_table("what differs", Column("A", overflow="fold"), Column("B", overflow="fold"))
    for name, left, right in differing:
        table.add_row(name, _plain(left), _plain(right))
    return table


def _results(a: PastRun, b: PastRun, measure: Measure | None) -> Table:
    """Numbers of both runs; a difference only where it means something."""
    table = new_table("result", *(Column(head, justify="right", no_wrap=True) for head in ("A", "B", "B - A")))
    same_tokens = measure == "loss"

    def add(name: str, of: Callable[[PastRun], Any], form: str, compared: bool = False, sign: str = "+.3f") -> None:
        left, right = of(a), of(b)
        gap = ""
        if compared and left is not None and right is not None:
            gap = f"{right - left:{sign}}" if left != right else "same"
        table.add_row(name, *("-" if v is None else format(v, form) for v in (left, right)), gap)

    table.add_row("steps", *(f"{r.step:,} of {r.run.train.max_steps:,}" for r in (a, b)), "")
    add("parameters", lambda r: r.parameters, ",", True, "+,")
    add("tokens trained on", lambda r: r.tokens, ",", same_tokens, "+,")
    losses = [_with_error(r.best, "loss") for r in (a, b)]
    table.add_row("best held-out loss", *losses, _gap(a.best, b.best, "loss") if same_tokens else "")
    add("  at step", lambda r: r.best and r.best.step, ",")
    bits = [_with_error(r.best, "bits_per_byte") for r in (a, b)]
    table.add_row("  bits per byte", *bits, _gap(a.best, b.best, "bits_per_byte") if measure else "")
    add(f"training, last {FINAL_STEPS} steps", lambda r: r.final_loss, ".3f", same_tokens)
    add("  bits per byte", lambda r: r.final_bits_per_byte, ".3f", measure is not None)
    table.add_row("time in steps", *(format_duration(r.seconds) for r in (a, b)), "")
    speeds = [r.tokens_per_second for r in (a, b)]
    times = f"x {speeds[1] / speeds[0]:.2f}" if same_tokens and speeds[0] and speeds[1] else ""
    table.add_row("tokens/s", *("-" if s is None else f"{s:,.0f}" for s in speeds), times)
    return table


def _curve(points: list[CurvePoint], measure: Measure) -> Table:
    """The held-out curve at common steps, thinned to what fits a screen; the lower value of each line in bold."""
    what = "held-out loss" if measure == "loss" else "held-out bits/byte"
    table = new_table(what, *(Column(head, justify="right", no_wrap=True) for head in ("A", "B", "B - A")), "")
    for point in _thinned(points):
        gap, error = difference(point.a, point.b, measure)
        cells = [Text(_with_error(e, measure)) for e in (point.a, point.b)]
        if gap:
            cells[gap < 0].stylize("bold green")
        verdict = {True: "beyond", False: "within", None: ""}[beyond(gap, error)]
        table.add_row(f"step {point.step:,}", *cells, _gap(point.a, point.b, measure), verdict)
    return table


def _thinned(points: list[CurvePoint]) -> list[CurvePoint]:
    """The first, the last and evenly spaced ones between them."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _notes(a: PastRun, b: PastRun, measure: Measure | None, why: str, points: list[CurvePoint]) -> list[str]:
    """What a reader has to know about the numbers above."""
    notes = [why] if why else []
    if measure is None:
        return notes
    contexts = [r.best.context if r.best else None for r in (a, b)]
    if None not in contexts and contexts[0] != contexts[1]:
        notes.append(
            f"A was evaluated in windows of {contexts[0]:,} tokens, B of {contexts[1]:,}. Each window starts cold: the "
            "shorter one costs the same model some loss."
        )
    if not points:
        notes.append("There is no step at which both were evaluated, so there is no curve to compare.")
    elif len(points) > MOST_POINTS:
        notes.append(f"{MOST_POINTS} of {len(points)} common evaluations are shown.")
    if any(beyond(*difference(p.a, p.b, measure)) is not None for p in points):
        notes.append(
            "± in B - A is sqrt(A² + B²) of the two standard errors; a difference is beyond it or within it. That "
            "would be its standard error if the two were independent. They are correlated: both come from the same "
            "held-out windows, hard or easy for both. So a difference is usually known better than its ± says, and "
            "within does not mean equal. No ± here counts the luck of the seed; other seeds show that."
        )
    return notes


def _with_error(found: HeldOut | None, measure: Measure) -> str:
    """A value ± its standard error."""
    value, error = found.by(measure) if found else (None, None)
    return "-" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _gap(a: HeldOut | None, b: HeldOut | None, measure: Measure) -> str:
    """B - A ± what it would be if they were independent."""
    if a is None or b is None:
        return ""
    gap, error = difference(a, b, measure)
    return "" if gap is None else f"{gap:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def _plain(value: Any) -> str:
    """A setting as it would be written on the command line."""
    if isinstance(value, str) and len(value) == 64:  # a hash: its beginning tells it from another
        return value[:12]
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
