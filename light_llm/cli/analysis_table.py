"""An analysis as a table for people: each number beside what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from ..text_format import format_number
from .output import new_table

if TYPE_CHECKING:
    from ..config import TrainConfig

Rows = list[tuple[str, str, str]]  # what, its value, what that means


def findings_table(found: Mapping[str, Any], config: TrainConfig | None, max_length: int | None) -> Table:
    """The rows of an analysis.

    Args:
        found: what analysis.json holds.
        config: how the model was trained, where that is known.
        max_length: T it was trained with.
    """
    table = new_table("", Column("value", justify="right", no_wrap=True), Column("what it means", overflow="fold"))
    batch = found["batch"]
    where = f"nats per token, on {batch['sequences']} x {batch['context']} tokens of {found['text']}"
    rows = [
        ("loss", _number(found["loss"]), where),
        ("gradient norm", _number(found["gradient_norm"]), "of that batch, dropout off"),
        *_curvature(found["hessian"]),
        *_sharpness(found["sharpness"]),
        *_noise(found["noise"], batch["context"], config, max_length),
        *_surroundings(found),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _curvature(hessian: Mapping[str, Any]) -> Rows:
    values, errors, trace = hessian["eigenvalues"], hessian["residuals"], hessian["trace"]
    rows = [("eigenvalues", _give(values[0], errors[0]), "of the Hessian, largest first: the sharpest directions")]
    rows += [("", _give(v, e), "") for v, e in zip(values[1:], errors[1:], strict=True)]
    down = (
        "below 0: this is no minimum, some direction curves down" if hessian["smallest"] < 0 else "no way curves down"
    )
    probes = f"the sum of all {hessian['parameters']:,} eigenvalues, from {trace['probes']} random probes"
    return [
        *rows,
        ("smallest", _number(hessian["smallest"]), down),
        ("trace", _give(trace["value"], trace["stderr"]), probes),
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
    value = _give(sharp["preconditioned"], sharp["preconditioned_residual"])
    if limit is None:
        return [*rows, ("in Adam's metric", value, "the rate of the next update is 0, and no step of it overshoots")]
    share = sharp["preconditioned"] / limit
    return [
        *rows,
        (
            "in Adam's metric",
            value,
            f"Adam overshoots above {_number(limit)}: {share:.0%} of it, {_stability(share)}",
        ),
    ]


def _stability(share: float) -> str:
    """What a share of the threshold says. Adam trains near 1 on the whole text (Cohen et al., 2022).

    On a few sequences the largest eigenvalue is larger: a maximum of a mean is at most the mean of the maxima.
    """
    if share < 0.5:
        return "steps are safe at this rate"
    return "at the edge, where Adam usually trains" if share < 1.5 else "beyond; on a larger --batch-size it is less"


def _noise(noise: Mapping[str, Any], context: int, config: TrainConfig | None, max_length: int | None) -> Rows:
    n, scale = noise["sequences"], noise["scale_tokens"]
    if scale is None:
        return [("noise scale", "-", f"the {n} gradients are all noise: more than {n * context:,} tokens a batch")]
    error = noise["stderr"] * context if noise["stderr"] is not None else None
    meaning = "tokens: the batch beyond which more text a step helps little"
    if noise["stderr"] is not None and noise["stderr"] > noise["scale_sequences"] / 2:
        meaning += "; uncertain by more than half, so it says nothing of the batch"
    elif config and max_length:
        meaning += f"; this run takes {config.batch_size * max_length:,}, it suggests {_batch(scale, max_length)}"
    return [("noise scale", _give(scale, error), meaning)]


def _batch(tokens: float, T: int) -> str:
    return f"--batch-size {max(1, round(tokens / T)):,}"


def _surroundings(found: Mapping[str, Any]) -> Rows:
    line, path = found["landscape"]["line"], found["path"]
    ends = [value for value in (line["loss"][0], line["loss"][-1]) if value is not None]
    rise = format_number(sum(ends) / len(ends) - found["loss"]) if ends else "-"
    rows = [("landscape", rise, "nats more after a random step as long as the weights themselves")]
    if path is None:
        why = "no plane: it takes 3 checkpoints; keep more with --save-interval 50 --set train.keep_every=50"
        return [*rows, ("path of the run", "-", why)]
    steps = ", ".join(f"{p['step']:,}" for p in path["points"])
    return [
        *rows,
        (
            "path of the run",
            f"{sum(path['explained']):.0%}",
            f"of the squared distances lies in a plane (steps {steps})",
        ),
    ]


def _give(value: float, error: float | None) -> str:
    """A value ± its error, where that can be seen in the digits shown."""
    if error is None or error < abs(value) / 2000:
        return format_number(value)
    return f"{format_number(value)} ± {format_number(error)}"


def _number(value: float | None) -> str:
    return "-" if value is None else format_number(value)
