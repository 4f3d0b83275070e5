"""Rows of metrics, and the sink that every run has: `metrics.jsonl`, the source of every report. See also `console`.

A sink is a function of a row.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic_io import REAL_FILES, Files, atomic_write

Row = Mapping[str, Any]
WRITTEN_KINDS = ("step", "eval", "rollback", "probe", "attention", "sample", "end")  # kinds of rows in the file
TIMING_KEYS = ("seconds", "tok_per_sec", "mfu", "memory", "phases")  # keys that differ between two equal runs
Sink = Callable[[Row], object]


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
