"""The residual stream and the predictions made from it: size, outliers, rank, lens, induction, calibration."""

from typing import NamedTuple

from ..coerce import Number
from ..run_log import RunLog
from . import plot
from .plot import Figure, Trace

SECTION = "stream"

LEGEND_ENTRIES = 5  # of the curves by layer, which go from faint to strong


class LayerMetric(NamedTuple):
    """A metric with one number per layer."""

    path: str
    id: str
    title: str
    sentence: str
    is_share: bool = False  # from 0 on; all others have a logarithmic axis
    threshold: tuple[float, str] | None = None


BY_LAYER = (
    LayerMetric(
        "stream.rms",
        "rms",
        "RMS of the residual stream",
        "Root mean square of the activations, from the embeddings (layer 0) to the last block. Each block adds its "
        "output, so it grows with depth; a sudden jump between layers is unusual.",
    ),
    LayerMetric(
        "stream.effective_rank",
        "rank",
        "Effective rank of the residual stream",
        "In how many independent directions the tokens of a batch differ. Near 1, all tokens look the same to the "
        "layers above: a collapse.",
    ),
    LayerMetric(
        "stream.kurtosis",
        "kurtosis",
        "Kurtosis of the activations",
        "3 is a normal distribution. Tens or hundreds mean that a few features are very large, which low-precision "
        "formats represent badly.",
        threshold=(3.0, "normal distribution"),
    ),
    LayerMetric(
        "stream.largest",
        "largest",
        "Largest activation",
        "The largest absolute value in the residual stream. float16 overflows at 65,504.",
    ),
    LayerMetric(
        "dead_units",
        "dead",
        "Inactive MLP units",
        "The share of units that no token of the batch activates. A few are normal; many are unused capacity.",
        is_share=True,
    ),
)


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return the metrics by layer, then lens, induction and calibration."""
    return [*(by_layer_figure(log, metric) for metric in BY_LAYER), _lens(log), _induction(log), _calibration(log)]


def by_layer_figure(log: RunLog, metric: LayerMetric) -> Figure | None:
    """Return a curve over the steps for each layer, from faint to strong; bars if there is a single probe."""
    layers = ((p.step, {f"layer {i}": v for i, v in enumerate(p.vector(metric.path))}) for p in log.probes)
    steps, z = plot.metrics_over_steps(layers)
    table = plot.make_table(("step", *z), zip(steps, *z.values(), strict=True))
    if len(steps) == 1:
        traces, x = [plot.bar_trace(z, (column[0] for column in z.values()))], ""
    else:
        named = plot.evenly_spaced(len(z), LEGEND_ENTRIES)
        traces, x = (
            [
                plot.line_trace(
                    name, steps, values, color, mode="lines+markers", marker={"size": 5}, showlegend=i in named
                )
                for i, ((name, values), color) in enumerate(zip(z.items(), plot.shades(len(z)), strict=True))
            ],
            "steps",
        )
    share_axis = {"rangemode": "tozero", "tickformat": ".0%"}
    y = share_axis if metric.is_share else plot.log_axis(v for values in z.values() for v in values)
    layout = plot.axis_layout(x, "", yaxis=y)
    if metric.threshold:
        layout |= plot.threshold_line(*metric.threshold, is_log=not metric.is_share)
    return plot.make_figure(metric.id, metric.title, metric.sentence, traces, layout, table)


def _lens(log: RunLog) -> Figure | None:
    probes = [(p.step, losses) for p in log.probes if (losses := p.vector("lens"))]
    if not probes:
        return None
    chosen = [probes[i] for i in plot.evenly_spaced(len(probes), 4)]
    traces = [
        plot.line_trace(
            f"step {step:,}", range(len(losses)), [plot.round_digits(v) for v in losses], color, mode="lines+markers"
        )
        for (step, losses), color in zip(chosen, plot.shades(len(chosen)), strict=True)
    ]
    n = max(len(losses) for _, losses in chosen)
    rows = ([i, *(plot.round_digits(losses[i]) if i < len(losses) else None for _, losses in chosen)] for i in range(n))
    return plot.make_figure(
        "lens",
        "Logit lens",
        "The loss if the output head read the residual stream after each layer. It should fall from left to right; "
        "where it is flat, the blocks add little.",
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
        plot.line_trace("gain on the repeat", steps, column("gain"), "@held", mode="lines+markers"),
        plot.line_trace("score of the best head", steps, column("score"), "@train", mode="lines+markers", yaxis="y2"),
    ]
    # Two plots, one above the other, with a common x axis: the numbers have different units.
    layout = plot.axis_layout("steps", "gain, nats", yaxis={"domain": [0, 0.46], "nticks": 5}, height=340)
    layout["yaxis2"] = {"title": {"text": "score"}, "domain": [0.58, 1], "range": [0, 1.02], "dtick": 0.5}
    names = ("score", "gain", "layer", "head")
    return plot.make_figure(
        "induction",
        "Induction",
        "On random tokens that are repeated once: the weight of the best head on the token that followed last time "
        "(score), and by how much the loss is lower on the repeat (gain). Small models on short runs often learn "
        "neither.",
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
        "When the model predicts a token with 30%, is it right 30% of the time? On the dashed line it is; below, it is "
        f"overconfident. Larger dots stand for more tokens. (Step {probe.step:,}.)",
        [ideal, dots],
        plot.axis_layout("confidence", "accuracy", xaxis={"range": [0, 1]}, yaxis={"range": [0, 1]}),
        plot.make_table(("confidence", "accuracy", "tokens"), zip(confidence, accuracy, counts, strict=True)),
    )
