"""The run on a screen: a progress line in a terminal, plain lines anywhere else, and the same lines in train.log."""

import sys
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ..text_format import format_duration
from .metrics import Row
from .resilient_io import LogFile, SafeStream

PLAIN_EVERY = 10  # steps between two plain lines


class Console:
    """A sink for rows, and a place to say things.

    Args:
        total: steps of the whole run.
        log: a file that gets everything as plain lines; None for none.
        quiet: nothing on the screen; the log is written all the same.
        file: where to write instead of standard output.
    """

    def __init__(self, *, total: int, log: Path | None = None, quiet: bool = False, file: TextIO | None = None) -> None:
        self.total = total
        stream = file or sys.stdout
        fading: Any = (
            SafeStream(stream) if stream is not None else None
        )  # a screen that goes away takes nothing with it
        self.screen = RichConsole(file=fading, quiet=quiet, highlight=False)
        self.live = self.screen.is_terminal and not quiet
        self.screen.soft_wrap = not self.screen.is_terminal  # a terminal gets whole words, a log whole lines
        self.log = LogFile(log, fresh=False, warn=self._print) if log else None
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.began: float | None = None  # when the first step did
        self.shown = 0  # steps: a run may go back and make some again

    def say(self, line: str, style: str = "") -> None:
        """A line above the progress line, and in the log."""
        self._print(line, style)
        self._note(line)

    def __call__(self, row: Row) -> None:
        """Show a row of kind step, eval or sample."""
        if row["kind"] == "step":
            self._show_step(row)
        elif row["kind"] == "eval":
            self.say(evaluation_line(row, self.total), style="bold")
        elif row["kind"] == "sample":
            self.say(f"a sample at step {row['step']}:", style="dim")
            for line in row["text"].splitlines():
                self.say(f"  | {line}", style="dim")

    def _show_step(self, row: Row) -> None:
        step, now = row["step"], time.perf_counter()
        if self.began is None:
            self.began = now - row["seconds"]
        self.shown += 1
        left = format_duration((now - self.began) / self.shown * (self.total - step))
        if step == 1 or step % PLAIN_EVERY == 0 or step == self.total or self.shown == 1:
            line = f"{step_line(row, self.total)}  {left} left"
            self._note(line)
            if not self.live:
                self._print(line)
        if self.live:
            self._advance(row, left)

    def _advance(self, row: Row, left: str) -> None:
        if self.progress is None:
            columns = (BarColumn(bar_width=12), TextColumn("{task.fields[line]}", markup=False))
            self.progress = Progress(*columns, console=self.screen, transient=True)
            self.task = self.progress.add_task("", total=self.total, line="")
            self.progress.start()
        assert self.task is not None
        line = (
            f"{row['step']}/{self.total} loss {row['loss']:.3f}{_bits(row, '{:.3f} b/B')} lr {row['lr']:.1e} "
            f"|g| {row['grad_norm']:.2f} {row['tok_per_sec']:,.0f} tok/s {left}"
        )
        self.progress.update(self.task, completed=row["step"], line=line)

    def pause(self) -> None:
        """Take the progress line away; the next step brings it back."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def close(self) -> None:
        """The end of the run."""
        self.pause()
        if self.log:
            self.log.close()
            self.log = None

    def _print(self, line: str, style: str = "") -> None:
        """What the screen's encoding lacks is shown as a question mark: no letter may end a run."""
        encoding = self.screen.encoding
        self.screen.print(Text(line.encode(encoding, errors="replace").decode(encoding), style=style))

    def _note(self, line: str) -> None:
        if self.log:
            self.log.add(line + "\n")


def step_line(row: Row, total: int) -> str:
    """A row of kind step in plain words."""
    return (
        f"step {row['step']}/{total}  loss {row['loss']:.3f}{_bits(row, ' {:.3f} bits/byte')}  lr {row['lr']:.1e}  "
        f"|g| {row['grad_norm']:.2f}  {row['tok_per_sec']:,.0f} tok/s"
    )


def evaluation_line(row: Row, total: int) -> str:
    """A row of kind eval in plain words."""
    give_or_take = f" ± {row['stderr']:.3f}" if row.get("stderr") is not None else ""
    best = "  best" if row.get("best") else ""
    if row.get("split") == "training":
        return f"step {row['step']}/{total}  mean training loss {row['loss']:.3f}{best}"
    to_limit = f", {row['distance']:.3f} above the limit" if row.get("distance") is not None else ""
    return (
        f"step {row['step']}/{total}  held out {row['loss']:.3f}{give_or_take}  "
        f"{row['bits_per_byte']:.3f} bits/byte{to_limit}  perplexity {row['perplexity']:.1f}{best}"
    )


def _bits(row: Row, form: str) -> str:
    bits = row.get("bits_per_byte")
    return "" if bits is None else " " + form.format(bits)
