"""The rows of metrics.jsonl as frozen values. A field that is missing or of another type is empty or None."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from .coerce import Grid, Number, Numbers, as_grid, as_int, as_mapping, as_number, as_numbers, as_objects, as_text

Row = Mapping[str, Any]
LossUnit = Literal["loss", "bits_per_byte"]


@dataclass(frozen=True)
class Steps:
    """Columns over the optimizer steps, in order, all of the same length. The names are the keys of a "step" row."""

    step: tuple[int, ...]
    loss: Numbers  # nats per token of the batch
    bits_per_byte: Numbers
    lr: Numbers
    grad_norm: Numbers  # global, before clipping
    clipped: Numbers  # 1 or 0
    weight_norm: Numbers
    tokens: Numbers  # trained on so far
    seconds: Numbers  # of the step alone
    tok_per_sec: Numbers
    mfu: Numbers  # share of the machine's rate of matrix products
    memory: Numbers  # peak, bytes
    grad_norms: Mapping[str, Numbers]  # by parameter group
    update_ratios: Mapping[str, Numbers]  # |dw| / |w| by parameter group
    phases: Mapping[str, Numbers]  # seconds by phase

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class Evaluation:
    """A pass over the held-out split."""

    step: int
    loss: float  # nats per token
    stderr: Number = None  # of `loss`, over windows; None with a single window
    bits_per_byte: Number = None
    limit: Number = None  # bits per byte that no model beats in expectation; for "tales" only
    context: int | None = None  # T, tokens of a window
    upto: Numbers = ()  # the last position of each bucket of `by_position`
    by_position: Numbers = ()  # nats per token of each bucket

    def in_unit(self, unit: LossUnit) -> tuple[Number, Number]:
        """Return the value and its standard error. In bits per byte, the bytes per token count as exact."""
        if unit == "loss":
            return self.loss, self.stderr
        if self.stderr is None or self.bits_per_byte is None or self.loss <= 0:
            return self.bits_per_byte, None
        return self.bits_per_byte, self.stderr * self.bits_per_byte / self.loss


@dataclass(frozen=True)
class Alarm:
    """Attention that has collapsed. Layers and heads count from 0; without a head, all heads of the layer."""

    layer: int
    head: int | None
    what: str


@dataclass(frozen=True)
class Probe:
    """Measurements inside the model on a fixed held-out batch. L layers, H heads.

    A metric is read by the dotted path of its key in the row, as in `observe.metric_names`, so that a new one needs no
    change here.
    """

    step: int
    row: Row

    def number(self, path: str) -> Number:
        """Return a single number, such as "predictions.accuracy"."""
        return as_number(self._value(path))

    def vector(self, path: str) -> Numbers:
        """Return one number per layer, such as "stream.rms"; () if missing."""
        return as_numbers(self._value(path))

    def grid(self, path: str) -> Grid:
        """Return (L, H) numbers, such as "attention.entropy"; () if missing or if the rows differ in length."""
        grid = as_grid(self._value(path))
        return grid if len({len(row) for row in grid}) == 1 and grid[0] else ()

    @property
    def calibration_bins(self) -> list[tuple[Number, Number, Number]]:
        """Return (confidence, accuracy, count) of each bin."""
        bins = as_objects(self._value("predictions.bins"))
        return [(as_number(b.get("confidence")), as_number(b.get("accuracy")), as_number(b.get("count"))) for b in bins]

    @property
    def alarms(self) -> list[Alarm]:
        """Return the heads and layers whose attention has collapsed."""
        rows = [(as_int(a.get("layer")), a) for a in as_objects(self.row.get("alarms"))]
        return [Alarm(layer, as_int(a.get("head")), as_text(a.get("what"))) for layer, a in rows if layer is not None]

    def _value(self, path: str) -> Any:
        value: Any = self.row
        for key in path.split("."):
            value = as_mapping(value).get(key)
        return value


@dataclass(frozen=True)
class AttentionMap:
    """Weights of one head: row i holds those of query i on the tokens up to i."""

    layer: int
    head: int
    why: str
    weights: Grid


@dataclass(frozen=True)
class AttentionSample:
    """Attention maps of some heads on the first tokens of the held-out text."""

    step: int
    tokens: tuple[str, ...]
    maps: tuple[AttentionMap, ...]


@dataclass(frozen=True)
class End:
    """The last row of a process."""

    step: int
    status: str  # done, interrupted, stopped, nonfinite
    seconds: Number  # of the whole process
    memory: Number  # peak, bytes


class StepColumns:
    """Collect "step" rows into arrays of 8-byte numbers: 100,000 steps have some five million of them."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}  # step -> index into the arrays
        self.arrays: dict[tuple[str, str], array[float]] = {}  # (column, "") or (table, name); NaN: missing

    def __len__(self) -> int:
        return len(self.places)

    def add(self, step: int, row: Row) -> None:
        """Add a row, in the place of an earlier row of the same step."""
        is_new, place = step not in self.places, self.places.setdefault(step, len(self.places))
        if not is_new:
            for values in self.arrays.values():
                if place < len(values):
                    values[place] = math.nan
        for name in _COLUMNS:
            value = row.get(name)
            self._put((name, ""), place, float(value) if isinstance(value, bool) else as_number(value))
        for table in _TABLES:
            for name, value in as_mapping(row.get(table)).items():
                self._put((table, name), place, as_number(value))

    def to_steps(self) -> Steps:
        """Return the columns in the order of the steps."""
        order = [self.places[step] for step in sorted(self.places)]
        columns: dict[str, Any] = {name: self._column((name, ""), order) for name in _COLUMNS}
        for table in _TABLES:
            names = [name for owner, name in self.arrays if owner == table]
            columns[table] = {name: self._column((table, name), order) for name in names}
        return Steps(step=tuple(sorted(self.places)), **columns)

    def _put(self, key: tuple[str, str], place: int, value: Number) -> None:
        if value is None:
            return
        values = self.arrays.setdefault(key, array("d"))
        values.extend([math.nan] * (place + 1 - len(values)))
        values[place] = value

    def _column(self, key: tuple[str, str], order: Sequence[int]) -> Numbers:
        values = self.arrays.get(key, array("d"))
        n = len(values)
        return tuple(None if i >= n or math.isnan(v := values[i]) else v for i in order)


