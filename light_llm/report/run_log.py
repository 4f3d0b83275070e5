"""Read a run folder into a `RunLog`: run.json, metrics.jsonl, and analysis.json if there is one.

A run that is still training is read as far as it has been written. A row that cannot be parsed is skipped and counted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import Run, get_model_size
from ..errors import CheckpointError, ConfigError
from ..json_io import load_json
from ..observe import read_rows
from .coerce import Number, as_int, as_mapping, as_number, as_text, drop_none, mean_of
from .curves import Band, Curve, GapPoint, find_band
from .liveness import last_update, training_since
from .log_rows import (
    AttentionSample,
    End,
    Evaluation,
    Probe,
    Row,
    StepColumns,
    Steps,
    parse_attention,
    parse_end,
    parse_evaluation,
)

RUN_FORMAT = 1  # of run.json
KINDS = {"run": dict, "data": dict, "versions": dict, "plan": dict, "decided": dict, "started": str}  # in run.json
KIND_NAMES = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
MAX_STEP_SECONDS = 1e9  # a longer step is a damaged row
FINAL_STEPS = 50  # steps whose mean is the final training loss: the loss of one batch is noise
LAST_OF_KIND = ("eval", "rollback", "sample", "probe")  # kinds of rows of which each step keeps the last


@dataclass(frozen=True)
class RunLog:
    """A run and everything it measured. What an older version did not write is empty or None."""

    folder: Path
    record: Row  # run.json
    started: datetime  # with its time zone
    run: Run
    data: Mapping[str, str] | None  # titles and hashes; None: a loader that is not light-llm's
    versions: Mapping[str, str]
    steps: Steps
    evals: tuple[Evaluation, ...]  # in order, one per step
    probes: tuple[Probe, ...]
    attention: AttentionSample | None  # the last one
    samples: tuple[tuple[int, str], ...]  # step, text
    rollbacks: tuple[tuple[int, int], ...]  # the step it went back to, the step it came from
    ends: tuple[End, ...]  # the last row of each process that could write one
    skipped_rows: int  # lines of metrics.jsonl that could not be parsed
    analysis: Row  # analysis.json; empty without one
    band: Band | None  # losses to expect from these settings
    training_since: float | None = None  # when the process that trains now began, seconds since the epoch; None: none
    updated: float | None = None  # when metrics.jsonl was last written, seconds since the epoch

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def machine(self) -> str:
        return str(self.record.get("machine", ""))

    @property
    def processes(self) -> int:
        """Return how many processes trained the run; of a run that was resumed with another number, the last."""
        return as_int(as_mapping(self.record.get("world")).get("processes")) or 1

    @property
    def parameters(self) -> int:
        return get_model_size(self.run.model)

    @property
    def last_step(self) -> int:
        return self.steps.step[-1] if len(self.steps) else 0

    @property
    def tokens(self) -> int:
        """Return the number of tokens trained on."""
        return int(self.steps.tokens[-1] or 0) if len(self.steps) else 0

    @property
    def seconds(self) -> float:
        """Return the time of all steps, without evaluation and saving."""
        return math.fsum(s for s in self.steps.seconds if s is not None and s < MAX_STEP_SECONDS)

    @property
    def tokens_per_second(self) -> float | None:
        """Return the mean speed over all steps; None before the first."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def best(self) -> Evaluation | None:
        """Return the evaluation with the lowest loss; None before the first."""
        return min(self.evals, key=lambda e: e.loss, default=None)

    @property
    def final_loss(self) -> Number:
        """Return the mean training loss of the last 50 steps, nats per token, without those that were not finite."""
        return mean_of(self.steps.loss[-FINAL_STEPS:])

    @property
    def final_bits_per_byte(self) -> Number:
        return mean_of(self.steps.bits_per_byte[-FINAL_STEPS:])

    @property
    def end(self) -> End | None:
        """Return the last row of the last process; None if it has written none."""
        return self.ends[-1] if self.ends else None

    @property
    def all_seconds(self) -> float | None:
        """Return the time of all processes from start to end; None if one has written no end, as one that was killed.

        Then the ends cover fewer seconds than the steps, or a step comes after the last of them.
        """
        seconds = drop_none([end.seconds for end in self.ends])
        is_whole = self.end is not None and self.end.step >= self.last_step and len(seconds) == len(self.ends)
        return total if is_whole and (total := math.fsum(seconds)) >= self.seconds else None

    @property
    def status(self) -> str:
        """Return running, done, interrupted, stopped or nonfinite. A run that was killed is interrupted."""
        ended = self.end if self.end and self.end.step >= self.last_step else None
        # A process that ends writes its last row before it releases the lock; one that resumes has written nothing yet.
        if self.training_since is not None and (not ended or self.training_since > (self.updated or 0.0)):
            return "running"
        if ended and ended.status:
            return ended.status
        return "done" if self.last_step >= self.run.train.max_steps else "interrupted"

    @property
    def is_over(self) -> bool:
        """Return whether no process is training this run."""
        return self.status != "running"

    @property
    def plan(self) -> Row:
        """Return the estimates that were made before the run."""
        return as_mapping(self.record.get("plan"))

    @property
    def flops_per_token(self) -> Number:
        """Return the FLOPs of training on one token, forward and backward."""
        return as_number(self.plan.get("flops_per_token"))

    @property
    def tokens_per_step(self) -> int:
        return self.run.train.batch_size * self.run.data.max_length

    @property
    def uniform_loss(self) -> float:
        """Return log V in nats, the loss of a model that gives every token the same probability."""
        return math.log(self.run.model.vocab_size)

    @cached_property
    def curve(self) -> Curve:
        """Return the training loss with windowed means."""
        return Curve(self.steps.step, self.steps.loss)

    @cached_property
    def gap_points(self) -> list[GapPoint]:
        """Return a point for each evaluation that has training steps before it."""
        pairs = [(e, self.curve.index(e.step)) for e in self.evals]
        return [GapPoint(e.step, e.loss, self.curve.mean(i), self.curve.noise(i)) for e, i in pairs if i >= 0]

    @property
    def probe(self) -> Probe:
        """Return the last probe, or an empty one: then every metric is missing."""
        return self.probes[-1] if self.probes else Probe(0, {})

    @property
    def last_eval(self) -> Evaluation | None:
        return self.evals[-1] if self.evals else None


