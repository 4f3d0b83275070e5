"""A figure as plain values in plotly's JSON, with a sentence about it and its numbers as a table.

Colours are names that begin with @ (`@train`, `@heat`); the page replaces them by those of its light or dark theme.
`@shade/0.5` is a place on the scale of the heat maps, for curves that have an order.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..coerce import Number, mean_of

Trace = dict[str, Any]
Cell = str | float | int | None

# Limits that keep a page of 100,000 steps below 8 MB and quick to draw.
MAX_POINTS = 1500  # of a trace
MAX_ROWS = 60  # of a table
MAX_COLUMNS = 150  # of a heat map over time
MAX_PROBES = 120


@dataclass(frozen=True)
class Table:
    """The numbers of a figure. `note` says which rows are shown."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class AxisToggle:
    """A choice of values for one axis. Each trace has its values by option name under `choices`."""

    axis: str  # "x" or "y"
    label: str
    options: tuple[tuple[str, str], ...]  # name, title of the axis


@dataclass(frozen=True)
class Figure:
    """A figure: `traces` and `layout` are arguments of `Plotly.react`."""

    id: str
    title: str
    sentence: str  # how to read it
    traces: tuple[Trace, ...]
    layout: dict[str, Any]
    table: Table
    level: str = "info"  # of the worst health note about it
    remarks: tuple[tuple[str, str], ...] = ()  # (level, text) of the health notes
    toggles: tuple[AxisToggle, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """The figures of one subject."""

    id: str
    title: str
    figures: tuple[Figure, ...] = ()
    sentence: str = ""  # how to read all of them
    folded: bool = False  # closed until the reader opens it


def escape_markup(text: str) -> str:
    """Escape a text for plotly, which would interpret <b> and <a>.

    >>> escape_markup('<a href="x">&')
    '&lt;a href="x"&gt;&amp;'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def line_trace(name: str, x: Sequence[Any], y: Sequence[Any], color: str, **more: Any) -> Trace:
    """Return a curve; `width` and `dash` style its line, other keywords are keys of the trace."""
    style = {"color": color, "width": more.pop("width", 2)} | ({"dash": more.pop("dash")} if "dash" in more else {})
    trace = {"type": "scatter", "mode": "lines", "name": escape_markup(name), "x": list(x), "y": list(y), "line": style}
    return trace | more


def bar_trace(x: Iterable[Any], y: Iterable[Any], **more: Any) -> Trace:
    """Return bars, horizontal with `orientation="h"`."""
    return {"type": "bar", "x": list(x), "y": list(y), "marker": {"color": "@train"}, "showlegend": False, **more}


def shades(n: int) -> list[str]:
    """Return n colours of one hue, from the faintest to the strongest.

    >>> shades(3), shades(1)
    (['@shade/0', '@shade/0.5', '@shade/1'], ['@shade/1'])
    """
    return [f"@shade/{i / (n - 1):.3g}" for i in range(n)] if n > 1 else ["@shade/1"] * n


def heatmap_trace(x: Sequence[Any], y: Sequence[str], z: Sequence[Sequence[Number]], **more: Any) -> Trace:
    """Return a heat map of (len(y), len(x)) values."""
    bar = {"thickness": 12, "outlinewidth": 0} | more.pop("colorbar", {})
    trace = {"type": "heatmap", "x": list(x), "y": list(map(escape_markup, y)), "z": [list(row) for row in z]}
    return trace | {"colorbar": bar, "colorscale": "@heat", "hoverongaps": False, **more}


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers around a range of a logarithmic scale, more of them the shorter it is.

    >>> log_ticks(0.02, 3), log_ticks(1e-4, 10)
    ([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0], [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0])
    """
    decades = math.log10(high / low)
    digits = (1, 2, 3, 5, 7) if decades < 0.7 else (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, 1 + int(decades / 8))
    return [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]


def log_colorbar(z: Iterable[Sequence[Number]]) -> dict[str, Any]:
    """Return the colour bar of decimal logarithms, with its ticks as plain numbers: 0.001 for -3."""
    values = [v for row in z for v in row if v is not None]
    ticks = log_ticks(10 ** min(values, default=0.0), 10 ** max(values, default=0.0))
    return {"tickvals": [math.log10(t) for t in ticks], "ticktext": [f"{t:,.12g}" for t in ticks]}


def log_axis(values: Iterable[Number]) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at round numbers."""
    positive = [v for v in values if v is not None and v > 0]
    ticks = log_ticks(min(positive, default=1.0), max(positive, default=1.0))
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{t:,.12g}" for t in ticks]}


def axis_layout(x: str, y: str, **more: Any) -> dict[str, Any]:
    """Return a layout with axis titles; `xaxis` and `yaxis` add to the axes, other keywords to the layout."""
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x}} | more.pop("xaxis", {}),
        "yaxis": {"title": {"text": y}} | more.pop("yaxis", {}),
    }
    return layout | more


def threshold_line(value: float, label: str, color: str = "@muted", *, is_log: bool = False) -> dict[str, Any]:
    """Return the layout of a dashed horizontal line with its label at the right."""
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "layer": "below"}
    # On a log axis plotly places annotations by the exponent, and shapes by the value.
    y = math.log10(value) if is_log else value
    note = {"xref": "paper", "x": 1, "y": y, "text": label, "showarrow": False, "xanchor": "right"}
    return {
        "shapes": [shape | {"line": {"color": color, "width": 1.5, "dash": "dash"}}],
        "annotations": [note | {"yanchor": "bottom", "font": {"color": color, "size": 11}}],
    }


def evenly_spaced(n: int, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced indices below n, with the first and the last.

    >>> evenly_spaced(3, 10), evenly_spaced(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    return list(range(n)) if n <= limit else [round(i * (n - 1) / (limit - 1)) for i in range(limit)]


def downsample_minmax(values: Sequence[Number], limit: int = MAX_POINTS) -> list[int]:
    """Return at most `limit` indices that keep the shape of a curve: the minimum and maximum of each stretch."""
    n = len(values)
    if n <= limit:
        return list(range(n))
    kept = {0, n - 1}
    stretches = (limit - 2) // 2
    for i in range(stretches):
        indices = [j for j in range(i * n // stretches, (i + 1) * n // stretches) if values[j] is not None]
        if indices:
            kept |= {min(indices, key=lambda j: values[j] or 0.0), max(indices, key=lambda j: values[j] or 0.0)}
    return sorted(kept)


def make_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Return a table of at most 60 rows, with a note if rows were dropped."""
    all_rows = [tuple(row) for row in rows]
    kept = evenly_spaced(len(all_rows), MAX_ROWS)
    note = f"{len(kept)} of {len(all_rows):,} rows, evenly spaced" if len(kept) < len(all_rows) else ""
    return Table(tuple(heads), tuple(all_rows[i] for i in kept), note)


def round_digits(value: Number, digits: int = 5) -> Number:
    """Round to significant digits, which keeps pages small and figures the same.

    >>> round_digits(3.14159265), round_digits(1234567.0), round_digits(None)
    (3.1416, 1234600.0, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") if value else 0.0


def running_mean(values: Sequence[Number], steps: int) -> list[Number]:
    """Return at each index the mean of the last `steps` values, without the missing ones.

    Near the start, where a loss falls fast, the window is a fifth of the index, so that the mean hardly lags.
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    means: list[Number] = []
    for i in range(1, len(sums)):
        first = i - min(steps, 1 + i // 5)
        n = counts[i] - counts[first]
        means.append((sums[i] - sums[first]) / n if n else None)
    return means


def bin_means(
    steps: Sequence[int], values: Sequence[Number], limit: int = MAX_COLUMNS
) -> tuple[list[int], list[Number]]:
    """Return at most `limit` columns of a heat map over time: the last step and the mean of each stretch."""
    n = min(limit, len(steps))
    edges = [i * len(steps) // n for i in range(n + 1)] if n else []
    return [steps[end - 1] for end in edges[1:]], [mean_of(values[start:end]) for start, end in pairwise(edges)]


def make_figure(
    id: str, title: str, sentence: str, traces: Sequence[Trace], layout: dict[str, Any], table: Table, **more: Any
) -> Figure | None:
    """Return a figure of the traces that have numbers; None if no trace has any."""
    drawn = [t for t in traces if _has_numbers(t.get("z", t.get("y")))]
    return Figure(id, title, sentence, tuple(drawn), layout, table, **more) if drawn else None


def smoothed_figure(
    id: str, title: str, sentence: str, steps: Sequence[int], values: Sequence[Number], layout: dict[str, Any]
) -> Figure | None:
    """Return a figure of each value over the steps, and of the mean of 20."""
    mean = running_mean(values, 20)
    raw, kept = downsample_minmax(values), evenly_spaced(len(steps), 500)
    thin = {"opacity": 0.35, "width": 1}
    traces = [
        line_trace("each step", [steps[i] for i in raw], [round_digits(values[i]) for i in raw], "@train", **thin),
        line_trace("mean of 20", [steps[i] for i in kept], [round_digits(mean[i]) for i in kept], "@train"),
    ]
    rows = ((steps[i], round_digits(values[i]), round_digits(mean[i])) for i in kept)
    return make_figure(id, title, sentence, traces, layout, make_table(("step", title, "mean of 20"), rows))


def metrics_over_steps(probes: Iterable[tuple[int, Mapping[str, Number]]]) -> tuple[list[int], dict[str, list[Number]]]:
    """Return the steps of at most 120 probes, and for each metric of the last probe its values at those steps."""
    measured = [(step, metrics) for step, metrics in probes if metrics]
    kept = [measured[i] for i in evenly_spaced(len(measured), MAX_PROBES)]
    names = kept[-1][1] if kept else ()
    return [step for step, _ in kept], {name: [round_digits(m.get(name), 4) for _, m in kept] for name in names}


def heatmap_over_steps(
    id: str,
    title: str,
    sentence: str,
    steps: Sequence[int],
    z: Mapping[str, Sequence[Number]],
    hover: str,
    **more: Any,
) -> Figure | None:
    """Return a heat map with a row for each name, from the bottom up, and a column for each step.

    Args:
        more: keys of the trace.
    """
    hovertemplate = f"%{{y}}, step %{{x}}: {hover}<extra></extra>"
    trace = heatmap_trace(steps, list(z), list(z.values()), hovertemplate=hovertemplate, **more)
    y = {"type": "category", "dtick": 1 if len(z) <= 20 else 2}
    layout = axis_layout("steps", "", yaxis=y, height=max(300, min(900, 60 + 15 * len(z))))
    return make_figure(
        id, title, sentence, [trace], layout, make_table(("step", *z), zip(steps, *z.values(), strict=True))
    )


def _has_numbers(values: Any) -> bool:
    return isinstance(values, list) and any(_has_numbers(v) if isinstance(v, list) else v is not None for v in values)
