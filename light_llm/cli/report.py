"""`light-llm report RUN`: print key numbers, health notes and small charts, and write report.html."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import arg

from ..errors import CheckpointError
from ..report import (
    REPORT_NAME,
    HealthNote,
    RunLog,
    Series,
    judge,
    key_numbers,
    line_chart,
    local_processes,
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
    no_page: Annotated[bool, arg(help="do not write report.html")] = False


def command(argv: Sequence[str]) -> int:
    """Print the report of a run, and write its page."""
    about = "Print the measurements of a run with a verdict on each, and write report.html into its folder."
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
    print_rich("", Text("repeat it with", style="dim"), *_command_lines(repro_command(log.run, local_processes(log))))
    if not flags.no_page:
        print_rich("", Text.assemble(("page     ", "dim"), str(_write_page(folder, log))))
    return 0


def _write_page(folder: Path, log: RunLog) -> Path:
    try:
        return write_report(folder, log=log)
    except OSError as error:
        reason = "it is a folder" if isinstance(error, IsADirectoryError) else error.strerror or str(error)
        path = folder / REPORT_NAME
        raise CheckpointError(f"{path} cannot be written: {reason}. --no-page prints the report without it") from None


def _command_lines(command: str) -> list[Text]:
    """Return a command as lines that fit into the terminal and can be pasted as they are: each but the last ends in \\.

    Into a pipe it is a single line.
    """
    console = Console()
    lines = break_command(command, console.width - 4) if console.is_terminal else [command]
    return [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in lines]


def break_command(command: str, width: int) -> list[str]:
    """Break a shell command before flags, so that no line is longer than a width, if no flag with its value is.

    >>> break_command("light-llm train --data 'my text.txt' --lr 0.003", 32)
    ['light-llm train \\\\', "  --data 'my text.txt' \\\\", '  --lr 0.003']
    """
    parts: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if not parts or word.startswith("--"):
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    lines = [""]
    for part in parts:
        # Room for the space and the backslash that may follow.
        if lines[-1] and len(lines[-1]) + 1 + len(part) + 2 > width:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


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
        yield f"loss, nats per token, by step ({held.mark} held out)", lines
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
        yield f"attention entropy by head: 0 on one token, 1 (dark) uniform (step {log.probe.step:,})", rows
