"""Pictures of the residual stream and of what comes out of it: growth, outliers, rank, lens, induction, calibration."""

from collections.abc import Callable

from ..rows import Probe
from ..tolerant import Number, Numbers
from ..view import View
from .figure import Figure, Trace, axes, figure, heat, line, rounded, spread, table

Of = Callable[[Probe], Numbers]
# id, title, what is to be seen, the numbers of a look
BY_LAYER: tuple[tuple[str, str, str, Of], ...] = (
    (
        "rms",
        "Growth of the stream",
        "The size of a typical activation, from the embeddings (0) to the last block: each block adds its part. A "
        "steep jump is a block that shouts.",
        lambda p: p.stream.get("rms", ()),
    ),
    (
        "rank",
        "Effective rank of the stream",
        "In how many directions the tokens of a batch differ. Near 1, all tokens look alike to the layers above.",
        lambda p: p.stream.get("effective_rank", ()),
    ),
    (
        "kurtosis",
        "Outliers: kurtosis",
        "3 is a normal distribution. Tens or hundreds mean that few features are huge, which low precision "
        "suffers from.",
        lambda p: p.stream.get("kurtosis", ()),
    ),
    (
        "largest",
        "Largest activation",
        "The largest single number in the stream. 65,504 is the end of float16; far below it is healthy.",
        lambda p: p.stream.get("largest", ()),
    ),
    (
        "dead",
        "Dead MLP units",
        "The share of units that no token of the batch switched on. A few are normal; many are capacity unused.",
        lambda p: p.dead_units,
    ),
)


def stream_pictures(view: View) -> list[Figure]:
    """All of them; none without a probe."""
    made = [_by_layer(view, *row) for row in BY_LAYER]
    return [f for f in [*made, _lens(view), _induction(view), _calibration(view)] if f]


def _by_layer(view: View, id: str, title: str, sentence: str, of: Of) -> Figure | None:
    """A heat map layers x steps; of a single probe, bars over the layers."""
    probes = [p for p in view.probes if of(p)]
    probes = [probes[i] for i in spread(len(probes), 120)]
    if not probes:
        return None
    n = len(of(probes[-1]))
    names = [str(layer) for layer in range(n)]
    columns = [[rounded(v, 4) for v in of(p)][:n] + [None] * (n - len(of(p))) for p in probes]
    steps = [p.step for p in probes]
    numbers = table(
        ("step", *(f"layer {name}" for name in names)), ([s, *c] for s, c in zip(steps, columns, strict=True))
    )
    if len(probes) == 1:
        trace: Trace = {"type": "bar", "x": names, "y": columns[0], "marker": {"color": "@train"}, "showlegend": False}
        return figure(id, title, sentence, [trace], axes("layer", "", xaxis={"type": "category"}), numbers)
    z = [[column[i] for column in columns] for i in range(n)]
    trace = heat(steps, names, z, "", hovertemplate="layer %{y}, step %{x}: %{z:.4g}<extra></extra>")
    return figure(id, title, sentence, [trace], axes("steps", "layer", yaxis={"type": "category"}), numbers)


def _lens(view: View) -> Figure | None:
    probes = [p for p in view.probes if p.lens]
    if not probes:
        return None
    chosen = [probes[i] for i in spread(len(probes), 4)]
    colors = ("@c7", "@c6", "@c0", "@c1")[-len(chosen) :]
    traces = [
        line(f"step {p.step:,}", list(range(len(p.lens))), [rounded(v) for v in p.lens], color, mode="lines+markers")
        for p, color in zip(chosen, colors, strict=True)
    ]
    n = max(len(p.lens) for p in chosen)
    rows = ([layer, *(rounded(p.lens[layer]) if layer < len(p.lens) else None for p in chosen)] for layer in range(n))
    return figure(
        "lens",
        "Logit lens",
        "The loss if the model stopped after a layer and spoke. Falling from left to right: each block brings the "
        "answer nearer. A flat stretch is blocks that add little.",
        traces,
        axes("after layer (0: embeddings)", "nats per token", xaxis={"dtick": 1 if n <= 16 else 4}),
        table(("layer", *(f"step {p.step:,}" for p in chosen)), rows),
    )


def _induction(view: View) -> Figure | None:
    probes = [p for p in view.probes if p.induction]
    probes = [probes[i] for i in spread(len(probes), 500)]
    steps = [p.step for p in probes]

    def column(name: str) -> list[Number]:
        return [rounded(p.induction.get(name)) for p in probes]

    traces = [
        line("weight of the best head", steps, column("score"), "@train", mode="lines+markers"),
        line("nats saved on the repeat", steps, column("gain"), "@held", mode="lines+markers", yaxis="y2"),
    ]
    layout = axes("steps", "weight", yaxis={"range": [0, 1]})
    layout["yaxis2"] = {"title": {"text": "nats"}, "overlaying": "y", "side": "right", "showgrid": False}
    layout["yaxis2"] |= {"nticks": 5, "tickformat": ".2~g"}
    names = ("score", "gain", "layer", "head")
    return figure(
        "induction",
        "Induction: repeating what was said",
        "Random tokens, said twice: does a head look back at what followed last time, and is the second time cheaper? "
        "Small models on short runs often never learn it.",
        traces,
        layout,
        table(("step", *names), ([p.step, *(rounded(p.induction.get(name)) for name in names)] for p in probes)),
    )


def _calibration(view: View) -> Figure | None:
    probe = view.probe
    bins = [b for b in probe.bins if None not in b and b[2]] if probe else []
    if not probe or not bins:
        return None
    confidence, accuracy = [rounded(b[0], 4) for b in bins], [rounded(b[1], 4) for b in bins]
    most = max(b[2] or 0.0 for b in bins)
    sizes = [round(6 + 16 * ((b[2] or 0.0) / most) ** 0.5, 1) for b in bins]
    dots: Trace = line("the model", confidence, accuracy, "@train", mode="lines+markers", showlegend=False)
    dots["marker"] = {"size": sizes, "color": "@train"}
    ideal = line("perfect", [0, 1], [0, 1], "@muted", dash="dash", width=1, hoverinfo="skip", showlegend=False)
    return figure(
        "calibration",
        "Calibration",
        "When the model says 30%, is it right 30% of the time? On the dashed line: yes. Below it: too sure of itself. "
        f"Larger dots hold more tokens. (Step {probe.step:,}.)",
        [ideal, dots],
        axes("confidence", "accuracy", xaxis={"range": [0, 1]}, yaxis={"range": [0, 1]}),
        table(
            ("confidence", "accuracy", "tokens"), zip(confidence, accuracy, (int(b[2] or 0) for b in bins), strict=True)
        ),
    )
