"""The console: a sink that shows a run on the screen and in its log, and how long the run still takes."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ..errors import as_keywords
from ..text_format import format_clock, format_duration, wrap_line
from .metrics import LogFile, Row

PLAIN_INTERVAL = 10  # steps between two plain lines
BAR_WIDTH = 12
NOTEBOOK_SECONDS = 1.0  # between two updates of the line in a notebook


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


class TimeLeft:
    """Predicts how long a run still takes: its steps, and the evaluations, saves and samples between and after them.

    Args:
        total: steps of the whole run.
        intervals: for each phase ("evaluating") the steps between two of them; each also follows the last step.
        predicted: for each phase the seconds that all of them together are expected to take. What has been measured
            counts instead as soon as a phase has ended once.
        done: steps that an earlier process has made.
    """

    def __init__(
        self, total: int, intervals: Mapping[str, int], predicted: Mapping[str, float | None], done: int = 0
    ) -> None:
        self.total, self.intervals = total, {phase: n for phase, n in intervals.items() if n}
        self.step, self.steps_made = done, 0
        self.started = 0.0  # when the first step started
        self.begun: set[str] = set()  # phases since the last step
        self.elsewhere = 0.0  # seconds in phases since the first step
        self.measured: dict[str, list[float]] = defaultdict(list)
        self.predicted = {
            phase: (predicted.get(phase) or 0.0) / max(1, self.remaining(phase, done + 1)) for phase in self.intervals
        }

    def add_step(self, step: int, seconds: float) -> None:
        """Count a step; its own evaluation, save and sample are still to come."""
        if not self.steps_made:
            self.started, self.elsewhere = time.perf_counter() - seconds, 0.0
        # Counted here: after a rollback the step number says less than how many were made.
        self.steps_made, self.step = self.steps_made + 1, step
        self.begun = set()

    def add_phase(self, phase: str, seconds: float) -> None:
        """Count a phase that has ended."""
        self.measured[phase].append(seconds)
        self.elsewhere += seconds

    def remaining(self, phase: str, step: int) -> int:
        """Return how often a phase follows this step or a later one.

        >>> [TimeLeft(10, {"saving": 4}, {}).remaining("saving", step) for step in (1, 4, 5, 9, 10)]
        [3, 3, 2, 1, 1]
        """
        interval = self.intervals[phase]
        return self.total // interval - (step - 1) // interval + bool(self.total % interval)

    def seconds(self) -> float:
        """Return the seconds that are left, the current phase included."""
        per_step = (time.perf_counter() - self.started - self.elsewhere) / self.steps_made if self.steps_made else 0.0
        left = per_step * (self.total - self.step)
        for phase in self.intervals:
            measured = self.measured[phase]
            each = sum(measured) / len(measured) if measured else self.predicted[phase]
            left += each * max(0, self.remaining(phase, self.step) - (phase in self.begun))
        return left


class Console:
    """A sink that prints rows and messages to the screen and to a log file.

    Args:
        total: steps of the whole run.
        log: a file for all lines; None for none.
        quiet: print nothing on the screen; the log is still written.
        file: the stream to print to; standard output by default.
        spell: how messages name options: `errors.as_keywords`, or `errors.as_flags` on the command line.
        time_left: predicts the rest of the run; by default from the steps alone.
    """

    def __init__(
        self,
        *,
        total: int,
        log: Path | None = None,
        quiet: bool = False,
        file: TextIO | None = None,
        spell: Callable[[str], str] = as_keywords,
        time_left: TimeLeft | None = None,
    ) -> None:
        self.total, self.spell = total, spell
        self.time_left = time_left or TimeLeft(total, {}, {})
        stream = file or sys.stdout
        # A terminal that is closed during a run must not end it.
        safe: Any = SafeStream(stream) if stream is not None else None
        # In a notebook rich would make a display block of each line.
        self.screen = RichConsole(file=safe, quiet=quiet, highlight=False, force_jupyter=False)
        self.live = self.screen.is_terminal and not quiet
        # A notebook shows a line again over itself, as a terminal does, but nothing else of one.
        self.notebook = type(stream).__module__.startswith("ipykernel") and not quiet
        # Rich wraps at 80 columns where there is no terminal, which would break the lines of a piped log.
        self.screen.soft_wrap = not self.screen.is_terminal
        self.log = LogFile(log, fresh=False, warn=self._print) if log else None
        self.progress: Progress | None = None
        self.numbers = ""  # of the last step, for the progress line
        self.shown_at = 0.0  # when the line of a notebook was last shown

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
        self.time_left.add_step(step, row["seconds"])
        # A plain log of every step would be long; the first, every tenth and the last are enough.
        if step == 1 or step % PLAIN_INTERVAL == 0 or step == self.total or self.time_left.steps_made == 1:
            line = (
                f"step {step}/{self.total}  loss {row['loss']:.3f}{_bits(row, ' {:.3f} bits/byte')}  "
                f"lr {row['lr']:.1e}  grad {row['grad_norm']:.2f}  {row['tok_per_sec']:,.0f} tok/s  "
                f"{format_duration(self.time_left.seconds())} left"
            )
            self._write_log(line)
            if not self.live and not self.notebook:
                self._print(line)
        self.numbers = self._numbers(row)
        self._draw(self.numbers)

    def _numbers(self, row: Row) -> str:
        """Return the numbers of a step for the progress line: all that fit into its width, the least important last."""
        count = f"{row['step']}/{self.total}"
        parts = {
            "loss": f"loss {row['loss']:.3f}",
            "bits": _bits(row, "{:.3f} bits/byte").strip(),
            "speed": f"{row['tok_per_sec']:,.0f} tok/s",
            "grad": f"grad {row['grad_norm']:.2f}",
            "lr": f"lr {row['lr']:.1e}",
        }
        room = self.screen.width - BAR_WIDTH - len(" 1:00:00 left") - 2
        shown = [count]
        for name in ("loss", "bits", "speed", "grad", "lr"):
            if parts[name] and len(" ".join([*shown, parts[name]])) <= room:
                shown.append(parts[name])
        return " ".join(shown)

    @contextmanager
    def working(self, phase: str) -> Iterator[Callable[[int, int], None]]:
        """Show a phase between two steps, or after the last one, in the progress line: "evaluating 12/40".

        Yields a function that shows how much of it is done.
        """
        begun = time.perf_counter()
        self.time_left.begun.add(phase)
        count = self.numbers.partition(" ")[0]

        def show(done: int = 0, total: int = 0) -> None:
            elapsed = time.perf_counter() - begun
            measured = self.time_left.measured[phase]
            each = elapsed / done * total if done else sum(measured) / max(1, len(measured))
            amount = f" {done:,}/{total:,}" if total else ""
            self._draw(f"{count} {phase}{amount}".strip(), more=max(0.0, each - elapsed))

        show()
        try:
            yield show
        finally:
            self.time_left.add_phase(phase, time.perf_counter() - begun)

    def _draw(self, line: str, more: float = 0.0) -> None:
        """Show the progress line, with the time left: that of the run and `more` seconds of the current phase."""
        line = f"{line} {format_clock(self.time_left.seconds() + more)} left"
        if self.notebook and time.perf_counter() - self.shown_at >= NOTEBOOK_SECONDS:
            self.shown_at = time.perf_counter()
            self.screen.file.write(f"\r{line:<79}")
            self.screen.file.flush()
        if not self.live:
            return
        if self.progress is None:
            columns = (BarColumn(bar_width=BAR_WIDTH), TextColumn("{task.fields[line]}", markup=False))
            self.progress = Progress(*columns, console=self.screen, transient=True)
            self.progress.add_task("", total=self.total, line="")
            self.progress.start()
        self.progress.update(self.progress.task_ids[0], completed=self.time_left.step, line=line)

    def pause(self) -> None:
        """Remove the progress line until the next step."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
        self._clear_notebook()

    def _clear_notebook(self) -> None:
        if self.shown_at:
            self.screen.file.write(f"\r{'':79}\r")
            self.shown_at = 0.0

    def close(self) -> None:
        """Remove the progress line and close the log."""
        self.pause()
        if self.log:
            self.log.close()
            self.log = None

    def _print(self, line: str, style: str = "") -> None:
        self._clear_notebook()
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
        f"step {row['step']}/{total}  held out {row['loss']:.3f}{error} "
        f"{_bits(row, '{:.3f} bits/byte')}{distance}  perplexity {row['perplexity']:.1f}{best}"
    )


def _bits(row: Row, template: str) -> str:
    bits = row.get("bits_per_byte")
    return "" if bits is None else " " + template.format(bits)
