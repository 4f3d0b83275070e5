"""Pictures of attention: how even it is, by head and over time; where it looks; and whole maps on a real sentence."""

from ..names import head_name
from ..rows import AttentionMap, Probe
from ..view import View
from .figure import Figure, Table, Trace, axes, figure, heat, inert, rounded, spread, table


def attention_pictures(view: View) -> list[Figure]:
    """All of them; none without a probe."""
    made = [_entropy(view), _entropy_in_time(view), _looks_at(view, "first"), _looks_at(view, "previous"), *_maps(view)]
    return [f for f in made if f]


def _entropy(view: View) -> Figure | None:
    probe = view.probe
    return _by_head(
        probe,
        "relative",
        "entropy",
        "How even attention is, by head",
        "Entropy over its greatest possible value: 0 is all weight on one token, 1 the same weight on all. Healthy "
        "heads are spread out between.",
    )


def _looks_at(view: View, what: str) -> Figure | None:
    title, sentence = {
        "first": (
            "Weight on the first token",
            "Heads with nothing to say park their weight on the first token: a sink.",
        ),
        "previous": ("Weight on the previous token", "Heads that read the token before: a trained model has some."),
    }[what]
    return _by_head(view.probe, what, f"looks_{what}", title, sentence)


def _by_head(probe: Probe | None, name: str, id: str, title: str, sentence: str) -> Figure | None:
    """Layers x heads at the last probe, layer 0 at the bottom."""
    if probe is None:
        return None
    values = probe.attention.get(name, ())
    z = [[rounded(v, 4) for v in row] for row in values]
    heads, layers = len(z[0]) if z else 0, [f"layer {i}" for i in range(len(z))]
    most = max((v for row in z for v in row if v is not None), default=1.0)
    written = [["" if v is None else f"{v:.2f}" for v in row] for row in z]
    trace = heat(
        [f"head {h}" for h in range(heads)], layers, z, "", zmin=0, zmax=max(0.25, most), text=written, xgap=2, ygap=2
    )
    trace |= {"hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>"}
    if heads <= 12:
        trace["texttemplate"] = "%{text}"
    numbers = table(("", *(f"head {h}" for h in range(heads))), ([layers[i], *row] for i, row in enumerate(z)))
    layout = axes("", "", xaxis={"type": "category", "side": "bottom"}, yaxis={"type": "category"})
    return figure(id, title, f"{sentence} (Step {probe.step:,}.)", [trace], layout, numbers)


def _entropy_in_time(view: View) -> Figure | None:
    probes = [p for p in view.probes if p.attention.get("relative")]
    probes = [probes[i] for i in spread(len(probes), 120)]
    if len(probes) < 2:
        return None
    last = probes[-1].attention["relative"]
    places = [(layer, head) for layer in range(len(last)) for head in range(len(last[0]))]
    z = [[_at(p, layer, head) for p in probes] for layer, head in places]
    names = [f"{layer}.{head}" for layer, head in places]
    steps = [p.step for p in probes]
    trace = heat(steps, names, z, "", hovertemplate="head %{y}, step %{x}: %{z:.3f}<extra></extra>")
    rows = ([step, *(row[i] for row in z)] for i, step in enumerate(steps))
    return figure(
        "entropy_time",
        "How even attention is, over time",
        "Each row is a head (layer.head). All begin even, then find their work. A row that goes to 0, or back to 1 and "
        "stays there, has collapsed.",
        [trace],
        axes("steps", "layer.head", yaxis={"type": "category"}, height=max(300, min(900, 60 + 13 * len(places)))),
        table(("step", *names), rows),
    )


def _at(probe: Probe, layer: int, head: int) -> float | None:
    found = probe.attention["relative"]
    return rounded(found[layer][head], 4) if layer < len(found) and head < len(found[layer]) else None


def _maps(view: View) -> list[Figure | None]:
    if not view.sentence:
        return []
    tokens = [_label(token) for token in view.sentence.tokens]
    return [_map(i, found, tokens, view.sentence.step) for i, found in enumerate(view.sentence.maps)]


def _map(number: int, found: AttentionMap, tokens: list[str], step: int) -> Figure | None:
    n = len(tokens)
    z = [[rounded(v, 3) for v in row] + [None] * (n - len(row)) for row in found.weights]
    places = list(range(n))
    trace: Trace = heat(places, [], z, "", zmin=0, zmax=1, hoverongaps=False) | {"y": places}
    trace |= {
        "text": [[f"{a} → {b}" for b in tokens] for a in tokens],
        "hovertemplate": "%{text}: %{z:.3f}<extra></extra>",
    }
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": tokens, "tickfont": {"size": 10}, "showgrid": False}
    layout = axes(
        "is looked at", "looks", xaxis=ticks | {"tickangle": -90}, yaxis=ticks | {"autorange": "reversed"}, height=430
    )
    why = f": {inert(found.why)}" if found.why else ""
    sentence = (
        "Each row is a token of a held-out sentence; the strong cells are what this head looks at to guess the next "
        f"one. (Step {step:,}.)"
    )
    return figure(
        f"map_{number}",
        f"{head_name(found.layer, found.head).capitalize()}{why}",
        sentence,
        [trace],
        layout,
        _map_table(found, tokens),
    )


def _map_table(found: AttentionMap, tokens: list[str]) -> Table:
    """For each token the three it looks at most."""
    rows = []
    for i, row in enumerate(found.weights):
        top = sorted(((w, j) for j, w in enumerate(row) if w is not None), reverse=True)[:3]
        rows.append([tokens[i], ", ".join(f"{tokens[j]} ({w:.2f})" for w, j in top)])
    return table(("token", "looks most at"), rows)


def _label(token: str) -> str:
    """A token as a label on an axis: white space visible, and inert."""
    seen = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return inert(seen if len(seen) <= 12 else f"{seen[:11]}…") or "∅"
