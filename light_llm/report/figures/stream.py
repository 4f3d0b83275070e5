"""The residual stream and the predictions made of it: growth, outliers, rank, lens, induction, calibration."""

from ..coerce import Number
from ..run_log import RunLog
from . import plot
from .plot import Figure, Trace

SECTION = "stream"

# Path of a metric with one number per layer, id, title, and how to read the figure.
BY_LAYER = (
    (
        "stream.rms",
        "rms",
        "Growth of the stream",
        "The size of a typical activation, from the embeddings (0) to the last block: each block adds its part. A "
        "steep jump is a block that shouts.",
    ),
    (
        "stream.effective_rank",
        "rank",
        "Effective rank of the stream",
        "In how many directions the tokens of a batch differ. Near 1, all tokens look alike to the layers above.",
    ),
    (
        "stream.kurtosis",
        "kurtosis",
        "Outliers: kurtosis",
        "3 is a normal distribution. Tens or hundreds mean that few features are huge, which low precision "
        "suffers from.",
    ),
    (
        "stream.largest",
        "largest",
        "Largest activation",
        "The largest single number in the stream. 65,504 is the end of float16; far below it is healthy.",
    ),
    (
        "dead_units",
        "dead",
        "Dead MLP units",
        "The share of units that no token of the batch switched on. A few are normal; many are capacity unused.",
    ),
)


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return the metrics by layer, then lens, induction and calibration."""
    return [*(by_layer_figure(log, *row) for row in BY_LAYER), _lens(log), _induction(log), _calibration(log)]


def by_layer_figure(log: RunLog, path: str, id: str, title: str, sentence: str) -> Figure | None:
    """Return a heat map of a metric with one number per layer, over steps; bars if there is a single probe."""
    layers = ((p.step, {f"layer {i}": v for i, v in enumerate(p.vector(path))}) for p in log.probes)
    steps, z = plot.metrics_over_steps(layers)
    if len(steps) != 1:
        return plot.heatmap_over_steps(id, title, sentence, steps, z, "%{z:.4g}")
    bars = plot.bar_trace(z, (column[0] for column in z.values()))
    table = plot.make_table(("step", *z), zip(steps, *z.values(), strict=True))
    return plot.make_figure(id, title, sentence, [bars], plot.axis_layout("", ""), table)


def _lens(log: RunLog) -> Figure | None:
    probes = [(p.step, losses) for p in log.probes if (losses := p.vector("lens"))]
    if not probes:
        return None
    chosen = [probes[i] for i in plot.evenly_spaced(len(probes), 4)]
    colors = ("@c7", "@c6", "@c0", "@c1")[-len(chosen) :]
    traces = [
        plot.line_trace(
            f"step {step:,}", range(len(losses)), [plot.round_digits(v) for v in losses], color, mode="lines+markers"
        )
        for (step, losses), color in zip(chosen, colors, strict=True)
    ]
    n = max(len(losses) for _, losses in chosen)
    rows = ([i, *(plot.round_digits(losses[i]) if i < len(losses) else None for _, losses in chosen)] for i in range(n))
    return plot.make_figure(
        "lens",
        "Logit lens",
        "The loss if the model stopped after a layer and spoke. Falling from left to right: each block brings the "
        "answer nearer. A flat stretch is blocks that add little.",
        traces,
        plot.axis_layout("after layer (0: embeddings)", "nats per token", xaxis={"dtick": 1 if n <= 16 else 4}),
        plot.make_table(("layer", *(f"step {step:,}" for step, _ in chosen)), rows),
    )


def _induction(log: RunLog) -> Figure | None:
    probes = [p for p in log.probes if "induction" in p.row]
    probes = [probes[i] for i in plot.evenly_spaced(len(probes), 500)]
    steps = [p.step for p in probes]

    def column(name: str) -> list[Number]:
        return [plot.round_digits(p.number(f"induction.{name}")) for p in probes]

    traces = [
        plot.line_trace("weight of the best head", steps, column("score"), "@train", mode="lines+markers"),
        plot.line_trace("nats saved on the repeat", steps, column("gain"), "@held", mode="lines+markers", yaxis="y2"),
    ]
    layout = plot.axis_layout("steps", "weight", yaxis={"range": [0, 1]})
    layout["yaxis2"] = {"title": {"text": "nats"}, "overlaying": "y", "side": "right", "showgrid": False}
    layout["yaxis2"] |= {"nticks": 5, "tickformat": ".2~g"}
    names = ("score", "gain", "layer", "head")
    return plot.make_figure(
        "induction",
        "Induction: repeating what was said",
        "Random tokens, said twice: does a head look back at what followed last time, and is the second time cheaper? "
        "Small models on short runs often never learn it.",
        traces,
        layout,
        plot.make_table(("step", *names), zip(steps, *map(column, names), strict=True)),
    )


def _calibration(log: RunLog) -> Figure | None:
    probe = log.probe
    bins = [(c, a, n) for c, a, n in probe.calibration_bins if c is not None and a is not None and n]
    if not bins:
        return None
    confidence, accuracy = [plot.round_digits(c, 4) for c, _, _ in bins], [plot.round_digits(a, 4) for _, a, _ in bins]
    largest = max(n for _, _, n in bins)
    sizes = [round(6 + 16 * (n / largest) ** 0.5, 1) for _, _, n in bins]
    dots: Trace = plot.line_trace("the model", confidence, accuracy, "@train", mode="lines+markers", showlegend=False)
    dots["marker"] = {"size": sizes, "color": "@train"}
    style = {"dash": "dash", "width": 1, "hoverinfo": "skip", "showlegend": False}
    ideal = plot.line_trace("perfect", [0, 1], [0, 1], "@muted", **style)
    counts = (int(n) for _, _, n in bins)
    return plot.make_figure(
        "calibration",
        "Calibration",
        "When the model says 30%, is it right 30% of the time? On the dashed line: yes. Below it: too sure of itself. "
        f"Larger dots hold more tokens. (Step {probe.step:,}.)",
        [ideal, dots],
        plot.axis_layout("confidence", "accuracy", xaxis={"range": [0, 1]}, yaxis={"range": [0, 1]}),
        plot.make_table(("confidence", "accuracy", "tokens"), zip(confidence, accuracy, counts, strict=True)),
    )
