"""Size of gradients, weights and updates, in all and by parameter group."""

import math
from collections.abc import Mapping

from ..coerce import Number, Numbers, mean_of
from ..run_log import RunLog
from .figure import (
    Figure,
    axis_layout,
    bin_means,
    downsample_minmax,
    evenly_spaced,
    heatmap_trace,
    line_trace,
    make_figure,
    make_table,
    round_digits,
    running_mean,
    threshold_line,
)

SECTION = "updates"


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return gradient norm, norm by group, update ratios and weight norm."""
    return [
        _gradient_norm(log),
        _by_group(
            log,
            log.steps.grad_norms,
            "grad_groups",
            "Gradient norm by group",
            "From the tables (wte, wpe) up through the blocks (h.0, h.1, ...) to the last norm. A row far below the "
            "others gets little signal; one that rises above them is where trouble starts.",
        ),
        _by_group(
            log,
            log.steps.update_ratios,
            "update_ratios",
            "Update to weight ratio by group",
            "How much of itself each group changes in a step. Near 0.001 (-3) is the usual; above 0.01 (-2) it is torn "
            "about, below 0.0001 (-4) it hardly learns.",
        ),
        _weight_norm(log),
    ]


def _gradient_norm(log: RunLog) -> Figure | None:
    steps, norms = log.steps.step, log.steps.grad_norm
    clip = log.run.train.grad_clip
    mean = running_mean(norms, 20)
    raw, kept = downsample_minmax(norms), evenly_spaced(len(steps), 500)
    clipped = mean_of(log.steps.clipped)
    share = f" {100 * clipped:.0f}% of the steps were clipped." if clipped is not None else ""
    thin = {"opacity": 0.35, "width": 1}
    traces = [
        line_trace("each step", [steps[i] for i in raw], [round_digits(norms[i]) for i in raw], "@train", **thin),
        line_trace("mean of 20", [steps[i] for i in kept], [round_digits(mean[i]) for i in kept], "@train"),
    ]
    layout = axis_layout("steps", "norm", yaxis={"type": "log", "exponentformat": "power"})
    if 0 < clip < 1e4:
        limit = threshold_line(clip, f"clipped above {clip:g}")
        # On a log axis plotly places annotations by the exponent, and shapes by the value.
        limit["annotations"][0]["y"] = math.log10(clip)
        layout |= limit
    rows = ((steps[i], round_digits(norms[i]), round_digits(mean[i])) for i in kept)
    return make_figure(
        "grad_norm",
        "Gradient norm",
        f"How hard the loss pulls at all weights together. Level is healthy; jumps are batches that surprise.{share}",
        traces,
        layout,
        make_table(("step", "gradient norm", "mean of 20"), rows),
        wide=True,
    )


def _by_group(log: RunLog, groups: Mapping[str, Numbers], id: str, title: str, sentence: str) -> Figure | None:
    """Return a heat map over time in powers of ten, groups from the bottom up."""
    columns = {name: bin_means(log.steps.step, values) for name, values in groups.items()}
    if not columns:
        return None
    x = next(iter(columns.values()))[0]
    z = [[round_digits(_log10(v), 4) for v in means] for _, means in columns.values()]
    rows = ([step, *(round_digits(means[i], 3) for _, means in columns.values())] for i, step in enumerate(x))
    trace = heatmap_trace(x, list(columns), z, "log10", hovertemplate="%{y}, step %{x}: 10^%{z:.2f}<extra></extra>")
    y = {"type": "category", "dtick": 1 if len(columns) <= 20 else 2}
    layout = axis_layout("steps", "", yaxis=y, height=max(300, 60 + 17 * len(columns)))
    return make_figure(id, title, sentence, [trace], layout, make_table(("mean up to step", *columns), rows))


def _weight_norm(log: RunLog) -> Figure | None:
    steps, norms = log.steps.step, log.steps.weight_norm
    kept = evenly_spaced(len(steps), 500)
    x, y = [steps[i] for i in kept], [round_digits(norms[i]) for i in kept]
    return make_figure(
        "weight_norm",
        "Weight norm",
        "The size of all weights together. It grows while the model learns; weight decay and the schedule bend "
        "it down.",
        [line_trace("weight norm", x, y, "@train", showlegend=False)],
        axis_layout("steps", "norm"),
        make_table(("step", "weight norm"), zip(x, y, strict=True)),
    )


def _log10(value: Number) -> Number:
    return math.log10(value) if value is not None and value > 0 else None
