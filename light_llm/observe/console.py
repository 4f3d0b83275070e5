"""Show a run on the screen: a progress line in a terminal, plain lines elsewhere, and the same lines in train.log."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ..text_format import format_duration
from .metrics import LogFile, Row

PLAIN_INTERVAL = 10  # steps between two plain lines


class SafeStream:
    """A text stream that falls silent, instead of raising, once it cannot be written.

    Rich draws progress lines in a thread of its own, where no caller could catch the error.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; discard it once the stream has failed."""
        try:
            self.stream.write(text)
        # A UnicodeError is a ValueError, but means a character that the encoding lacks, not a lost stream.
        except UnicodeError:
            raise
        except (OSError, ValueError):
            self.redirect_to_null()
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it has failed."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.redirect_to_null()

    def redirect_to_null(self) -> None:
        """Redirect the stream to the null device, so that text in its buffer cannot fail when Python exits."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Console:
    """A sink that prints rows and messages to the screen and to a log file.

    Args:
        total: steps of the whole run.
        log: a file for all lines; None for none.
        quiet: print nothing on the screen; the log is still written.
        file: the stream to print to; standard output by default.
    """

    def __init__(self, *, total: int, log: Path | None = None, quiet: bool = False, file: TextIO | None = None) -> None:
        self.total = total
        stream = file or sys.stdout
        # A terminal that is closed during a run must not end it.
        safe: Any = SafeStream(stream) if stream is not None else None
        self.screen = RichConsole(file=safe, quiet=quiet, highlight=False)
        self.live = self.screen.is_terminal and not quiet
        # Rich wraps at 80 columns where there is no terminal, which would break the lines of a piped log.
        self.screen.soft_wrap = not self.screen.is_terminal
        self.log = LogFile(log, fresh=False, warn=self._print) if log else None
        self.progress: Progress | None = None
        self.started = 0.0  # when the first step started
        # Counted here: after a rollback the step number says less than how many were made.
        self.steps_made = 0

    def say(self, line: str, style: str = "") -> None:
        """Print a line above the progress line, and log it."""
        self._print(line, style)
        self._write_log(line)

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
        step = row["step"]
        if self.steps_made == 0:
            self.started = time.perf_counter() - row["seconds"]
        self.steps_made += 1
        # A plain log of every step would be long; the first, every tenth and the last are enough.
        if step == 1 or step % PLAIN_INTERVAL == 0 or step == self.total or self.steps_made == 1:
            line = (
                f"step {step}/{self.total}  loss {row['loss']:.3f}{_bits(row, ' {:.3f} bits/byte')}  "
                f"lr {row['lr']:.1e}  |g| {row['grad_norm']:.2f}  {row['tok_per_sec']:,.0f} tok/s  "
                f"{self._time_left(step)} left"
            )
            self._write_log(line)
            if not self.live:
                self._print(line)
        if self.live:
            self._advance(row)

    def _time_left(self, step: int) -> str:
        return format_duration((time.perf_counter() - self.started) / self.steps_made * (self.total - step))

    def _advance(self, row: Row) -> None:
        if self.progress is None:
            columns = (BarColumn(bar_width=12), TextColumn("{task.fields[line]}", markup=False))
            self.progress = Progress(*columns, console=self.screen, transient=True)
            self.progress.add_task("", total=self.total, line="")
            self.progress.start()
        line = (
            f"{row['step']}/{self.total} loss {row['loss']:.3f}{_bits(row, '{:.3f} b/B')} lr {row['lr']:.1e} "
            f"|g| {row['grad_norm']:.2f} {row['tok_per_sec']:,.0f} tok/s {self._time_left(row['step'])}"
        )
        self.progress.update(self.progress.task_ids[0], completed=row["step"], line=line)

    def pause(self) -> None:
        """Remove the progress line until the next step."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def close(self) -> None:
        """Remove the progress line and close the log."""
        self.pause()
        if self.log:
            self.log.close()
            self.log = None

    def _print(self, line: str, style: str = "") -> None:
        # A character that the screen's encoding lacks becomes a question mark instead of an error.
        encoding = self.screen.encoding
        self.screen.print(Text(line.encode(encoding, errors="replace").decode(encoding), style=style))

    def _write_log(self, line: str) -> None:
        if self.log:
            self.log.add(line + "\n")


def evaluation_line(row: Row, total: int) -> str:
    """Return the line for a row of kind eval."""
    error = f" ± {row['stderr']:.3f}" if row.get("stderr") is not None else ""
    best = "  best" if row.get("best") else ""
    if row.get("split") == "training":
        return f"step {row['step']}/{total}  mean training loss {row['loss']:.3f}{best}"
    distance = f", {row['distance']:.3f} above the limit" if row.get("distance") is not None else ""
    return (
        f"step {row['step']}/{total}  held out {row['loss']:.3f}{error}  "
        f"{row['bits_per_byte']:.3f} bits/byte{distance}  perplexity {row['perplexity']:.1f}{best}"
    )


def _bits(row: Row, template: str) -> str:
    bits = row.get("bits_per_byte")
    return "" if bits is None else " " + template.format(bits)