_COLUMNS = tuple(f.name for f in fields(Steps) if f.type == Numbers)
_TABLES = tuple(f.name for f in fields(Steps) if f.type != Numbers and f.name != "step")


def head_name(layer: int, head: int | None) -> str:
    """Return the name of a head, or of a layer without one. Both count from 0, as in the code.

    >>> head_name(3, 1), head_name(3, None)
    ('layer 3, head 1', 'layer 3')
    """
    return f"layer {layer}" if head is None else f"layer {layer}, head {head}"


def parse_evaluation(row: Row) -> Evaluation | None:
    """Parse a row of kind "eval". Returns None without a finite loss, as a run that diverged writes it."""
    loss, buckets = as_number(row.get("loss")), as_mapping(row.get("by_position"))
    if loss is None:
        return None
    # Pairs up to the shorter list.
    pairs = list(zip(as_numbers(buckets.get("upto")), as_numbers(buckets.get("loss")), strict=False))
    return Evaluation(
        step=row["step"],
        loss=loss,
        stderr=as_number(row.get("stderr")),
        bits_per_byte=as_number(row.get("bits_per_byte")),
        limit=as_number(row.get("limit")),
        context=as_int(row.get("context")),
        upto=tuple(position for position, _ in pairs),
        by_position=tuple(value for _, value in pairs),
    )


def parse_attention(row: Row) -> AttentionSample | None:
    """Parse a row of kind "attention". Returns None unless every map is a lower triangle over the tokens."""
    tokens = row.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        return None
    maps = []
    for item in as_objects(row.get("maps")):
        layer, head, weights = as_int(item.get("layer")), as_int(item.get("head")), as_grid(item.get("weights"))
        if layer is None or head is None or [len(w) for w in weights] != list(range(1, len(tokens) + 1)):
            return None
        maps.append(AttentionMap(layer, head, as_text(item.get("why")), weights))
    return AttentionSample(row["step"], tuple(map(as_text, tokens)), tuple(maps)) if maps else None


def parse_end(row: Row) -> End:
    return End(row["step"], as_text(row.get("status")), as_number(row.get("seconds")), as_number(row.get("memory")))