def read_run_log(folder: str | Path) -> RunLog:
    """Read a run folder, also while the run is training.

    Raises:
        CheckpointError: run.json or metrics.jsonl is missing, damaged or of another format; the message says which.
    """
    folder = Path(folder)
    path, record = folder / "run.json", _read_record(folder / "run.json")
    try:
        started = datetime.fromisoformat(record["started"])
        run, data = Run.from_dict(record["run"]), record["data"]
        if data is not None:
            # Only runs with a validation text of their own have a held_out_sha256.
            facts = {key: str(data[key]) for key in ("title", "sha256", "tokenizer", "tokenizer_sha256")}
            data = facts | {"held_out_sha256": str(data.get("held_out_sha256") or "")}
        versions = {name: str(value) for name, value in record["versions"].items()}
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used: {error.message}") from None
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    try:
        analysis = as_mapping(load_json(folder / "analysis.json"))
    except (OSError, ValueError):  # most runs have none
        analysis = {}
    # Before the rows: a run that ends meanwhile has then written its last row, and does not look interrupted.
    since = training_since(folder)
    rows = _read_metrics(folder / "metrics.jsonl")
    return RunLog(
        folder=folder,
        record=record,
        started=started if started.tzinfo else started.replace(tzinfo=UTC),
        run=run,
        data=data,
        versions=versions,
        steps=rows.steps.to_steps(),
        evals=tuple(e for row in rows.of_kind("eval") if (e := parse_evaluation(row))),
        probes=tuple(Probe(row["step"], row) for row in rows.of_kind("probe")),
        attention=rows.attention,
        samples=tuple((row["step"], as_text(row.get("text"))) for row in rows.of_kind("sample")),
        rollbacks=tuple((row["step"], as_int(row.get("from_step")) or row["step"]) for row in rows.of_kind("rollback")),
        ends=tuple(map(parse_end, rows.ends)),
        skipped_rows=rows.skipped,
        analysis=analysis,
        band=find_band(run, as_mapping(record["data"])),
        training_since=since,
        updated=last_update(folder),
    )


def _read_record(path: Path) -> dict[str, Any]:
    """Read run.json. Raises CheckpointError."""
    try:
        record = load_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the settings of this run are not known") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object")
    if not isinstance(record.get("format"), int):
        raise CheckpointError(f"{path} is damaged: it has no format number")
    for key, kind in KINDS.items():
        value = record.get(key)
        # A run with a loader of its own has no data, and a missing key is reported by name later.
        if not isinstance(value, kind) and value is not None:
            raise CheckpointError(f"{path} is damaged: {key!r} is {KIND_NAMES[type(value)]}, not {KIND_NAMES[kind]}")
    if record["format"] != RUN_FORMAT:
        raise CheckpointError(
            f"{path} is written in format {record.get('format')!r}; this light-llm reads format {RUN_FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    return record


def _read_metrics(path: Path) -> "_Rows":
    """Read metrics.jsonl. Raises CheckpointError if it is missing beside a checkpoint, or holds nothing that parses."""
    rows = _Rows()
    try:
        for row in read_rows(path, on_skip=rows.skip):
            rows.add(row)
        with path.open("rb") as file:
            has_line = file.readline().endswith(b"\n")
    except FileNotFoundError:
        # A run that was stopped before its first step may not have made the file.
        if not any(path.parent.glob("step-*")) and not (path.parent / "best_model.pt").exists():
            return rows
        raise CheckpointError(f"{path} is missing: the measurements of this run are lost") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    # A run that has just begun may be writing its first line at this moment.
    if has_line and not rows.n_parsed:
        raise CheckpointError(f"{path} is damaged: none of its lines is a step, an evaluation or an end")
    return rows


class _Rows:
    """The rows of a metrics file. Of a kind and step that was written twice, as after a rollback, the last counts."""

    def __init__(self) -> None:
        self.steps = StepColumns()
        self.attention: AttentionSample | None = None
        self.ends: list[Row] = []  # all of them: two processes may end at the same step
        self.skipped = 0
        self._last: dict[str, dict[int, Row]] = {kind: {} for kind in LAST_OF_KIND}

    @property
    def n_parsed(self) -> int:
        """Return the number of steps, evaluations and ends."""
        return len(self.steps) + len(self._last["eval"]) + len(self.ends)

    def add(self, row: Row) -> None:
        """Add a row; skip one without a step, or with attention maps that do not fit their tokens."""
        kind, step = row.get("kind"), as_int(row.get("step"))
        if step is None:
            self.skip()
        elif kind == "step":
            self.steps.add(step, row)
        elif kind == "attention":
            sample = parse_attention(row)
            self.attention = sample or self.attention
            self.skipped += sample is None
        elif kind == "end":
            self.ends.append(row)
        elif isinstance(kind, str) and kind in self._last and row.get("split", "held_out") == "held_out":
            self._last[kind][step] = row

    def skip(self, line: str = "") -> None:
        """Count a line that could not be parsed."""
        self.skipped += 1

    def of_kind(self, kind: str) -> list[Row]:
        """Return the rows of a kind in the order of their steps."""
        return [row for _, row in sorted(self._last[kind].items())]
