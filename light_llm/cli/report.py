"""`light-llm report RUN`: key numbers, verdicts and small charts in text, and the page report.html anew."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from ..report import (
    Series,
    Verdict,
    View,
    facts,
    judge,
    key_numbers,
    line_chart,
    read_view,
    repeat_command,
    shaded_rows,
    sparkline,
    write_report,
)
from .args import PositionalArgs, parse
from .output import new_table, print_rich

_POSITIONAL = PositionalArgs("run folder", "light-llm report, or light-llm report RUN", max_count=1)
STYLES = {"bad": "bold red", "watch": "yellow", "good": "green", "info": "dim"}
MOST_POINTS = 600  # of a chart: more than it has dots
WIDE = 78  # columns


@dataclass(frozen=True)
class ReportFlags:
    """The flags of `report`."""

    folder: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="[RUN]", help="a run folder", help_behavior_hint="(default: checkpoints)"),
        _POSITIONAL,
    ] = ()
    no_page: Annotated[bool, arg(help="write no report.html")] = False


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = "What a run shows, in text; and report.html in its folder, also while it goes on."
    flags, _ = parse(ReportFlags, argv, prog="light-llm report", about=about)
    folder = Path(flags.folder[0] if flags.folder else "checkpoints")
    view = read_view(folder)
    plain = not _can_show("▁█⣿░▓")
    print_rich(_head(view), "", _numbers(view))
    print_rich("", _verdicts(judge(view)))
    for title, lines in _charts(view, plain):
        print_rich("", Text(title, style="dim"), *map(Text, lines))
    print_rich("", Text("repeat it with", style="dim"), Text(f"  {repeat_command(view.past.run)}"))
    if not flags.no_page:
        print_rich("", Text.assemble(("page     ", "dim"), str(write_report(folder, view=view))))
    return 0


def _can_show(letters: str) -> bool:
    """Whether the screen's encoding has them."""
    try:
        letters.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def _head(view: View) -> Table:
    table = new_table("", "")
    table.show_header = False
    table.add_row(Text("run", style="dim"), Text(str(view.past.folder), style="bold"))
    for name, value in facts(view).items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _numbers(view: View) -> Table:
    table = new_table("", "", "")
    table.show_header = False
    for number in key_numbers(view):
        table.add_row(Text(number["label"], style="dim"), Text(number["value"], style="bold"), Text(number["note"]))
    return table


def _verdicts(verdicts: Sequence[Verdict]) -> Table | Text:
    """The worst first, each with what to try."""
    if not verdicts:
        return Text("There is nothing to judge yet.")
    table = new_table("", "")
    table.show_header = False
    for v in verdicts:
        level = "note" if v.level == "info" else v.level
        words = Text.assemble((v.what, "bold" if v.level == "bad" else ""), f" {v.advice}" if v.advice else "")
        table.add_row(Text(level, style=STYLES[v.level]), words)
    return table


def _charts(view: View, plain: bool) -> Iterator[tuple[str, list[str]]]:
    """Loss, gradient norm, learning rate, attention: those there are numbers for."""
    steps = view.steps
    kept = range(0, len(steps.step), max(1, len(steps.step) // MOST_POINTS))
    training = Series([steps.step[i] for i in kept], [steps.loss[i] for i in kept])
    held = Series([e.step for e in view.held_out], [e.loss for e in view.held_out], mark="o" if plain else "●")
    lines = line_chart([training, held], width=WIDE, height=12, plain=plain)
    if lines:
        yield f"loss, nats per token, against steps ({held.mark} held out)", lines
    for title, values in (
        ("gradient norm", steps.grad_norm),
        ("learning rate", steps.lr),
        ("tokens/s", steps.tok_per_sec),
    ):
        there = [v for v in values if v is not None]
        if len(there) > 1:
            yield title, [f"{sparkline(values, 56, plain=plain)}  {min(there):.3g} to {max(there):.3g}"]
    entropies = view.probe.attention.get("relative") if view.probe else None
    if view.probe and entropies:
        names = [f"layer {layer}" for layer in range(len(entropies))]
        rows = shaded_rows(names[::-1], entropies[::-1], width=WIDE, plain=plain)
        yield f"attention, heads across: 0 on one token, 1 on all alike (step {view.probe.step:,})", rows
