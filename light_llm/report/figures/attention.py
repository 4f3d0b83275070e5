"""Attention: entropy by head and over time, and the weight on the first and on the previous token."""

import math
from collections.abc import Iterable

from ..coerce import drop_none
from ..log_rows import Probe, head_name
from ..run_log import RunLog
from . import plot
from .plot import Figure

SECTION = "attention"
# Below this, no head attends to one place most of the time, and a heat map of the heads would show nothing.
NOTEWORTHY_WEIGHT = 0.25
MIN_SPAN = 0.25  # of the scale of the entropies, so that equal heads do not look different
MAX_HEADS = 12  # of a layer; the numbers of more would not fit into their cells

# Path of a metric, id, title, the place, and how to read the figure.
PLACES = (
    (
        "attention.first",
        "looks_first",
        "Weight on the first token",
        "the first token",
        "Heads with nothing to contribute put their weight on the first token (an attention sink).",
    ),
    (
        "attention.previous",
        "looks_previous",
        "Weight on the previous token",
        "the previous token",
        "A trained model has some heads that attend to the token just before.",
    ),
)


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return the figures of the last probe, and of all probes over time."""
    # Both figures show the same metric, so they have the same colours for the same number.
    scale = _entropy_scale(log.probes)
    places = [_place_figure(log.probe, *place) for place in PLACES]
    return [_entropy_by_head(log, scale), _entropy_over_time(log, scale), *places]


def _entropy_scale(probes: Iterable[Probe]) -> dict[str, float]:
    """Return the ends of the colour scale of relative entropy: 1, and the least of any probe, rounded to a tenth."""
    values = (v for probe in probes for row in probe.grid("attention.relative") for v in drop_none(row))
    return {"zmin": min(math.floor(10 * min(values, default=0.0)) / 10, 1 - MIN_SPAN), "zmax": 1}


def _entropy_by_head(log: RunLog, scale: dict[str, float]) -> Figure | None:
    """Return the relative entropy at the last probe, with a statement on each place that no head attends to."""
    sentence = (
        "Entropy of the attention weights over its maximum: 1 is uniform attention, 0 all weight on one token. As a "
        "model learns, heads specialise and the cells get darker."
    )
    quiet = [_quiet_sentence(log.probe, path, place) for path, _, _, place, _ in PLACES]
    more = {**scale, "reversescale": True}  # dark: specialised
    return by_head_figure(
        log.probe,
        "attention.relative",
        "entropy",
        "Attention entropy, by head",
        " ".join([sentence, *filter(None, quiet)]),
        **more,
    )


def _entropy_over_time(log: RunLog, scale: dict[str, float]) -> Figure | None:
    heads = (
        (p.step, {f"{i}.{h}": v for i, row in enumerate(p.grid("attention.relative")) for h, v in enumerate(row)})
        for p in log.probes
    )
    steps, z = plot.metrics_over_steps(heads)
    if len(steps) < 2:
        return None
    sentence = (
        "The same numbers and colours at every probe; each row is a head (layer.head). All heads begin near 1. One "
        "that falls to 0, or returns to 1 and stays there, has collapsed."
    )
    title = "Attention entropy, over time"
    return plot.heatmap_over_steps("entropy_time", title, sentence, steps, z, "%{z:.3f}", **scale, reversescale=True)


def _place_figure(probe: Probe, path: str, id: str, title: str, place: str, sentence: str) -> Figure | None:
    """Return the weight of each head on a place; None if it is small for all heads."""
    if _largest(probe, path)[0] < NOTEWORTHY_WEIGHT:
        return None
    return by_head_figure(probe, path, id, title, sentence, zmin=0, zmax=1)


def _quiet_sentence(probe: Probe, path: str, place: str) -> str:
    """Return a sentence that takes the place of a figure without contrast; "" if the figure is there, or no number."""
    weight, layer, head = _largest(probe, path)
    if weight <= 0 or weight >= NOTEWORTHY_WEIGHT:
        return ""
    return f"No head attends mainly to {place} (at most {weight:.2f} of the weight, {head_name(layer, head)})."


def _largest(probe: Probe, path: str) -> tuple[float, int, int]:
    """Return the largest number of a metric by head, with its layer and head; 0.0 without numbers."""
    cells = ((v, i, h) for i, row in enumerate(probe.grid(path)) for h, v in enumerate(row) if v is not None)
    return max(cells, key=lambda cell: cell[0], default=(0.0, 0, 0))


def by_head_figure(probe: Probe, path: str, id: str, title: str, sentence: str, **scale: object) -> Figure | None:
    """Return a heat map of a metric with one number per head, at the last probe, layer 0 at the bottom.

    Args:
        scale: keys of the trace: zmin, zmax, reversescale.
    """
    z = [[plot.round_digits(v, 4) for v in row] for row in probe.grid(path)]
    heads, layers = len(z[0]) if z else 0, [f"layer {i}" for i in range(len(z))]
    names = [f"head {h}" for h in range(heads)]
    cells = [["" if v is None else f"{v:.2f}" for v in row] for row in z]
    trace = plot.heatmap_trace(names, layers, z, text=cells, xgap=2, ygap=2, **scale)
    trace |= {"hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>"}
    if heads <= MAX_HEADS:
        trace["texttemplate"] = "%{text}"
    table = plot.make_table(("", *names), ([layers[i], *row] for i, row in enumerate(z)))
    layout = plot.axis_layout("", "", xaxis={"type": "category", "side": "bottom"}, yaxis={"type": "category"})
    return plot.make_figure(id, title, f"{sentence} (Step {probe.step:,}.)", [trace], layout, table)
