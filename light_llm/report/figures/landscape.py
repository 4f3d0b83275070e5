"""Pictures of curvature and landscape, from analysis.json: read leniently, since a hand may have edited it."""

from collections.abc import Mapping
from typing import Any

from ..tolerant import finite, grid, items, mapping, numbers, whole
from ..view import View
from .figure import Cell, Figure, Trace, axes, figure, line, rounded, spread, table, threshold


def landscape_pictures(view: View) -> list[Figure]:
    """All that the analysis has; none without one."""
    found = view.analysis
    made = [_line(found), _plane(found), _path(found), _eigenvalues(found), _density(found), _sharpness(found)]
    return [f for f in [*made, _noise(view)] if f]


def _line(found: Mapping[str, Any]) -> Figure | None:
    values = mapping(mapping(found.get("landscape")).get("line"))
    x, y = [rounded(v) for v in numbers(values.get("at"))], [rounded(v) for v in numbers(values.get("loss"))]
    return figure(
        "line",
        "The valley in one direction",
        "The loss while all weights move along one random direction, in units of each row's own length (0: the model). "
        "A wide bowl is easy to train and to round; a narrow one is not.",
        [line("loss", x, y, "@train", mode="lines+markers", showlegend=False)],
        axes("distance", "nats per token"),
        table(("distance", "loss"), zip(x, y, strict=False)),
    )


def _contour(values: Mapping[str, Any]) -> tuple[Trace, list[list[Cell]]]:
    """The map, and its table: loss[i][j] stands at a[j], b[i]."""
    a, b = [rounded(v) for v in numbers(values.get("a"))], [rounded(v) for v in numbers(values.get("b"))]
    z = [[rounded(v) for v in row] for row in grid(values.get("loss"))]
    trace = {"type": "contour", "x": a, "y": b, "z": z, "colorscale": "@heat", "ncontours": 24, "line": {"width": 0.5}}
    bar = {"title": {"text": "nats", "side": "right"}, "thickness": 12, "outlinewidth": 0}
    rows: list[list[Cell]] = [[at, *row] for at, row in zip(b, z, strict=False)]
    return trace | {"colorbar": bar, "hovertemplate": "%{x:.3g}, %{y:.3g}: %{z:.4g} nats<extra></extra>"}, rows


def _plane(found: Mapping[str, Any]) -> Figure | None:
    values = mapping(mapping(found.get("landscape")).get("plane"))
    trace, rows = _contour(values)
    here = _marks([0], [0], "the model", ["the model"])
    heads = ["second \\ first", *(f"{rounded(v, 3)}" for v in numbers(values.get("a")))]
    what = "The same over two random directions, as a map: the dot is the model, and it should lie at the bottom."
    return trace["z"] and figure(
        "plane",
        "The valley in two directions",
        what,
        [trace, here],
        axes("first direction", "second direction"),
        table(heads, rows),
    )


def _path(found: Mapping[str, Any]) -> Figure | None:
    values = mapping(found.get("path"))
    points = items(values.get("points"))
    trace, _ = _contour(values)
    if not points:
        return None
    x, y = [rounded(finite(p.get("a"))) for p in points], [rounded(finite(p.get("b"))) for p in points]
    steps = [whole(p.get("step")) for p in points]
    walked = _marks(x, y, "the run", [f"step {s}" for s in steps]) | {
        "mode": "lines+markers",
        "line": {"color": "@held", "width": 2},
    }
    shares = [v for v in numbers(values.get("explained")) if v is not None]
    share = f" The plane explains {100 * sum(shares):.0f}% of their squared distances." if shares else ""
    return figure(
        "path",
        "The way the run took",
        f"The run's own checkpoints on the plane that holds most of their way, with the loss as a map.{share}",
        [trace, walked],
        axes("first principal direction", "second"),
        table(
            ("step", "a", "b", "loss"), zip(steps, x, y, (rounded(finite(p.get("loss"))) for p in points), strict=True)
        ),
    )


def _marks(x: list[Any], y: list[Any], name: str, labels: list[str]) -> Trace:
    style = {"color": "@held", "size": 9, "line": {"color": "@card", "width": 1.5}}
    return {"type": "scatter", "mode": "markers", "name": name, "x": x, "y": y, "text": labels, "marker": style} | {
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }


