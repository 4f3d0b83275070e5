"""`light-llm report RUN`: print key numbers, health notes and small charts, and write report.html."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table
from rich.text import Text
from tyro.conf import arg

from ..report import (
    HealthNote,
    RunLog,
    Series,
    judge,
    key_numbers,
    line_chart,
    open_run,
    repro_command,
    run_facts,
    shaded_rows,
    sparkline,
    write_report,
)
from .args import PositionalArgs, Words, parse, words_arg
from .output import new_table, print_rich

_POSITIONAL = PositionalArgs("run folder", "light-llm report, or light-llm report RUN", max_count=1)
STYLES = {"bad": "bold red", "watch": "yellow", "good": "green", "info": "dim"}
WIDTH = 78  # columns of a chart


@dataclass(frozen=True)
class ReportFlags:
    """The flags of `report`."""

    folder: Annotated[Words, words_arg("[RUN]", "a run folder", "(default: checkpoints)"), _POSITIONAL] = ()
    no_page: Annotated[bool, arg(help="write no report.html")] = False


def command(argv: Sequence[str]) -> int:
    """Print the report of a run, and write its page."""
    about = "What a run shows, in text; and report.html in its folder, also while it goes on."
    flags, _ = parse(ReportFlags, argv, prog="light-llm report", about=about)
    folder = Path(flags.folder[0] if flags.folder else "checkpoints")
    log = open_run(folder)
    # A letter that the encoding lacks would end the command with an error, so such terminals get ASCII.
    plain = not _can_show("▁█⣿░▓")
    facts, numbers = new_table("", "", header=False), new_table("", "", "", header=False)
    facts.add_row(Text("run", style="dim"), Text(str(log.folder), style="bold"))
    for name, value in run_facts(log).items():
        facts.add_row(Text(name, style="dim"), Text(value))
    for number in key_numbers(log):
        numbers.add_row(Text(number["label"], style="dim"), Text(number["value"], style="bold"), Text(number["note"]))
    print_rich(facts, "", numbers, "", _health_notes(judge(log)))
    for title, lines in _charts(log, plain):
        print_rich("", Text(title, style="dim"), *map(Text, lines))
    print_rich("", Text("repeat it with", style="dim"), Text(f"  {repro_command(log.run)}"))
    if not flags.no_page:
        print_rich("", Text.assemble(("page     ", "dim"), str(write_report(folder, log=log))))
    return 0


def _can_show(letters: str) -> bool:
    """Return whether the encoding of the terminal has these characters."""
    try:
        letters.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def _health_notes(notes: Sequence[HealthNote]) -> Table | Text:
    """Return the notes with their advice, the worst first."""
    if not notes:
        return Text("There is nothing to judge yet.")
    table = new_table("", "", header=False)
    for note in notes:
        level = "note" if note.level == "info" else note.level
        advice = f" {note.advice}" if note.advice else ""
        text = Text.assemble((note.message, "bold" if note.level == "bad" else ""), advice)
        table.add_row(Text(level, style=STYLES[note.level]), text)
    return table


def _charts(log: RunLog, plain: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield title and lines of each chart that has numbers: loss, gradient norm, learning rate, speed, attention."""
    steps = log.steps
    # Many points fall into one character, and those of a long run would take seconds to place.
    kept = range(0, len(steps), max(1, len(steps) // 600))
    training = Series([steps.step[i] for i in kept], [steps.loss[i] for i in kept])
    held = Series([e.step for e in log.evals], [e.loss for e in log.evals], mark="o" if plain else "●")
    lines = line_chart([training, held], width=WIDTH, height=12, plain=plain)
    if lines:
        yield f"loss, nats per token, against steps ({held.mark} held out)", lines
    columns = {"gradient norm": steps.grad_norm, "learning rate": steps.lr, "tokens/s": steps.tok_per_sec}
    for title, values in columns.items():
        numbers = [v for v in values if v is not None]
        if len(numbers) > 1:
            yield title, [f"{sparkline(values, 56, plain=plain)}  {min(numbers):.3g} to {max(numbers):.3g}"]
    entropies = log.probe.grid("attention.relative")
    if entropies:
        # The last layer comes first, as in the heat maps of report.html.
        names = [f"layer {layer}" for layer in range(len(entropies))]
        rows = shaded_rows(names[::-1], entropies[::-1], width=WIDTH, plain=plain)
        yield f"attention, heads across: 0 on one token, 1 on all alike (step {log.probe.step:,})", rows
