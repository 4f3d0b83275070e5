"""The rows of `metrics.jsonl` as frozen values. A field that an older run lacks or a hand has edited is None."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .tolerant import Grid, Number, Numbers, finite, grid, items, mapping, numbers, text, whole

Row = Mapping[str, Any]
ATTENTION = ("entropy", "relative", "first", "previous", "distance")
STREAM = ("rms", "kurtosis", "largest", "effective_rank")


@dataclass(frozen=True)
class Steps:
    """Columns over the optimizer steps, in order, all of one length."""

    step: tuple[int, ...]
    loss: Numbers  # nats per token of the batch
    bits_per_byte: Numbers
    lr: Numbers
    grad_norm: Numbers  # global, before clipping
    clipped: tuple[bool | None, ...]
    weight_norm: Numbers
    tokens: Numbers  # trained on so far
    seconds: Numbers  # of the step alone
    tok_per_sec: Numbers
    mfu: Numbers  # share of the machine's product rate
    memory: Numbers  # peak, bytes
    grad_norms: Mapping[str, Numbers]  # by group
    update_ratios: Mapping[str, Numbers]  # |dw| / |w| by group
    phases: Mapping[str, Numbers]  # seconds by phase


@dataclass(frozen=True)
class Evaluation:
    """One pass over a whole split."""

    step: int
    split: str
    loss: float  # nats per token
    stderr: Number
    bits_per_byte: Number
    limit: Number  # bits per byte that no model beats in expectation; of tales only
    context: int | None  # T
    upto: Numbers  # positions: the last of each bucket
    by_position: Numbers  # nats per token of each bucket


@dataclass(frozen=True)
class Alarm:
    """Attention that has collapsed. Layers and heads count from 0; no head: all heads of the layer."""

    layer: int
    head: int | None
    what: str


@dataclass(frozen=True)
class Probe:
    """One look inside, on a fixed small held-out batch. L layers, H heads."""

    step: int
    loss: Number
    attention: Mapping[str, Grid]  # entropy, relative, first, previous, distance: (L, H)
    similarity: Numbers  # (L,) how much a layer's heads look at the same positions, 0 ... 1
    stream: Mapping[str, Numbers]  # rms, kurtosis, largest, effective_rank: (L + 1,)
    dead_units: Numbers  # (L,)
    predictions: Mapping[str, Number]
    bins: tuple[tuple[Number, Number, Number], ...]  # confidence, accuracy, count
    induction: Mapping[str, Number]
    lens: Numbers  # (L + 1,) nats
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True)
class AttentionMap:
    """What one head looks at on one sentence: row i holds the weights of the tokens up to i."""

    layer: int
    head: int
    why: str
    weights: Grid


@dataclass(frozen=True)
class Sentence:
    """The maps of some heads on a real sentence."""

    step: int
    tokens: tuple[str, ...]
    maps: tuple[AttentionMap, ...]


@dataclass(frozen=True)
class End:
    """How a process ended."""

    step: int
    status: str  # done, interrupted, stopped, nonfinite
    seconds: Number  # of the process, all in
    memory: Number  # peak, bytes


def evaluation(row: Row) -> Evaluation | None:
    """A row of kind eval; None without a finite loss."""
    loss, places = finite(row.get("loss")), mapping(row.get("by_position"))
    if loss is None:
        return None
    upto, losses = numbers(places.get("upto")), numbers(places.get("loss"))
    both = list(zip(upto, losses, strict=False))  # as many as both lists have
    return Evaluation(
        step=row["step"],
        split=text(row.get("split")),
        loss=loss,
        stderr=finite(row.get("stderr")),
        bits_per_byte=finite(row.get("bits_per_byte")),
        limit=finite(row.get("limit")),
        context=whole(row.get("context")),
        upto=tuple(u for u, _ in both),
        by_position=tuple(v for _, v in both),
    )


def probe(row: Row) -> Probe:
    """A row of kind probe."""
    attention, stream = mapping(row.get("attention")), mapping(row.get("stream"))
    predictions = mapping(row.get("predictions"))
    bins = items(predictions.get("bins"))
    alarms = items(row.get("alarms"))
    return Probe(
        step=row["step"],
        loss=finite(row.get("loss")),
        attention={name: found for name in ATTENTION if (found := _even(grid(attention.get(name))))},
        similarity=numbers(attention.get("similarity")),
        stream={name: facts for name in STREAM if (facts := numbers(stream.get(name)))},
        dead_units=numbers(row.get("dead_units")),
        predictions={name: finite(value) for name, value in predictions.items() if name != "bins"},
        bins=tuple((finite(b.get("confidence")), finite(b.get("accuracy")), finite(b.get("count"))) for b in bins),
        induction={name: finite(value) for name, value in mapping(row.get("induction")).items()},
        lens=numbers(row.get("lens")),
        alarms=tuple(
            Alarm(layer, whole(a.get("head")), text(a.get("what")))
            for a in alarms
            if (layer := whole(a.get("layer"))) is not None
        ),
    )


def sentence(row: Row) -> Sentence:
    """A row of kind attention; maps that are not a lower triangle over the tokens are left out."""
    found = row.get("tokens")
    tokens = tuple(text(t) for t in found) if isinstance(found, list) else ()
    maps = []
    for item in items(row.get("maps")):
        layer, head, weights = whole(item.get("layer")), whole(item.get("head")), grid(item.get("weights"))
        is_triangle = bool(tokens) and [len(w) for w in weights] == list(range(1, len(tokens) + 1))
        if layer is not None and head is not None and is_triangle:
            maps.append(AttentionMap(layer, head, text(item.get("why")), weights))
    return Sentence(row["step"], tokens, tuple(maps))


def end(row: Row) -> End:
    """A row of kind end."""
    return End(row["step"], text(row.get("status")), finite(row.get("seconds")), finite(row.get("memory")))


def _even(found: Grid) -> Grid:
    """A grid whose rows are of one length; any other is empty."""
    return found if len({len(row) for row in found}) == 1 and found[0] else ()
