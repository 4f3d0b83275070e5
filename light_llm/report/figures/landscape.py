"""Curvature, sharpness, gradient noise and loss landscape, from the run's analysis.json."""

import math
from collections.abc import Mapping
from typing import Any

from ..coerce import as_grid, as_int, as_mapping, as_number, as_numbers, as_objects, drop_none
from ..run_log import RunLog
from . import plot
from .plot import Cell, Figure, Trace

SECTION = "landscape"


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return a figure for each part of the analysis."""
    analysis = log.analysis
    landscape, hessian = as_mapping(analysis.get("landscape")), as_mapping(analysis.get("hessian"))
    return [
        _line(as_mapping(landscape.get("line"))),
        _plane(as_mapping(landscape.get("plane"))),
        _path(as_mapping(analysis.get("path"))),
        _eigenvalues(hessian),
        _density(as_mapping(hessian.get("density"))),
        _sharpness(as_mapping(analysis.get("sharpness"))),
        _noise(log),
    ]


def _line(line: Mapping[str, Any]) -> Figure | None:
    x, y = _rounded(line.get("at")), _rounded(line.get("loss"))
    return plot.make_figure(
        "line",
        "Loss along a random direction",
        "The loss while all weights move along one random direction, scaled by the norm of each row (0: the model). "
        "A wide bowl tolerates large learning rates and rounding; a narrow one does not.",
        [plot.line_trace("loss", x, y, "@train", mode="lines+markers", showlegend=False)],
        plot.axis_layout("distance", "nats per token"),
        plot.make_table(("distance", "loss"), zip(x, y, strict=False)),
    )


def _contour(plane: Mapping[str, Any]) -> Trace:
    """Return a contour map of loss[i][j] at (a[j], b[i])."""
    z = [_rounded(row) for row in as_grid(plane.get("loss"))]
    trace = {"type": "contour", "x": _rounded(plane.get("a")), "y": _rounded(plane.get("b")), "z": z}
    bar = {"title": {"text": "nats", "side": "right"}, "thickness": 12, "outlinewidth": 0}
    hover = "%{x:.3g}, %{y:.3g}: %{z:.4g} nats<extra></extra>"
    style = {"colorscale": "@heat", "ncontours": 24, "line": {"width": 0.5}}
    return trace | style | {"colorbar": bar, "hovertemplate": hover}


def _plane(plane: Mapping[str, Any]) -> Figure | None:
    trace = _contour(plane)
    if not trace["z"]:
        return None
    model = _marker_trace([0], [0], "the model", ["the model"])
    heads = ["second \\ first", *(f"{plot.round_digits(v, 3)}" for v in as_numbers(plane.get("a")))]
    rows: list[list[Cell]] = [[b, *losses] for b, losses in zip(trace["y"], trace["z"], strict=False)]
    return plot.make_figure(
        "plane",
        "Loss over two random directions",
        "The loss while all weights move in a random plane. The dot is the model, which should lie at the bottom.",
        [trace, model],
        plot.axis_layout("first direction", "second direction"),
        plot.make_table(heads, rows),
    )


def _path(path: Mapping[str, Any]) -> Figure | None:
    points = as_objects(path.get("points"))
    if not points:
        return None
    steps = [as_int(p.get("step")) for p in points]
    x, y, losses = ([plot.round_digits(as_number(p.get(key))) for p in points] for key in ("a", "b", "loss"))
    run = _marker_trace(x, y, "the run", [f"step {step}" for step in steps])
    run |= {"mode": "lines+markers", "line": {"color": "@held", "width": 2}}
    shares = drop_none(as_numbers(path.get("explained")))
    share = f" The plane explains {100 * sum(shares):.0f}% of their squared distances." if shares else ""
    return plot.make_figure(
        "path",
        "Path of the run",
        "The checkpoints of the run in the plane of their first two principal components. The colours show the loss."
        + share,
        [_contour(path), run],
        plot.axis_layout("first principal direction", "second"),
        plot.make_table(("step", "a", "b", "loss"), zip(steps, x, y, losses, strict=True)),
    )


def _marker_trace(x: list[Any], y: list[Any], name: str, labels: list[str]) -> Trace:
    marker = {"color": "@held", "size": 9, "line": {"color": "@card", "width": 1.5}}
    trace = {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "text": labels, "marker": marker}
    return trace | {"hovertemplate": "%{text}<extra></extra>", "showlegend": False}


def _eigenvalues(hessian: Mapping[str, Any]) -> Figure | None:
    values = _rounded(hessian.get("eigenvalues"))
    errors = _rounded(hessian.get("residuals"))
    trace = as_mapping(hessian.get("trace"))
    total, stderr = as_number(trace.get("value")), as_number(trace.get("stderr"))
    error = f" ± {stderr:.2g}" if stderr is not None else ""
    sum_of_all = f" The sum of all (the trace) is {total:.3g}{error}." if total is not None else ""
    names = [str(i + 1) for i in range(len(values))]
    bars = {"type": "data", "array": errors, "color": "@ink", "thickness": 1}
    return plot.make_figure(
        "eigenvalues",
        "Largest eigenvalues of the Hessian",
        f"The curvature of the loss in its sharpest directions.{sum_of_all}",
        [plot.bar_trace(names, values, error_y=bars)],
        plot.axis_layout("", "eigenvalue", xaxis={"type": "category"}),
        plot.make_table(("", "eigenvalue", "residual"), zip(names, values, errors, strict=False)),
    )


def _density(density: Mapping[str, Any]) -> Figure | None:
    x, y = _rounded(density.get("at")), _rounded(density.get("density"))
    kept = plot.evenly_spaced(min(len(x), len(y)), 800)
    x, y = [x[i] for i in kept], [y[i] for i in kept]
    # On a log axis the tails would squeeze everything else. A gap would be filled by a wedge across it, so the curve
    # goes down to the floor instead.
    top = max((v for v in y if v), default=1.0)
    floor = top * 1e-6
    curve = [floor if v is None else max(v, floor) for v in y]
    limits = [math.log10(floor), math.log10(2 * top)]
    area = {"showlegend": False, "fill": "tozeroy", "fillcolor": "@wash"}
    return plot.make_figure(
        "density",
        "Spectral density of the Hessian",
        "How many eigenvalues have which size: nearly all are close to 0. Each is drawn as a Gaussian of a hundredth "
        "of the width of the figure, so only what lies more than that width below 0 is negative curvature.",
        [plot.line_trace("density", x, curve, "@train", **area)],
        plot.axis_layout("eigenvalue", "density", yaxis={"type": "log", "exponentformat": "power", "range": limits}),
        plot.make_table(("eigenvalue", "density"), zip(x, y, strict=True)),
    )


def _sharpness(sharpness: Mapping[str, Any]) -> Figure | None:
    rows: list[list[Cell]] = []
    shares: list[float] = []
    for name, key in (("gradient descent", "plain"), ("Adam's metric", "preconditioned")):
        value, threshold = as_number(sharpness.get(key)), as_number(sharpness.get(f"{key}_threshold"))
        if value is not None and threshold:
            rows.append([name, *map(plot.round_digits, (value, threshold, value / threshold))])
            shares.append(value / threshold)
    x, y = {"type": "category"}, {"range": [0, 1.15 * max([1.0, *shares])]}
    layout = plot.axis_layout("", "share of its threshold", xaxis=x, yaxis=y, bargap=0.55)
    # A bar of 0.004 cannot be seen, so its number is written above it.
    labels = {"text": [f"{share:.2g}" for share in shares], "textposition": "outside", "cliponaxis": False}
    return plot.make_figure(
        "sharpness",
        "Sharpness and its threshold",
        "Above 1 an update overshoots along the sharpest direction (the threshold is 2/lr for gradient descent, and "
        "38/lr for Adam with beta1 = 0.9). For a run with Adam, look at the bar of Adam's metric; values near 1 are "
        "common and stable.",
        [plot.bar_trace((row[0] for row in rows), (row[3] for row in rows), **labels)],
        layout | plot.threshold_line(1.0, "threshold", "@bad"),
        plot.make_table(("metric", "sharpness", "threshold", "share"), rows),
    )


def _noise(log: RunLog) -> Figure | None:
    noise, window = as_mapping(log.analysis.get("noise")), as_mapping(log.analysis.get("batch"))
    scale, stderr, T = map(as_number, (noise.get("scale_tokens"), noise.get("stderr"), window.get("context")))
    if scale is None or scale <= 0:
        return None
    # The standard error is that of the scale in sequences of T tokens.
    error = stderr * T if stderr is not None and T is not None else None
    rows = [("batch", log.tokens_per_step, None), ("noise scale", plot.round_digits(scale), plot.round_digits(error))]
    names, tokens, _ = zip(*rows, strict=True)
    return plot.make_figure(
        "noise",
        "Gradient noise scale",
        "The batch size at which noise and signal of the gradient are equal. Well below it, a larger batch speeds up "
        "training almost in proportion; well above it, it hardly helps.",
        [plot.bar_trace(tokens, names, orientation="h", marker={"color": ["@muted", "@train"]})],
        plot.axis_layout("tokens", "", bargap=0.45),
        plot.make_table(("", "tokens", "standard error"), rows),
    )


def _rounded(value: Any) -> list[float | None]:
    return [plot.round_digits(v) for v in as_numbers(value)]
