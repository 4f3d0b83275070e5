"""Show an analysis as a table: each number with its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from ..text_format import format_number
from .output import new_table, number_column

if TYPE_CHECKING:
    from ..config import TrainConfig

Rows = list[tuple[str, str, str]]  # quantity, value, meaning


def analysis_table(results: Mapping[str, Any], config: TrainConfig | None, max_length: int | None) -> Table:
    """Return the table of an analysis.

    Args:
        results: the contents of analysis.json.
        config: the training settings, if they are known.
        max_length: T of training.
    """
    table = new_table("", number_column("value"), Column("what it means", overflow="fold"))
    batch = results["batch"]
    where = f"nats per token, on {batch['sequences']} x {batch['context']} tokens of {results['text']}"
    rows = [
        ("loss", _number(results["loss"]), where),
        ("gradient norm", _number(results["gradient_norm"]), "of that batch, dropout off"),
        *_curvature(results["hessian"]),
        *_sharpness(results["sharpness"]),
        *_noise(results["noise"], batch["context"], config, max_length),
        *_landscape(results),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _curvature(hessian: Mapping[str, Any]) -> Rows:
    values, errors, trace = hessian["eigenvalues"], hessian["residuals"], hessian["trace"]
    largest, *rest = (_with_error(v, e) for v, e in zip(values, errors, strict=True))
    is_minimum = hessian["smallest"] >= 0
    down = (
        "the loss curves down in no direction"
        if is_minimum
        else "below 0: not a minimum, the loss curves down in some direction"
    )
    probes = f"the sum of all {hessian['parameters']:,} eigenvalues, from {trace['probes']} random probes"
    return [
        ("eigenvalues", largest, "of the Hessian, largest first: the sharpest directions"),
        *(("", value, "") for value in rest),
        ("smallest", _number(hessian["smallest"]), down),
        ("trace", _with_error(trace["value"], trace["stderr"]), probes),
    ]


def _sharpness(sharp: Mapping[str, Any]) -> Rows:
    rows: Rows = []
    if sharp["plain_threshold"]:
        lr = f"at lr {sharp['lr']:.2g}"
        edge = f"gradient descent {lr} overshoots above 2/lr = {_number(sharp['plain_threshold'])}"
        rows.append(("sharpness", _number(sharp["plain"]), edge))
    if sharp["preconditioned"] is None:
        return [*rows, ("in Adam's metric", "-", sharp["why_not"])]
    limit = sharp["preconditioned_threshold"]
    value = _with_error(sharp["preconditioned"], sharp["preconditioned_residual"])
    if limit is None:
        return [*rows, ("in Adam's metric", value, "the learning rate of the next update is 0, so it cannot overshoot")]
    share = sharp["preconditioned"] / limit
    return [
        *rows,
        ("in Adam's metric", value, f"Adam overshoots above {_number(limit)}: {share:.0%} of it, {_stability(share)}"),
    ]


def _stability(share: float) -> str:
    """Return the meaning of a share of the threshold. Adam trains near 1 on the whole text (Cohen et al., 2022).

    On a few sequences the largest eigenvalue is larger: a maximum of a mean is at most the mean of the maxima.
    """
    if share < 0.5:
        return "updates are stable at this learning rate"
    return (
        "at the edge, where Adam usually trains" if share < 1.5 else "above it; with a larger --batch-size it is lower"
    )


def _noise(noise: Mapping[str, Any], context: int, config: TrainConfig | None, max_length: int | None) -> Rows:
    n, scale = noise["sequences"], noise["scale_tokens"]
    if scale is None:
        return [("noise scale", "-", f"the {n} gradients are only noise: the scale is above {n * context:,} tokens")]
    error = noise["stderr"] * context if noise["stderr"] is not None else None
    meaning = "tokens: a larger batch than this helps little"
    # A scale this uncertain must not suggest a batch size.
    if noise["stderr"] is not None and noise["stderr"] > noise["scale_sequences"] / 2:
        meaning += "; its error is more than half of it, so it does not judge the batch size"
    elif config and max_length:
        sequences = max(1, round(scale / max_length))
        meaning += (
            f"; a step of this run has {config.batch_size * max_length:,}, and --batch-size {sequences:,} would match"
        )
    return [("noise scale", _with_error(scale, error), meaning)]


def _landscape(results: Mapping[str, Any]) -> Rows:
    line, path = results["landscape"]["line"], results["path"]
    ends = [value for value in (line["loss"][0], line["loss"][-1]) if value is not None]
    rise = format_number(sum(ends) / len(ends) - results["loss"]) if ends else "-"
    rows = [("landscape", rise, "nats: the rise of the loss after a random step as long as the weights")]
    if path is None:
        why = "needs 3 checkpoints; train with --save-interval 50 --set train.keep_every=50"
        return [*rows, ("path of the run", "-", why)]
    steps = ", ".join(f"{p['step']:,}" for p in path["points"])
    share = f"{sum(path['explained']):.0%}"
    return [*rows, ("path of the run", share, f"of the squared distances lie in one plane (steps {steps})")]


def _with_error(value: float, error: float | None) -> str:
    """Return a value ± its error; without the error if it is too small to show in the digits."""
    if error is None or error < abs(value) / 2000:
        return format_number(value)
    return f"{format_number(value)} ± {format_number(error)}"


def _number(value: float | None) -> str:
    return "-" if value is None else format_number(value)
