"""`light-llm bench`: how fast this machine multiplies, reads, trains and writes, beside other machines."""

from __future__ import annotations

import string
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text
from tyro.conf import arg

from ..bench.beside import as_times, ratio, remarks
from ..bench.machines import shipped_machines
from ..bench.result import Figure, Result, read_result
from ..errors import ConfigError
from ..observe.stream import Fading
from ..text_format import format_count
from .args import file_to_write, parse
from .output import columns, show

if TYPE_CHECKING:
    from ..bench.measure import Tell

WIDTH = 79  # columns of a sentence
Other = tuple[Result, str]  # and what to say beside its name
AT_ONCE = 3  # machines in a table beside this one


@dataclass(frozen=True)
class BenchFlags:
    """The flags of `bench`."""

    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    quick: Annotated[bool, arg(help="some 10 s: no training but nano's")] = False
    json: Annotated[str, arg(metavar="FILE", help="write the figures; -: print only them")] = ""
    beside: Annotated[str, arg(metavar="FILE", help="compare with a --json of elsewhere")] = ""


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = (
        "Measure this machine in about a minute: matrix products, memory, training and writing with the presets. "
        "Nothing is downloaded, and what --json writes says nothing of whose machine it is."
    )
    flags, _ = parse(BenchFlags, argv, prog="light-llm bench", about=about)
    if flags.json == "-" and flags.beside:
        raise ConfigError("--beside has no effect with --json -, which prints no table; leave one out")
    others = [(machine, "") for machine in shipped_machines()]
    if flags.beside:
        others.append((read_result(Path(flags.beside)), " (--beside)"))
    target = None if flags.json == "-" else file_to_write("--json", flags.json, ", or - for standard output")
    found = _measured(flags)
    if flags.json == "-":
        print(found.to_json().decode(), flush=True)
        return 0
    _show(found, others)
    if target:
        from ..files import Files, commit_file

        commit_file(target, lambda file: file.write(found.to_json()), Files())
        show("", Text(f"written to {target}; it says nothing of whose machine this is"))
    return 0


def _measured(flags: BenchFlags) -> Result:
    from ..bench import effort
    from ..bench.measure import measure
    from ..runtime import choose_device, keep_memory, use_cores

    device = choose_device(flags.device).value
    keep_memory()
    use_cores()
    with _progress() as tell:
        return measure(effort.usual(device, quick=flags.quick), device, tell)


@contextmanager
def _progress() -> Iterator[Tell]:
    """Inside the block the function shows how far it is: a bar in a terminal, elsewhere a line as a part begins."""
    stream: Any = Fading(sys.stderr) if sys.stderr is not None else None
    screen = Console(file=stream, stderr=True, highlight=False)
    if not screen.is_terminal:
        yield _lines(lambda line: screen.print(Text(line), soft_wrap=True))
        return
    parts = (
        TextColumn("{task.description:17}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: float, total: float) -> None:
            bar.update(task, description=what.partition(":")[0], completed=done, total=total)

        yield tell


def _lines(say: Callable[[str], object]) -> Tell:
    """Says what begins, once."""
    said = ""

    def tell(what: str, done: float, total: float) -> None:
        nonlocal said
        if what != said:
            said = what
            say(what)

    return tell


def _show(here: Result, others: Sequence[Other]) -> None:
    """The figures, what they are of, and the other machines."""
    show(Text(_name(here), style="bold"), Text(_versions(here)), "", _figures(here), "")
    _say(*_meanings(here), *here.left_out)
    busy = [figure.name for figure in here.figures if figure.busy]
    if busy:
        _say(
            f"busy     {', '.join(busy)}: the repetitions are more than a quarter apart. Something else was running, "
            "or the machine got too warm; measure again when it is quiet."
        )
    for start in range(0, len(others), AT_ONCE):
        _beside(here, {label(n): others[n] for n in range(start, min(start + AT_ONCE, len(others)))})
    if not others:
        show("")
        _say("No other machine comes with this version; --beside FILE compares with a friend's --json FILE.")
    show("")
    _say(f"took {here.seconds:.0f} s")


def _figures(here: Result) -> Table:
    right = {"justify": "right", "no_wrap": True}
    table = columns(
        Column("", style="bold", no_wrap=True),
        Column("here", **right),  # type: ignore[arg-type]
        Column("unit", no_wrap=True),
        Column("min .. max", **right),  # type: ignore[arg-type]
        Column("which", no_wrap=True),
    )
    for figure in here.figures:
        spread = f"{number(figure.low)} .. {number(figure.high)}" if figure.times > 1 else ""
        which = f"{figure.taken} of {figure.times}" if figure.times > 1 else figure.taken
        style = "yellow" if figure.busy else ""
        table.add_row(figure.name, number(figure.value), figure.unit, Text(spread, style=style), which)
    return table


def _meanings(here: Result) -> list[str]:
    """What the figures of each kind are of, a line each."""
    lines = {f"{figure.kind:8} {figure.how}": None for figure in here.figures}
    return list(lines)


def _beside(here: Result, others: Mapping[str, Other]) -> None:
    """A table of ratios, and what each letter stands for."""
    heads = [head for letter in others for head in (letter, f"here/{letter}")]
    table = columns("beside", *(Column(head, justify="right", no_wrap=True) for head in ("here", *heads)))
    for figure in here.figures:
        theirs = [other.figure(figure.name) for other, _ in others.values()]
        if any(ratio(figure, one) is not None for one in theirs):
            cells = [cell for one in theirs for cell in _pair(one, ratio(figure, one))]
            table.add_row(figure.name, number(figure.value), *cells)
    show("", table, "")
    for letter, (other, note) in others.items():
        _say(f"{letter:8} {_name(other)}{note}; {_versions(other)}")
        differing = remarks(here, other)
        if differing:
            _say(f"         not of the machines alone: {'; '.join(differing)}")


def _pair(figure: Figure | None, times: float | None) -> tuple[Text, Text]:
    """Their number, and the ratio: green where this machine is faster."""
    style = "" if times is None or 0.95 <= times <= 1.05 else "green" if times > 1 else "red"
    return Text("-" if figure is None else number(figure.value)), Text(as_times(times), style=style)


def _name(result: Result) -> str:
    cores, threads = (f"{n} {word}{'s' * (n != 1)}" for n, word in ((result.cores, "core"), (result.threads, "thread")))
    return f"{result.machine}, {cores}, {threads}"


def _versions(result: Result) -> str:
    used = f"light-llm {result.light_llm}, torch {result.torch}, Python {result.python}"
    return f"{result.device}, {result.system}, {used}"


def _say(*sentences: str) -> None:
    """Lines of at most 80 columns; what goes on stands below what it goes on from."""
    for sentence in sentences:
        for line in textwrap.wrap(sentence, WIDTH, subsequent_indent=" " * 9, drop_whitespace=True):
            show(Text(line))


def label(n: int) -> str:
    """What the n-th machine is called in a table.

    >>> label(0), label(25), label(26)
    ('A', 'Z', '27')
    """
    return string.ascii_uppercase[n] if n < len(string.ascii_uppercase) else str(n + 1)


def number(value: float) -> str:
    """Three digits that count, or all before the point up to 99,999.

    >>> number(1478.2), number(31.04), number(0.5), number(170.6), number(123456.0), number(1e7)
    ('1,478', '31.0', '0.500', '171', '123k', '10.0M')
    """
    if value >= 99_999.5:
        return format_count(round(value))
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"
