"""`metrics.jsonl`: one JSON object a line, the source of every picture. A sink is any function of a row."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Sink = Callable[[Row], object]


class JsonLines:
    """A sink that appends rows of kind step and eval to a file, each whole and flushed.

    Args:
        keep: rows of later steps are cut off first: a resumed run writes them anew.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        if keep is not None and path.is_file():
            kept = [row for row in read_rows(path) if row.get("step", 0) <= keep]
            partial = path.with_name(f".{path.name}.tmp-{os.getpid()}")
            partial.write_text("".join(map(_line, kept)), encoding="utf-8")
            os.replace(partial, path)
        self.file = open(path, "a" if keep is not None else "w", encoding="utf-8")  # noqa: SIM115  (closed by close)

    def __call__(self, row: Row) -> None:
        if row["kind"] in ("step", "eval", "rollback"):
            self.file.write(_line(row))
            self.file.flush()

    def close(self) -> None:
        """No more rows."""
        self.file.close()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file. A torn line, as a crash leaves at the end, is passed over."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _line(row: Row) -> str:
    """JSON has no NaN and no infinity: they become null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain) + "\n"
