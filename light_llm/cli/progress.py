"""Progress bars of long operations other than training, on standard error."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..errors import Interrupted
from ..observe.console import SafeStream
from .signals import postponed_signals

ProgressFn = Callable[[str, int, int], None]  # what is being done, and how much of how much
MIN_BYTES = 4_000_000  # less is done before a bar could be read
RESUME_ADVICE = "the finished part of the preparation is kept; the same command continues from there"


@contextmanager
def progress_bar(
    *, in_bytes: bool = False, quiet: bool = False, stage_help: Mapping[str, str] | None = None
) -> Iterator[ProgressFn]:
    """Yield a function that shows the progress of one stage after another as a bar, which is removed when done.

    Args:
        in_bytes: the counts are bytes; less than MIN_BYTES shows no bar.
        stage_help: without a terminal, a line to print as each of these stages begins.
    """
    # A closed terminal must not end the operation.
    stream: Any = SafeStream(sys.stderr) if sys.stderr is not None else None
    console = Console(file=stream, stderr=True, highlight=False)
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description:10}"), BarColumn(), count, TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("")
    current = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal current
        is_new, current = stage != current, stage
        if not console.is_terminal:
            if is_new and stage_help and not quiet:
                console.print(f"{stage}: {stage_help[stage]}", soft_wrap=True)
        elif not quiet and total >= MIN_BYTES * in_bytes:
            if is_new:
                bar.reset(task, total=total, description=stage)
            bar.start()
            bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        # Stopping a bar that was never shown would print an empty line.
        if bar.live.is_started:
            bar.stop()


@contextmanager
def preparing(*, quiet: bool) -> Iterator[ProgressFn]:
    """Yield the progress function of reading, training a tokenizer and encoding. Ctrl-C says how to continue."""
    try:
        with progress_bar(in_bytes=True, quiet=quiet) as show:
            yield show
    except KeyboardInterrupt as error:
        raise Interrupted.with_advice(error, RESUME_ADVICE) from None


@contextmanager
def counting(stage: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many windows, blocks or checks are done."""
    with progress_bar(quiet=quiet) as show:
        yield partial(show, stage)


@contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that something of unknown length is being done, with the time since it began.

    Yields a function that prints a line to standard output above it.
    """
    stream: Any = SafeStream(sys.stderr) if sys.stderr is not None else None
    console = Console(file=stream, stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # Not redirected: lines on standard output would come out on standard error.
    spinner = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    shown = console.is_terminal and not quiet

    def say(line: str) -> None:
        if shown:
            spinner.stop()
        print(line, flush=True)
        if shown:
            spinner.start()

    if shown:
        spinner.add_task(what, total=None)
        spinner.start()
    try:
        yield say
    finally:
        if shown:
            spinner.stop()


def load_torch(*, quiet: bool = False) -> None:
    """Import PyTorch, which takes seconds on a slow disk, and show that."""
    with waiting("loading PyTorch", quiet=quiet), postponed_signals():
        import torch  # noqa: F401
