"""Everything the pages need of one run as a frozen value: `run.json`, `metrics.jsonl`, `analysis.json`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..observe import read_rows
from ..plain import read_plain
from .bands import Band, find_band
from .curve import Curve, curve_of
from .past_run import PastRun
from .rows import End, Evaluation, Probe, Row, Sentence, Steps, end, evaluation, probe, sentence, step_columns
from .shelf import open_run
from .tolerant import finite, mapping, text, whole

KINDS = ("step", "eval", "rollback", "sample", "probe", "attention", "end")


@dataclass(frozen=True)
class View:
    """What a run was, and all it measured. What an older run did not write is empty or None."""

    past: PastRun
    record: Mapping[str, Any]  # run.json as it stands
    steps: Steps
    held_out: tuple[Evaluation, ...]  # one a step, in order
    probes: tuple[Probe, ...]
    sentence: Sentence | None  # the last one
    samples: tuple[tuple[int, str], ...]  # step, text
    rollbacks: tuple[tuple[int, int], ...]  # step it went back to, step it came from
    end: End | None
    analysis: Mapping[str, Any]  # empty when none was made
    band: Band | None

    @property
    def name(self) -> str:
        """The run folder's own name."""
        return self.past.folder.resolve().name

    @property
    def status(self) -> str:
        """done, interrupted, stopped or nonfinite; else "unfinished": it is going on, or was cut off."""
        if self.end and self.end.step >= self.past.step:
            return self.end.status or "unfinished"
        return "done" if self.past.step >= self.past.run.train.max_steps else "unfinished"

    @property
    def plan(self) -> Mapping[str, Any]:
        """What the run was to amount to, as run.json has it."""
        return mapping(self.record.get("plan"))

    @property
    def flops_per_token(self) -> float | None:
        """Of training, forward and backward."""
        return finite(self.plan.get("flops_per_token"))

    @property
    def tokens_per_step(self) -> int:
        """Of one optimizer step."""
        return self.past.run.train.batch_size * self.past.run.data.max_length

    @property
    def uniform(self) -> float:
        """log V in nats: the loss of a model that guesses every token alike."""
        return math.log(self.past.run.model.vocab_size)

    @cached_property
    def curve(self) -> Curve:
        """The training loss, ready for means."""
        return curve_of(self.steps.step, self.steps.loss)

    @property
    def probe(self) -> Probe | None:
        """The last look inside."""
        return self.probes[-1] if self.probes else None


def read_view(folder: str | Path) -> View:
    """Read a run folder, also while its run goes on: kinds of rows that are not there are empty.

    Raises:
        ConfigError: there is no run; the message names one that is near.
        CheckpointError: there is one, and it is damaged.
    """
    folder = Path(folder)
    past = open_run(folder)
    rows = _last_of_each(folder / "metrics.jsonl")
    record = mapping(_json(folder / "run.json"))
    sentences = [s for row in rows["attention"] if (s := sentence(row)).maps]
    evaluations = [e for row in rows["eval"] if (e := evaluation(row))]
    return View(
        past=past,
        record=record,
        steps=step_columns(rows["step"]),
        held_out=tuple(e for e in evaluations if e.split == "held_out"),
        probes=tuple(probe(row) for row in rows["probe"]),
        sentence=sentences[-1] if sentences else None,
        samples=tuple((row["step"], text(row.get("text"))) for row in rows["sample"]),
        rollbacks=tuple((row["step"], whole(row.get("from_step")) or row["step"]) for row in rows["rollback"]),
        end=end(rows["end"][-1]) if rows["end"] else None,
        analysis=mapping(_json(folder / "analysis.json")),
        band=find_band(past.run, mapping(record.get("data"))),
    )


def _last_of_each(path: Path) -> dict[str, list[Row]]:
    """The rows by kind, of each step the one that was written last, in order of steps."""
    found: dict[str, dict[Any, Row]] = {kind: {} for kind in KINDS}
    for row in read_rows(path):
        kind, step = row.get("kind"), whole(row.get("step"))
        if isinstance(kind, str) and kind in found and step is not None:
            found[kind][(step, text(row.get("split")))] = row
    return {kind: [rows[key] for key in sorted(rows)] for kind, rows in found.items()}


def _json(path: Path) -> Any:
    """What is in a JSON file; None where there is none that can be read."""
    try:
        return read_plain(path)
    except (OSError, ValueError):
        return None
