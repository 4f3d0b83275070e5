"""Progress bars for what takes long before or without training; what is short is over before a bar would show."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import Interrupted
from ..observe.resilient_io import SafeStream

LONG = 4_000_000  # bytes
GO_ON = "what is finished of the preparation is kept: the same command goes on from there"


@contextmanager
def preparing(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Inside the block, the given function shows how far the text has been read, learnt from or encoded."""
    columns = (TextColumn("{task.description:8}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    screen = _screen()
    bar = Progress(*columns, console=screen, transient=True)
    task = bar.add_task("")
    stage = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal stage
        if total >= LONG and screen.is_terminal and not quiet:
            if what != stage:
                stage = what
                bar.reset(task, total=total, description=what)
            bar.start()
            bar.update(task, completed=done, total=total)

    try:
        yield show
    except KeyboardInterrupt as error:
        raise Interrupted.by(error, GO_ON) from None
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Inside the block, the given function shows how many windows or blocks are done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = _screen()
    if not screen.is_terminal:
        yield lambda done, total: None
        return
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _screen() -> Console:
    """Standard error, which a closed terminal turns into nothing and not into an error."""
    stream: Any = SafeStream(sys.stderr) if sys.stderr is not None else None
    return Console(file=stream, stderr=True)
