"""Attention maps: the weights of the heads that stand out, on a few held-out tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from ..log_rows import AttentionMap, AttentionSample, Probe, head_name
from ..run_log import RunLog
from . import plot
from .plot import Figure, Table, Trace

SECTION = "maps"
MAX_LABEL = 12  # letters of a token on an axis

# From these values on, a head is called by its role. A head can be the first of all by a criterion and still be far
# from the role: early in a run, the best induction head scores 0.03 of 1. Rules of thumb.
ROLE_WEIGHT = 0.5  # mean weight on one place
ROLE_INDUCTION = 0.4  # as in the rule on induction
SHARP, EVEN = 0.3, 0.9  # relative entropy
LOCAL = 2.0  # tokens


@dataclass(frozen=True)
class Criterion:
    """A metric by which the first of all heads is selected, and its map recorded."""

    metric: str
    words: str  # with the {value} of the metric
    role: str  # of a head that is not only the first of all, but also reaches the limit
    is_reached: Callable[[float], bool]


# By the reason that is written with the map, as in `observe.probe.MAP_CRITERIA`.
CRITERIA = {
    "most weight on the previous token": Criterion(
        "previous",
        "puts the most weight on the previous token, {value:.2f} on average",
        "previous token",
        lambda weight: weight >= ROLE_WEIGHT,
    ),
    "most weight on the first token": Criterion(
        "first",
        "puts the most weight on the first token, {value:.2f} on average",
        "first token",
        lambda weight: weight >= ROLE_WEIGHT,
    ),
    "most local": Criterion(
        "distance",
        "attends to the nearest tokens, {value:.1f} back on average",
        "local",
        lambda tokens: tokens <= LOCAL,
    ),
    "most even": Criterion(
        "relative", "has the highest entropy, {value:.2f}", "uniform attention", lambda entropy: entropy >= EVEN
    ),
    "sharpest": Criterion(
        "relative", "has the lowest entropy, {value:.2f}", "concentrated", lambda entropy: entropy <= SHARP
    ),
    "best induction score": Criterion(
        "induction", "has the highest induction score, {value:.2f} of 1", "induction", lambda s: s >= ROLE_INDUCTION
    ),
}


# Reasons of runs of version 0.1.
EARLIER_REASONS = {
    "looks at the previous token": "most weight on the previous token",
    "looks at the first token": "most weight on the first token",
    "induction": "best induction score",
}


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return the maps of the last sample."""
    sample = log.attention
    if sample is None:
        return []
    probe = next((p for p in log.probes if p.step == sample.step), Probe(0, {}))
    tokens = [_label(token) for token in sample.tokens]
    return [_map(i, head, tokens, sample, probe) for i, head in enumerate(sample.maps)]


def _map(number: int, head: AttentionMap, tokens: list[str], sample: AttentionSample, probe: Probe) -> Figure | None:
    """Return the map of one head: queries down, keys across."""
    n = len(tokens)
    z = [[plot.round_digits(v, 3) for v in row] + [None] * (n - len(row)) for row in head.weights]
    places = list(range(n))
    trace: Trace = plot.heatmap_trace(places, [], z, zmin=0, zmax=1, showscale=False) | {"y": places}
    trace |= {
        "text": [[f"{a} → {b}" for b in tokens] for a in tokens],
        "hovertemplate": "%{text}: %{z:.3f}<extra></extra>",
    }
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": tokens, "tickfont": {"size": 10}, "showgrid": False}
    x, y = ticks | {"tickangle": -90}, ticks | {"autorange": "reversed"}
    role, sentence = describe(head, probe)
    return plot.make_figure(
        f"map_{number}",
        head_name(head.layer, head.head).capitalize() + (f": {role}" if role else ""),
        f"{sentence} (Step {sample.step:,}.)",
        [trace],
        plot.axis_layout("attends to", "token", xaxis=x, yaxis=y, height=430),
        _map_table(head, tokens),
    )


def describe(head: AttentionMap, probe: Probe) -> tuple[str, str]:
    """Return the role of a head, "" if its score does not support one, and a sentence with the score.

    Args:
        probe: of the step of the map.
    """
    criterion = CRITERIA.get(EARLIER_REASONS.get(head.why, head.why))
    if criterion is None:
        return "", f"Recorded because: {head.why or 'it stands out'}."
    value = _score(head, probe, criterion.metric)
    if value is None:
        return "", "Its score was not recorded."
    role = criterion.role if criterion.is_reached(value) else ""
    return role, f"Of all heads, this one {criterion.words.format(value=value)}."


def _score(head: AttentionMap, probe: Probe, metric: str) -> float | None:
    if metric == "induction":
        return probe.number("induction.score")
    grid = probe.grid(f"attention.{metric}")
    return grid[head.layer][head.head] if head.layer < len(grid) and head.head < len(grid[0]) else None


def _map_table(head: AttentionMap, tokens: list[str]) -> Table:
    """Return for each token the three that it attends to most."""
    rows = []
    for i, row in enumerate(head.weights):
        top = sorted(((w, j) for j, w in enumerate(row) if w is not None), reverse=True)[:3]
        rows.append([tokens[i], ", ".join(f"{tokens[j]} ({w:.2f})" for w, j in top)])
    return plot.make_table(("token", "attends most to"), rows)


def _label(token: str) -> str:
    """Return a token as an axis label, with visible white space and without markup."""
    text = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return plot.escape_markup(text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…") or "∅"
