"""The names that trackers know numbers by: `train/loss`, `val/bpb`, `lr`. One table, from a row to names and values."""

from collections.abc import Iterator, Mapping
from typing import Any

from .metrics import Row

# What a row calls a number, and what a tracker does. {} stands for a key of a mapping or a place in a list: a group of
# parameters, a layer, a head, a position. Layers and heads are counted from 0; of the stream, l0 is the embeddings.
NAMES: dict[str, dict[str, str]] = {
    "step": {
        "loss": "train/loss",
        "bits_per_byte": "train/bpb",
        "clipped": "train/clipped",
        "skipped": "train/skipped",
        "lr": "lr",
        "grad_norm": "grad_norm",
        "grad_norms": "grads/{}",
        "weight_norm": "weights/norm",
        "update_ratios": "updates/{}",
        "tokens": "tokens",
        "seconds": "throughput/seconds",
        "tok_per_sec": "throughput/tok_per_sec",
        "mfu": "throughput/mfu",
        "phases": "phases/{}",
        "memory": "memory/peak_bytes",
    },
    "eval": {
        "loss": "val/loss",
        "stderr": "val/stderr",
        "bits_per_byte": "val/bpb",
        "perplexity": "val/perplexity",
        "limit": "val/limit",
        "distance": "val/distance",
    },
    "eval of training": {"loss": "train/mean_loss"},  # where there is no held-out text
    "rollback": {"from_step": "rollback/from_step", "batches": "rollback/batches"},
    "probe": {
        "loss": "probe/loss",
        "attention.entropy": "attention/entropy/l{}.h{}",
        "attention.relative": "attention/relative/l{}.h{}",
        "attention.first": "attention/first/l{}.h{}",
        "attention.previous": "attention/previous/l{}.h{}",
        "attention.distance": "attention/distance/l{}.h{}",
        "attention.similarity": "attention/similarity/l{}",
        "stream.rms": "stream/rms/l{}",
        "stream.kurtosis": "stream/kurtosis/l{}",
        "stream.largest": "stream/largest/l{}",
        "stream.effective_rank": "stream/effective_rank/l{}",
        "dead_units": "dead_units/l{}",
        "predictions.entropy": "predictions/entropy",
        "predictions.accuracy": "predictions/accuracy",
        "predictions.confidence": "predictions/confidence",
        "predictions.calibration_error": "calibration/error",
        "induction.score": "induction/score",
        "induction.layer": "induction/layer",
        "induction.head": "induction/head",
        "induction.gain": "induction/gain",
        "lens": "lens/l{}",
    },
    "end": {"seconds": "run/seconds", "memory": "run/peak_bytes", "tok_per_sec": "run/tok_per_sec"},
}
BEST_LOW = ("val/loss", "val/bpb", "val/perplexity")  # of these the lowest is what counts


def tracked_values(row: Row) -> dict[str, float]:
    """The numbers of a row under the names that trackers know them by. What is missing or null is left out.

    >>> scalars({"kind": "step", "step": 1, "loss": 5.0, "mfu": None, "grad_norms": {"h.0.attn": 0.5}})
    {'train/loss': 5.0, 'grads/h.0.attn': 0.5}
    >>> scalars({"kind": "probe", "step": 1, "attention": {"similarity": [0.25, 0.5]}})
    {'attention/similarity/l0': 0.25, 'attention/similarity/l1': 0.5}
    """
    kind = str(row.get("kind"))
    of_training = kind == "eval" and row.get("split") == "training"
    table = NAMES.get("eval of training" if of_training else kind, {})
    found = {name: number for path, form in table.items() for name, number in _spread(form, _reach(row, path))}
    return found | dict(_counted(row, kind)) if kind in ("eval", "probe") else found


def _reach(row: Row, path: str) -> Any:
    """What stands at `attention.entropy`; None where the row ends before."""
    at: Any = row
    for key in path.split("."):
        at = at.get(key) if isinstance(at, Mapping) else None
    return at


def _spread(form: str, value: Any) -> Iterator[tuple[str, float]]:
    """Each number in a value, with the keys and places that lead to it put into its name."""
    if isinstance(value, bool | int | float):
        yield form, int(value) if isinstance(value, bool) else value
    elif isinstance(value, Mapping) and "{}" in form:
        for key, part in value.items():
            yield from _spread(form.replace("{}", str(key), 1), part)
    elif isinstance(value, list | tuple) and "{}" in form:
        for place, part in enumerate(value):
            yield from _spread(form.replace("{}", str(place), 1), part)


def _counted(row: Row, kind: str) -> Iterator[tuple[str, float]]:
    """What is not a number of the row as it stands: loss by position, the mean over all heads, how many alarms."""
    if kind == "eval":
        upto, loss = (_reach(row, f"by_position.{key}") or () for key in ("upto", "loss"))
        yield from _spread("val/by_position/{}", dict(zip(upto, loss, strict=False)))
        return
    for what in ("entropy", "relative", "first", "previous", "distance"):
        heads = [number for _, number in _spread("{}.{}", _reach(row, f"attention.{what}"))]
        if heads:
            yield f"attention/{what}/mean", sum(heads) / len(heads)
    if isinstance(row.get("alarms"), list):
        yield "attention/alarms", len(row["alarms"])
