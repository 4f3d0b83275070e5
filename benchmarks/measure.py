"""Time variants in turn, measure the limits of this machine, and save rows of results: shared by the benchmarks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from light_llm.runtime import device_name, usable_cores
from light_llm.runtime.timing import time_calls

CHECKOUT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
LOWER_IS_BETTER = ("s", "ms", "GB")


@dataclass(frozen=True)
class Row:
    """A measured number with that of a plain implementation, and a limit: the best possible, or the most allowed.

    >>> row = Row("a token", "ms", ours=4.0, plain=8.0, limit=2.0)
    >>> row.ratio, row.share
    (2.0, 0.5)
    """

    what: str
    unit: str
    ours: float
    plain: float | None = None
    limit: float | None = None
    note: str = ""  # what plain and limit are

    @property
    def ratio(self) -> float | None:
        """How many times as good as the plain implementation."""
        return self._better(self.ours, self.plain)

    @property
    def share(self) -> float | None:
        """The share of the limit that is reached; for a time that is allowed, a value above 1 is within it."""
        return self._better(self.ours, self.limit)

    def _better(self, ours: float, other: float | None) -> float | None:
        if other is None:
            return None
        return other / ours if self.unit in LOWER_IS_BETTER else ours / other


def best_in_turn(variants: Mapping[str, Callable[[], object]], *, turns: int = 5) -> dict[str, float]:
    """Return the fastest of several calls of each variant, in seconds.

    In turn, so that a machine that becomes slower does so for all; the fastest, because other work only ever slows a
    call down. The first call of each is not counted.
    """
    for call in variants.values():
        call()
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(turns):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def steps_in_turn(variants: Mapping[str, Callable[[], list[float]]], *, turns: int = 5) -> dict[str, float]:
    """Return the 10th percentile of the seconds of each variant's steps.

    As `best_in_turn`, for short steps: other work spoils a few of them and not the whole call.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(turns + 1):
        for name, steps in variants.items():
            seconds = steps()
            found[name] += seconds if turn else []
    return {name: sorted(seconds)[len(seconds) // 10] for name, seconds in found.items()}


def intervals(ticks: Iterable[object]) -> list[float]:
    """Return the seconds from each element to the next."""
    times = [time.perf_counter() for _ in ticks]
    return [after - before for before, after in pairwise(times)]


def matmul_rate(turns: int = 10) -> float:
    """Measure the FLOP/s of bfloat16 products with the shape of micro's MLP, (4096, 384) x (384, 1536)."""
    a, b = torch.randn(4096, 384).bfloat16(), torch.randn(384, 1536).bfloat16()
    return 2 * 4096 * 384 * 1536 / min(time_calls(lambda: a @ b, repeats=turns, min_seconds=0))


def memory_bandwidth(turns: int = 8) -> float:
    """Measure the bytes/s of reading 256 MB, more than a cache holds."""
    block = torch.ones(1 << 25, dtype=torch.int64)
    return block.numel() * 8 / min(time_calls(block.sum, repeats=turns, min_seconds=0))


def fastest_process(words: Sequence[str], *, until: bytes = b"", turns: int = 3) -> float:
    """Return the seconds of the fastest of several `python WORDS ...`, to its end or until it has printed `until`."""
    best = float("inf")
    for _ in range(turns):
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}
        ) as child:
            assert child.stdout is not None
            said = b""
            while (piece := os.read(child.stdout.fileno(), 4096)) and not (until and until in (said := said + piece)):
                pass
            best = min(best, time.perf_counter() - start)
            child.kill()
    return best


def as_table(rows: Sequence[Row]) -> str:
    """Format rows as Markdown."""
    head = "| what | unit | ours | plain | ratio | limit | share of limit | plain and limit are |\n|---|---|"
    lines = [head + "---:|" * 5 + "---|"]
    for row in rows:
        numbers = [row.ours, row.plain, row.ratio, row.limit]
        shown = " | ".join("" if n is None else f"{n:.3g}" if n < 1_000 else f"{n:,.0f}" for n in numbers)
        share = "" if row.share is None else f"{row.share:.0%}"
        lines.append(f"| {row.what} | {row.unit} | {shown} | {share} | {row.note} |")
    return "\n".join(lines)


def save_results(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Write rows, date, machine and versions to results/NAME.json, and return them."""
    result = {
        "date": str(date.today()),
        "torch": torch.__version__,
        "cores": usable_cores(),
        "machine": device_name("cpu"),
        "rows": [asdict(row) | {"ratio": row.ratio, "share": row.share} for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result
