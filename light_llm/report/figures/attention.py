"""Attention: evenness by head and over time, where heads look, and whole maps on held-out text."""

from ..log_rows import AttentionMap, Probe, head_name
from ..run_log import RunLog
from . import plot
from .plot import Figure, Table, Trace

SECTION = "attention"
MAX_LABEL = 12  # letters of a token on an axis


# Path of a metric with one number per head, id, title, and how to read the figure.
BY_HEAD = (
    (
        "attention.relative",
        "entropy",
        "How even attention is, by head",
        "Entropy over its greatest possible value: 0 is all weight on one token, 1 the same weight on all. Healthy "
        "heads are spread out between.",
    ),
    (
        "attention.first",
        "looks_first",
        "Weight on the first token",
        "Heads with nothing to say park their weight on the first token: a sink.",
    ),
    (
        "attention.previous",
        "looks_previous",
        "Weight on the previous token",
        "Heads that read the token before: a trained model has some.",
    ),
)


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return the figures of the last probe, of all probes over time, and of the last attention maps."""
    entropy, *others = (by_head_figure(log.probe, *row) for row in BY_HEAD)
    sample = log.attention
    tokens = [_label(token) for token in sample.tokens] if sample else []
    maps = [_map(i, head, tokens, sample.step) for i, head in enumerate(sample.maps)] if sample else []
    return [entropy, _entropy_over_time(log), *others, *maps]


def by_head_figure(probe: Probe, path: str, id: str, title: str, sentence: str) -> Figure | None:
    """Return a heat map of a metric with one number per head, at the last probe, layer 0 at the bottom."""
    z = [[plot.round_digits(v, 4) for v in row] for row in probe.grid(path)]
    heads, layers = len(z[0]) if z else 0, [f"layer {i}" for i in range(len(z))]
    names = [f"head {h}" for h in range(heads)]
    largest = max((v for row in z for v in row if v is not None), default=1.0)
    cells = [["" if v is None else f"{v:.2f}" for v in row] for row in z]
    trace = plot.heatmap_trace(names, layers, z, zmin=0, zmax=max(0.25, largest), text=cells, xgap=2, ygap=2)
    trace |= {"hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>"}
    # Numbers of more heads would not fit into their cells.
    if heads <= 12:
        trace["texttemplate"] = "%{text}"
    table = plot.make_table(("", *names), ([layers[i], *row] for i, row in enumerate(z)))
    layout = plot.axis_layout("", "", xaxis={"type": "category", "side": "bottom"}, yaxis={"type": "category"})
    return plot.make_figure(id, title, f"{sentence} (Step {probe.step:,}.)", [trace], layout, table)


def _entropy_over_time(log: RunLog) -> Figure | None:
    heads = (
        (p.step, {f"{i}.{h}": v for i, row in enumerate(p.grid("attention.relative")) for h, v in enumerate(row)})
        for p in log.probes
    )
    steps, z = plot.metrics_over_steps(heads)
    if len(steps) < 2:
        return None
    sentence = (
        "Each row is a head (layer.head). All begin even, then find their work. A row that goes to 0, or back to 1 and "
        "stays there, has collapsed."
    )
    return plot.heatmap_over_steps("entropy_time", "How even attention is, over time", sentence, steps, z, "%{z:.3f}")


def _map(number: int, head: AttentionMap, tokens: list[str], step: int) -> Figure | None:
    """Return the map of one head: queries down, keys across."""
    n = len(tokens)
    z = [[plot.round_digits(v, 3) for v in row] + [None] * (n - len(row)) for row in head.weights]
    places = list(range(n))
    trace: Trace = plot.heatmap_trace(places, [], z, zmin=0, zmax=1, hoverongaps=False) | {"y": places}
    trace |= {
        "text": [[f"{a} → {b}" for b in tokens] for a in tokens],
        "hovertemplate": "%{text}: %{z:.3f}<extra></extra>",
    }
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": tokens, "tickfont": {"size": 10}, "showgrid": False}
    x, y = ticks | {"tickangle": -90}, ticks | {"autorange": "reversed"}
    why = f": {plot.escape_markup(head.why)}" if head.why else ""
    return plot.make_figure(
        f"map_{number}",
        f"{head_name(head.layer, head.head).capitalize()}{why}",
        "Each row is a token of a held-out sentence; the strong cells are what this head looks at to guess the next "
        f"one. (Step {step:,}.)",
        [trace],
        plot.axis_layout("is looked at", "looks", xaxis=x, yaxis=y, height=430),
        _map_table(head, tokens),
    )


def _map_table(head: AttentionMap, tokens: list[str]) -> Table:
    """Return for each token the three that it attends to most."""
    rows = []
    for i, row in enumerate(head.weights):
        top = sorted(((w, j) for j, w in enumerate(row) if w is not None), reverse=True)[:3]
        rows.append([tokens[i], ", ".join(f"{tokens[j]} ({w:.2f})" for w, j in top)])
    return plot.make_table(("token", "looks most at"), rows)


def _label(token: str) -> str:
    """Return a token as an axis label, with visible white space and without markup."""
    text = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return plot.escape_markup(text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…") or "∅"