def _eigenvalues(found: Mapping[str, Any]) -> Figure | None:
    hessian = mapping(found.get("hessian"))
    values = [rounded(v) for v in numbers(hessian.get("eigenvalues"))]
    errors = [rounded(v) for v in numbers(hessian.get("residuals"))][: len(values)]
    trace = mapping(hessian.get("trace"))
    size = finite(trace.get("value"))
    error = f" ± {finite(trace.get('stderr')):.2g}" if finite(trace.get("stderr")) is not None else ""
    in_all = f" The sum of all (the trace) is {size:.3g}{error}." if size is not None else ""
    names = [str(i + 1) for i in range(len(values))]
    bars: Trace = {"type": "bar", "x": names, "y": values, "marker": {"color": "@train"}, "showlegend": False}
    bars["error_y"] = {"type": "data", "array": errors, "color": "@ink", "thickness": 1}
    return figure(
        "eigenvalues",
        "Largest curvatures",
        f"The largest eigenvalues of the Hessian: how sharply the loss bends in its sharpest directions.{in_all}",
        [bars],
        axes("", "eigenvalue", xaxis={"type": "category"}),
        table(
            ("", "eigenvalue", "residual"),
            (
                (n, v, errors[i] if i < len(errors) else None)
                for i, (n, v) in enumerate(zip(names, values, strict=True))
            ),
        ),
    )


def _density(found: Mapping[str, Any]) -> Figure | None:
    values = mapping(mapping(found.get("hessian")).get("density"))
    x, y = numbers(values.get("at")), numbers(values.get("density"))
    kept = spread(min(len(x), len(y)), 800)
    x, y = tuple(rounded(x[i]) for i in kept), tuple(rounded(y[i]) for i in kept)
    floor = max((v for v in y if v), default=1.0) * 1e-6
    return figure(
        "density",
        "Density of the curvature",
        "How many directions bend how much: nearly all are flat, the peak at 0. Each eigenvalue is drawn as a bell a "
        "hundredth of the whole width wide, so only mass beyond that on the left means a direction that curves down.",
        [
            line(
                "density",
                x,
                [None if v is None or v < floor else v for v in y],
                "@train",
                showlegend=False,
                fill="tozeroy",
            )
        ],
        axes("eigenvalue", "density", yaxis={"type": "log", "exponentformat": "power"}),
        table(("eigenvalue", "density"), zip(x, y, strict=True)),
    )


def _sharpness(found: Mapping[str, Any]) -> Figure | None:
    values = mapping(found.get("sharpness"))
    pairs = [("gradient descent", "plain"), ("Adam's own metric", "preconditioned")]
    rows = [(n, finite(values.get(k)), finite(values.get(f"{k}_threshold"))) for n, k in pairs]
    rows = [row for row in rows if row[1] is not None and row[2]]
    names = [row[0] for row in rows]
    share = [rounded((row[1] or 0.0) / (row[2] or 1.0)) for row in rows]
    bars: Trace = {"type": "bar", "x": names, "y": share, "marker": {"color": "@train"}, "showlegend": False}
    layout = axes("", "share of its threshold", xaxis={"type": "category"}, yaxis={"rangemode": "tozero"}, bargap=0.55)
    return figure(
        "sharpness",
        "Sharpness and its threshold",
        "At 1 an update overshoots the sharpest direction (2/lr for gradient descent, 38/lr for Adam with beta1 = "
        "0.9). Adam is the metric that counts here; training near 1 is common and stable.",
        [bars],
        layout | threshold(1.0, "threshold", "@bad"),
        table(
            ("metric", "sharpness", "threshold", "share"),
            ([*map(_cell, row), s] for row, s in zip(rows, share, strict=True)),
        ),
    )


def _noise(view: View) -> Figure | None:
    values, length = mapping(view.analysis.get("noise")), mapping(view.analysis.get("batch")).get("context")
    scale, error, T = finite(values.get("scale_tokens")), finite(values.get("stderr")), finite(length)
    if scale is None or scale <= 0:
        return None
    batch = view.tokens_per_step
    error = error * T if error is not None and T is not None else None  # it is of the scale in sequences of T tokens
    bars: Trace = {"type": "bar", "orientation": "h", "y": ["batch", "noise scale"], "x": [batch, rounded(scale)]}
    bars |= {"marker": {"color": ["@muted", "@train"]}, "showlegend": False}
    return figure(
        "noise",
        "Gradient noise",
        "The batch at which noise and signal of the gradient are equal. Far below it, larger batches help almost in "
        "proportion; far above it, they waste arithmetic.",
        [bars],
        axes("tokens", "", bargap=0.45),
        table(
            ("", "tokens", "standard error"),
            [("batch", batch, None), ("noise scale", rounded(scale), rounded(error))],
        ),
    )


def _cell(value: Cell) -> Cell:
    return rounded(value) if isinstance(value, float) else value
