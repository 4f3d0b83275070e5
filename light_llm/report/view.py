"""Everything the pages need of one run as a frozen value: `run.json`, `metrics.jsonl`, `analysis.json`."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..json_io import load_json
from .bands import Band, find_band
from .curve import Curve, curve_of
from .past_run import PastRun
from .rows import End, Evaluation, Probe, Row, Sentence, Steps, end, evaluation, probe, sentence
from .shelf import open_run
from .step_table import StepTable
from .tolerant import finite, mapping, text, whole

KINDS = ("eval", "rollback", "sample", "probe", "attention", "end")  # beside the steps


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
    def is_over(self) -> bool:
        """Whether no more steps are to be expected."""
        return self.past.step >= self.past.run.train.max_steps or self.status != "unfinished"

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
    rows = _Rows()
    past = open_run(folder, rows.passing)
    record = mapping(_json(folder / "run.json"))
    sentences = [s for row in rows.of("attention") if (s := sentence(row)).maps]
    evaluations = [e for row in rows.of("eval") if (e := evaluation(row))]
    ends = rows.of("end")
    return View(
        past=past,
        record=record,
        steps=rows.table.steps(),
        held_out=tuple(e for e in evaluations if e.split == "held_out"),
        probes=tuple(probe(row) for row in rows.of("probe")),
        sentence=sentences[-1] if sentences else None,
        samples=tuple((row["step"], text(row.get("text"))) for row in rows.of("sample")),
        rollbacks=tuple((row["step"], whole(row.get("from_step")) or row["step"]) for row in rows.of("rollback")),
        end=end(ends[-1]) if ends else None,
        analysis=mapping(_json(folder / "analysis.json")),
        band=find_band(past.run, mapping(record.get("data"))),
    )


class _Rows:
    """The rows of one reading: the steps as a table, of the others per step the one that was written last."""

    def __init__(self) -> None:
        self.table = StepTable()
        self.others: dict[str, dict[Any, Row]] = {kind: {} for kind in KINDS}

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, looked at on their way: the file is read once."""
        for row in rows:
            kind, step = row.get("kind"), whole(row.get("step"))
            if kind == "step":
                self.table.add(row)
            elif isinstance(kind, str) and kind in self.others and step is not None:
                self.others[kind][(step, text(row.get("split")))] = row
            yield row

    def of(self, kind: str) -> list[Row]:
        """The rows of a kind in order of their steps."""
        rows = self.others[kind]
        return [rows[key] for key in sorted(rows)]


def _json(path: Path) -> Any:
    """What is in a JSON file; None where there is none that can be read."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return None
