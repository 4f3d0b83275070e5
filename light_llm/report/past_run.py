"""One run as its folder tells it: `run.json` and `metrics.jsonl`, read once and checked."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ..config import Run, get_model_size
from ..errors import CheckpointError, ConfigError
from ..json_io import load_json
from ..observe import read_rows
from .tolerant import finite, whole

Measure = Literal["loss", "bits_per_byte"]
Passing = Callable[[Iterable[Mapping[str, Any]]], Iterable[Mapping[str, Any]]]
FORMAT = 1  # of run.json
FOREVER = 1e9  # seconds: no step takes so long
FINAL_STEPS = 50  # steps whose mean is the final training loss: one batch alone is noise


@dataclass(frozen=True)
class StepRow:
    """One optimizer step."""

    step: int
    loss: float | None  # nats per token of the batch; None where it was not finite
    bits_per_byte: float | None
    tokens: int  # trained on so far
    seconds: float  # of this step alone


@dataclass(frozen=True)
class HeldOut:
    """One evaluation of the whole held-out split."""

    step: int
    loss: float  # nats per token
    stderr: float | None  # of `loss`, over windows; None with a single window
    bits_per_byte: float | None
    context: int | None  # T, tokens a window could see

    def by(self, measure: Measure) -> tuple[float | None, float | None]:
        """The value and its standard error, which is scaled to bits per byte with the bytes per token as they are."""
        if measure == "loss":
            return self.loss, self.stderr
        if self.stderr is None or self.bits_per_byte is None or self.loss <= 0:
            return self.bits_per_byte, None
        return self.bits_per_byte, self.stderr * self.bits_per_byte / self.loss


@dataclass(frozen=True)
class PastRun:
    """What a run was and what came of it."""

    folder: Path
    started: datetime  # with its zone
    run: Run
    data: Mapping[str, Any] | None  # title, sha256, tokenizer, tokenizer_sha256; None: a loader that was not ours
    machine: str
    versions: Mapping[str, str]
    steps: tuple[StepRow, ...]  # in order
    evaluations: tuple[HeldOut, ...]  # in order, one a step

    @property
    def parameters(self) -> int:
        """Of the model."""
        return get_model_size(self.run.model)

    @property
    def step(self) -> int:
        """Steps that were made."""
        return self.steps[-1].step if self.steps else 0

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.steps[-1].tokens if self.steps else 0

    @property
    def seconds(self) -> float:
        """Of all steps; evaluation and saving are not in it."""
        return math.fsum(row.seconds for row in self.steps if row.seconds < FOREVER)

    @property
    def tokens_per_second(self) -> float | None:
        """Over all steps. None before the first."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def best(self) -> HeldOut | None:
        """The evaluation with the lowest loss. None before the first."""
        return min(self.evaluations, key=lambda e: e.loss, default=None)

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last 50 steps, nats per token; steps without a finite loss are left out."""
        return _mean([row.loss for row in self.steps[-FINAL_STEPS:]])

    @property
    def final_bits_per_byte(self) -> float | None:
        """The same in bits per byte."""
        return _mean([row.bits_per_byte for row in self.steps[-FINAL_STEPS:]])


def read_past_run(folder: str | Path, passing: Passing = iter) -> PastRun:
    """Read a run folder. A run that is still going on is read as far as it is.

    Args:
        passing: what all rows of its metrics go through on their way.

    Raises:
        CheckpointError: `run.json` or `metrics.jsonl` is missing, damaged or of another format; the message says which.
    """
    folder = Path(folder)
    record = _read_record(folder / "run.json")
    try:
        started = datetime.fromisoformat(record["started"])
        run, data = Run.from_dict(record["run"]), record["data"]
        if data is not None:
            held_out = data.get("held_out_sha256")  # of runs with a validation text of their own
            data = {key: str(data[key]) for key in ("title", "sha256", "tokenizer", "tokenizer_sha256")}
            data["held_out_sha256"] = str(held_out or "")
        versions = {name: str(value) for name, value in record["versions"].items()}
    except ConfigError as error:  # of a newer version, or edited by hand
        raise CheckpointError(f"{folder / 'run.json'} cannot be used: {error}") from None
    except KeyError as error:
        raise CheckpointError(f"{folder / 'run.json'} is damaged: {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'run.json'} is damaged: {error}") from None
    steps, evaluations = _read_metrics(folder / "metrics.jsonl", passing)
    return PastRun(
        folder=folder,
        started=started if started.tzinfo else started.replace(tzinfo=UTC),
        run=run,
        data=data,
        machine=str(record.get("machine", "")),
        versions=versions,
        steps=steps,
        evaluations=evaluations,
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = load_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: what was decided in this run is not known") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object")
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is written in format {record.get('format')!r}; this light-llm reads format {FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    return record


def _read_metrics(path: Path, passing: Passing) -> tuple[tuple[StepRow, ...], tuple[HeldOut, ...]]:
    """Steps and evaluations, of each step the row that was written last."""
    steps: dict[int, StepRow] = {}
    evaluations: dict[int, HeldOut] = {}
    try:
        for row in passing(read_rows(path)):
            number = whole(row.get("step"))
            if number is not None and row.get("kind") == "step":
                steps[number] = StepRow(
                    step=number,
                    loss=finite(row.get("loss")),
                    bits_per_byte=finite(row.get("bits_per_byte")),
                    tokens=whole(row.get("tokens")) or 0,
                    seconds=finite(row.get("seconds")) or 0.0,
                )
            elif number is not None and row.get("kind") == "eval" and row.get("split") == "held_out":
                loss = finite(row.get("loss"))
                if loss is not None:
                    stderr, bits = finite(row.get("stderr")), finite(row.get("bits_per_byte"))
                    evaluations[number] = HeldOut(number, loss, stderr, bits, whole(row.get("context")))
        begun = _has_a_line(path)  # a run that goes on may just be writing its first one
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: what came of this run is not known") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if not steps and not evaluations and begun:
        raise CheckpointError(f"{path} is damaged: no line of it is a step or an evaluation")
    return tuple(steps[n] for n in sorted(steps)), tuple(evaluations[n] for n in sorted(evaluations))


def _has_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _mean(values: list[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(v / len(there) for v in there) if there else None  # no sum of them beyond the largest number
