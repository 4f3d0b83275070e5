"""Every metric of a run: its key in `metrics.jsonl`, its name in trackers, its unit and its meaning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .metrics import Row


@dataclass(frozen=True)
class Metric:
    """A number, or numbers by group, layer, head or position, in the rows of one kind."""

    row: str  # kind of row; "training eval" is an eval row without held-out text
    key: str  # path in the row, such as attention.entropy
    name: str  # in trackers; each {} stands for the key of a mapping or the index of a list
    unit: str
    help: str


# Layers and heads count from 0. In metrics of the residual stream, l0 is the output of the embeddings.
METRICS = (
    Metric("step", "loss", "train/loss", "nats/token", "mean over the batch, before the update"),
    Metric("step", "bits_per_byte", "train/bpb", "bits/byte", "the loss over the UTF-8 bytes of the targets"),
    Metric("step", "clipped", "train/clipped", "", "1 where the gradient was longer than train.grad_clip"),
    Metric("step", "skipped", "train/skipped", "", "1 where a guard discarded the update"),
    Metric("step", "lr", "lr", "", "learning rate of this update"),
    Metric("step", "grad_norm", "grad_norm", "", "norm of the whole gradient before clipping"),
    Metric("step", "grad_norms", "grads/{}", "", "norm of the gradient by parameter group, before clipping"),
    Metric("step", "weight_norm", "weights/norm", "", "norm of all weights after the update"),
    Metric("step", "update_ratios", "updates/{}", "", "norm of the update over the norm of the weights, by group"),
    Metric("step", "tokens", "tokens", "tokens", "targets trained on so far"),
    Metric("step", "seconds", "throughput/seconds", "s", "time of the step alone"),
    Metric("step", "tok_per_sec", "throughput/tok_per_sec", "tokens/s", "training speed"),
    Metric("step", "mfu", "throughput/mfu", "", "share of the machine's matrix multiplications per second"),
    Metric("step", "phases", "phases/{}", "s", "time for the batch, the gradients and the rest"),
    Metric("step", "memory", "memory/peak_bytes", "bytes", "peak memory of the process so far"),
    Metric("eval", "loss", "val/loss", "nats/token", "mean over the held-out text"),
    Metric("eval", "stderr", "val/stderr", "nats/token", "standard error of the loss over windows"),
    Metric("eval", "bits_per_byte", "val/bpb", "bits/byte", "the loss over the UTF-8 bytes of the targets"),
    Metric("eval", "perplexity", "val/perplexity", "", "exp(loss)"),
    Metric("eval", "limit", "val/limit", "bits/byte", "entropy of the text, where it is known"),
    Metric("eval", "distance", "val/distance", "bits/byte", "bits_per_byte above the limit"),
    Metric("training eval", "loss", "train/mean_loss", "nats/token", "mean training loss, without held-out text"),
    Metric("rollback", "from_step", "rollback/from_step", "steps", "the step that was undone"),
    Metric("rollback", "batches", "rollback/batches", "batches", "batches taken from the loader so far"),
    Metric("probe", "loss", "probe/loss", "nats/token", "mean over the probe batch"),
    Metric("probe", "attention.entropy", "attention/entropy/l{}.h{}", "nats", "entropy of attention weights"),
    Metric("probe", "attention.relative", "attention/relative/l{}.h{}", "", "entropy over its maximum"),
    Metric("probe", "attention.first", "attention/first/l{}.h{}", "", "weight on the first token"),
    Metric("probe", "attention.previous", "attention/previous/l{}.h{}", "", "weight on the previous token"),
    Metric(
        "probe", "attention.distance", "attention/distance/l{}.h{}", "tokens", "mean distance to the tokens attended to"
    ),
    Metric("probe", "attention.similarity", "attention/similarity/l{}", "", "overlap of the heads of a layer"),
    Metric("probe", "stream.rms", "stream/rms/l{}", "", "root mean square of the residual stream"),
    Metric("probe", "stream.kurtosis", "stream/kurtosis/l{}", "", "kurtosis of the residual stream; 3 is normal"),
    Metric("probe", "stream.largest", "stream/largest/l{}", "", "largest absolute value in the residual stream"),
    Metric(
        "probe", "stream.effective_rank", "stream/effective_rank/l{}", "", "participation ratio of the residual stream"
    ),
    Metric("probe", "dead_units", "dead_units/l{}", "", "share of MLP units that are never above 0"),
    Metric("probe", "predictions.entropy", "predictions/entropy", "nats", "mean entropy of the predictions"),
    Metric(
        "probe",
        "predictions.accuracy",
        "predictions/accuracy",
        "",
        "share of tokens that were predicted as the likeliest",
    ),
    Metric("probe", "predictions.confidence", "predictions/confidence", "", "mean probability of the likeliest token"),
    Metric("probe", "predictions.calibration_error", "calibration/error", "", "expected calibration error"),
    Metric("probe", "induction.score", "induction/score", "", "attention of the best copying head to its source"),
    Metric("probe", "induction.layer", "induction/layer", "", "layer of the best copying head"),
    Metric("probe", "induction.head", "induction/head", "", "index of the best copying head"),
    Metric(
        "probe",
        "induction.gain",
        "induction/gain",
        "nats/token",
        "loss of random tokens minus that of their repetition",
    ),
    Metric(
        "probe",
        "lens",
        "lens/l{}",
        "nats/token",
        "loss of predictions from the output of a layer",
    ),
    Metric("end", "seconds", "run/seconds", "s", "time of the whole process"),
    Metric("end", "memory", "run/peak_bytes", "bytes", "peak memory of the process"),
    Metric("end", "tok_per_sec", "run/tok_per_sec", "tokens/s", "mean training speed"),
)
# What attention that has collapsed does, by the `what` of an alarm.
ALARM_WORDS = {
    "uniform": "attends uniformly",
    "one position": "attends to one position only",
    "all heads alike": "attend to the same positions",
}
LOWER_IS_BETTER = ("val/loss", "val/bpb", "val/perplexity")  # trackers summarise these by their minimum


def describe_alarm(layer: int, head: int | None, what: str) -> str:
    """Return an alarm about attention in words. Without a head it is about all heads of the layer.

    >>> describe_alarm(1, 3, "uniform"), describe_alarm(0, None, "all heads alike")
    ('layer 1, head 3 attends uniformly', 'all heads of layer 0 attend to the same positions')
    """
    owner = f"all heads of layer {layer}" if head is None else f"layer {layer}, head {head}"
    return f"{owner} {ALARM_WORDS.get(what, what)}"


def tracked_values(row: Row) -> dict[str, float]:
    """Return the numbers of a row under their names in trackers, without missing ones and nulls.

    >>> tracked_values({"kind": "step", "step": 1, "loss": 5.0, "mfu": None, "grad_norms": {"h.0.attn": 0.5}})
    {'train/loss': 5.0, 'grads/h.0.attn': 0.5}
    >>> tracked_values({"kind": "probe", "step": 1, "attention": {"similarity": [0.25, 0.5]}})
    {'attention/similarity/l0': 0.25, 'attention/similarity/l1': 0.5}
    """
    kind = "training eval" if row.get("kind") == "eval" and row.get("split") == "training" else row.get("kind")
    values: dict[str, float] = {}
    for metric in METRICS:
        if metric.row == kind:
            values.update(_named_numbers(metric.name, _lookup(row, metric.key)))
    return values | dict(_derived_values(row))


def _lookup(row: Row, path: str) -> Any:
    """Return the value at a path such as `attention.entropy`; None if the row lacks it."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _named_numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield each number in a value, with the keys and indices that lead to it in place of the name's {}."""
    if isinstance(value, bool | int | float):
        yield name, int(value) if isinstance(value, bool) else value
    elif isinstance(value, Mapping | list | tuple) and "{}" in name:
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _named_numbers(name.replace("{}", str(key), 1), part)


def _derived_values(row: Row) -> Iterator[tuple[str, float]]:
    """Yield the loss by position, the mean over all heads of each head metric, and the number of alarms."""
    if row.get("kind") == "eval":
        last_positions, losses = (_lookup(row, f"by_position.{key}") or () for key in ("upto", "loss"))
        yield from _named_numbers("val/by_position/{}", dict(zip(last_positions, losses, strict=False)))
    if row.get("kind") == "probe":
        for metric in METRICS:
            if metric.row == "probe" and metric.name.endswith("/l{}.h{}"):
                heads = [number for _, number in _named_numbers("{}.{}", _lookup(row, metric.key))]
                if heads:
                    yield metric.name.replace("l{}.h{}", "mean"), sum(heads) / len(heads)
        if isinstance(row.get("alarms"), list):
            yield "attention/alarms", len(row["alarms"])
