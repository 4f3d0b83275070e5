"""A picture as plain values in plotly's JSON, with what it says in words and its numbers as a table.

Colours are names that begin with @ (`@train`, `@heat`): the page puts in those of its light or dark theme.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..tolerant import Number, known

Trace = dict[str, Any]
Cell = str | float | int | None

MOST_POINTS = 1500  # of a trace
MOST_ROWS = 60  # of a table
MOST_COLUMNS = 150  # of a heat map over time


@dataclass(frozen=True)
class Table:
    """The numbers of a picture. `note` says what was left out."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """A choice over a picture's axis: each trace has its values by the choice's name, under `choices`."""

    axis: str  # "x" or "y"
    label: str
    options: tuple[tuple[str, str], ...]  # name, title of the axis


@dataclass(frozen=True)
class Figure:
    """One picture.

    `traces` and `layout` are what `Plotly.react` takes. `sentence` says what is to be seen; what it means for this run
    is added from the verdicts, with the level of the worst: good, watch, bad or info.
    """

    id: str
    title: str
    sentence: str
    traces: tuple[Trace, ...]
    layout: dict[str, Any]
    table: Table
    level: str = "info"
    remarks: tuple[tuple[str, str], ...] = ()  # (level, words), from the verdicts
    switches: tuple[Switch, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """Pictures of one subject."""

    id: str
    title: str
    figures: tuple[Figure, ...] = field(default_factory=tuple)


def inert(text: str) -> str:
    """A text that plotly shows as it is: it would take <b> and <a> for marks.

    >>> inert('<a href="x">&')
    '&lt;a href="x"&gt;&amp;'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def line(name: str, x: Sequence[Any], y: Sequence[Any], color: str, **more: Any) -> Trace:
    """A curve in a colour of the theme."""
    style = {"color": color, "width": more.pop("width", 2)} | ({"dash": more.pop("dash")} if "dash" in more else {})
    return {"type": "scatter", "mode": "lines", "name": inert(name), "x": list(x), "y": list(y), "line": style} | more


def heat(x: Sequence[Any], y: Sequence[str], z: Sequence[Sequence[Number]], label: str, **more: Any) -> Trace:
    """A heat map, (len(y), len(x)) values."""
    bar = {"title": {"text": label, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    return {"type": "heatmap", "x": list(x), "y": list(map(inert, y)), "z": [list(r) for r in z], "colorbar": bar} | {
        "colorscale": "@heat",
        "hoverongaps": False,
        **more,
    }


def axes(x: str, y: str, **more: Any) -> dict[str, Any]:
    """A layout with titles on both axes; keywords such as `yaxis={"type": "log"}` are added to them."""
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x}} | more.pop("xaxis", {}),
        "yaxis": {"title": {"text": y}} | more.pop("yaxis", {}),
    }
    return layout | more


def threshold(value: float, label: str, color: str = "@muted") -> dict[str, Any]:
    """Layout of a dashed horizontal line over the whole width, with its name at the right."""
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "layer": "below"}
    note = {"xref": "paper", "x": 1, "y": value, "text": label, "showarrow": False, "xanchor": "right"}
    return {
        "shapes": [shape | {"line": {"color": color, "width": 1.5, "dash": "dash"}}],
        "annotations": [note | {"yanchor": "bottom", "font": {"color": color, "size": 11}}],
    }


def spread(n: int, most: int) -> list[int]:
    """At most `most` indices below n, evenly spaced, the first and the last among them.

    >>> spread(3, 10), spread(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    return list(range(n)) if n <= most else [round(i * (n - 1) / (most - 1)) for i in range(most)]


def extremes(values: Sequence[Number], most: int = MOST_POINTS) -> list[int]:
    """At most `most` indices of a curve that keep its shape: of each stretch the lowest and the highest, in order."""
    if len(values) <= most:
        return list(range(len(values)))
    kept: set[int] = {0, len(values) - 1}
    stretches = (most - 2) // 2
    for i in range(stretches):
        stretch = range(i * len(values) // stretches, (i + 1) * len(values) // stretches)
        there = [j for j in stretch if values[j] is not None]
        if there:
            kept |= {min(there, key=lambda j: values[j] or 0.0), max(there, key=lambda j: values[j] or 0.0)}
    return sorted(kept)


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table of at most 60 rows, which says so when it was thinned."""
    every = [tuple(row) for row in rows]
    kept = spread(len(every), MOST_ROWS)
    note = f"{len(kept)} of {len(every):,} rows, evenly spaced" if len(kept) < len(every) else ""
    return Table(tuple(heads), tuple(every[i] for i in kept), note)


def rounded(value: Number, digits: int = 5) -> Number:
    """A number with so many digits that count: pages stay small, pictures the same.

    >>> rounded(3.14159265), rounded(1234567.0), rounded(None)
    (3.1416, 1234600.0, None)
    """
    if value is None or value == 0 or not math.isfinite(value):
        return None if value is None or not math.isfinite(value) else 0.0
    return float(f"{value:.{digits}g}")


def smoothed(values: Sequence[Number], steps: int) -> list[Number]:
    """At each place the mean of the values up to `steps` back that are there; it never looks ahead.

    Near the start, where a loss falls fast, fewer are taken: a fifth of those before, so that the mean hardly lags.
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    out: list[Number] = []
    for i in range(1, len(sums)):
        first = i - min(steps, 1 + i // 5)
        there = counts[i] - counts[first]
        out.append((sums[i] - sums[first]) / there if there else None)
    return out


def binned(steps: Sequence[int], values: Sequence[Number], most: int = MOST_COLUMNS) -> tuple[list[int], list[Number]]:
    """At most `most` columns of a heat map over time: the last step of each stretch, the mean over the stretch."""
    n = min(most, len(steps))
    edges = [i * len(steps) // n for i in range(n + 1)] if n else []
    means: list[Number] = []
    for a, b in pairwise(edges):
        there = known(values[a:b])
        means.append(math.fsum(there) / len(there) if there else None)
    return [steps[b - 1] for b in edges[1:]], means


def figure(
    id: str, title: str, sentence: str, traces: Sequence[Trace], layout: dict[str, Any], numbers: Table, **more: Any
) -> Figure | None:
    """A picture; None where there is nothing to draw: no number in any trace."""
    there = [t for t in traces if _has_numbers(t.get("z") or t.get("y") or t.get("x"))]
    return Figure(id, title, sentence, tuple(there), layout, numbers, **more) if there else None


def _has_numbers(values: Any) -> bool:
    return isinstance(values, list) and any(_has_numbers(v) if isinstance(v, list) else v is not None for v in values)
