"""Rows of metrics, and the sinks that every run has: `metrics.jsonl`, the source of every report, and the console.

A sink is a function of a row.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ..atomic_io import REAL_FILES, Files, atomic_write
from ..errors import as_keywords
from ..text_format import format_duration, wrap_line

Row = Mapping[str, Any]
WRITTEN_KINDS = ("step", "eval", "rollback", "probe", "attention", "sample", "end")  # kinds of rows in the file
TIMING_KEYS = ("seconds", "tok_per_sec", "mfu", "memory", "phases")  # keys that differ between two equal runs
Sink = Callable[[Row], object]
PLAIN_INTERVAL = 10  # steps between two plain lines


class LogFile:
    """A file of whole lines that keeps in memory what it cannot write, and tries again with the next line.

    A disk that fills up takes a part of a line; the rest follows at that byte, so no line is torn or written twice.

    Args:
        fresh: empty an existing file.
        warn: called when the file cannot be written, and at the end if lines are missing.
    """

    def __init__(self, path: Path, *, fresh: bool, warn: Callable[[str], object]) -> None:
        self.path, self.warn = path, warn
        self.unwritten = bytearray()
        self.warned = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        # Unbuffered: os.write returns how many bytes the disk took, which a buffered file hides.
        self.handle = os.open(path, flags | (os.O_TRUNC if fresh else 0), 0o666)

    def add(self, line: str) -> None:
        """Append a line, its ending included, after any lines that wait."""
        self.unwritten += line.encode(errors="replace")
        try:
            while self.unwritten:
                del self.unwritten[: os.write(self.handle, self.unwritten)]
        except OSError as error:
            if not self.warned:
                # Set before the call: the warning itself may be logged to this file.
                self.warned = True
                self.warn(
                    f"notice   {self.path} cannot be written ({error.strerror}): its lines are kept in memory and "
                    "tried again at each step"
                )

    def close(self) -> None:
        """Try to write waiting lines once more, and close the file."""
        self.add("")
        os.close(self.handle)
        if self.unwritten:
            self.warn(f"notice   {self.path} lacks its last {self.unwritten.count(10):,} lines: it cannot be written")


class JsonLines:
    """A sink that appends the rows of a run to a file, each at once.

    Args:
        keep: cut off the rows of later steps first, because a resumed run writes them again; None for a new file.
        warn: called once with a message when the file cannot be written; the rows wait until it can.
    """

    def __init__(
        self, path: Path, *, keep: int | None = None, warn: Callable[[str], object] = print, files: Files = REAL_FILES
    ) -> None:
        if keep is not None and path.is_file():
            kept = "".join(_to_line(row) for row in read_rows(path) if row.get("step", 0) <= keep).encode()
            # Atomic, so that a crash here cannot lose the rows of the run so far.
            atomic_write(path, kept, files)
        self.file = LogFile(path, fresh=keep is None, warn=warn)

    def __call__(self, row: Row) -> None:
        if row["kind"] in WRITTEN_KINDS:
            self.file.add(_to_line(row))

    def close(self) -> None:
        """Write waiting rows and close the file."""
        self.file.close()


def read_rows(path: Path, *, on_skip: Callable[[str], object] = lambda line: None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metrics file, without lines that are not JSON objects.

    Args:
        on_skip: called with each such line, except a last line that is torn: a crash or a run in progress leaves one.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            elif line.endswith("\n"):
                on_skip(line)


def round_significant(value: float) -> float:
    """Round to four significant digits, enough for a plot.

    >>> round_significant(0.123456), round_significant(12345.6)
    (0.1235, 12350.0)
    """
    return float(f"{value:.4g}")


def replace_nonfinite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None in nested values.

    >>> replace_nonfinite({"loss": math.nan, "norms": [1.0, math.inf]})
    {'loss': None, 'norms': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_nonfinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_line(row: Row) -> str:
    return json.dumps(replace_nonfinite(row)) + "\n"


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
        spell: how messages name options: `errors.as_keywords`, or `errors.as_flags` on the command line.
    """

    def __init__(
        self,
        *,
        total: int,
        log: Path | None = None,
        quiet: bool = False,
        file: TextIO | None = None,
        spell: Callable[[str], str] = as_keywords,
    ) -> None:
        self.total, self.spell = total, spell
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
        self._say_exactly(self.spell(line), style)

    def _say_exactly(self, line: str, style: str = "") -> None:
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
                # What a model writes may look like an option that is to be spelled.
                self._say_exactly(f"  | {line}", style="dim")

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
        shown = line.encode(encoding, errors="replace").decode(encoding)
        lines = [shown] if self.screen.soft_wrap else wrap_line(shown, self.screen.width)
        # A command that is longer than the terminal is left to it: line breaks of ours would be copied.
        self.screen.print(*(Text(part, style=style) for part in lines), sep="\n", soft_wrap=True)

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
