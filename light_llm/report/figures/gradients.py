"""Size of gradients, weights and updates, in all and by parameter group."""

import math
from collections.abc import Mapping

from ..coerce import Numbers, mean_of
from ..run_log import RunLog
from . import plot
from .plot import Figure

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
    clip, clipped = log.run.train.grad_clip, mean_of(log.steps.clipped)
    share = f" {100 * clipped:.0f}% of the steps were clipped." if clipped is not None else ""
    layout = plot.axis_layout("steps", "norm", yaxis={"type": "log", "exponentformat": "power"})
    if 0 < clip < 1e4:
        limit = plot.threshold_line(clip, f"clipped above {clip:g}")
        # On a log axis plotly places annotations by the exponent, and shapes by the value.
        limit["annotations"][0]["y"] = math.log10(clip)
        layout |= limit
    sentence = "How hard the loss pulls at all weights together. Level is healthy; jumps are batches that surprise."
    steps, norms = log.steps.step, log.steps.grad_norm
    return plot.smoothed_figure("grad_norm", "Gradient norm", f"{sentence}{share}", steps, norms, layout)


def _by_group(log: RunLog, groups: Mapping[str, Numbers], id: str, title: str, sentence: str) -> Figure | None:
    """Return a heat map of the means over stretches of steps, in powers of ten."""
    x, _ = plot.bin_means(log.steps.step, log.steps.step)
    means = {name: plot.bin_means(log.steps.step, values)[1] for name, values in groups.items()}
    z = {
        name: [plot.round_digits(math.log10(v), 4) if v and v > 0 else None for v in row] for name, row in means.items()
    }
    return plot.heatmap_over_steps(id, f"{title}, powers of ten", sentence, x, z, "10^%{z:.2f}")


def _weight_norm(log: RunLog) -> Figure | None:
    steps, norms = log.steps.step, log.steps.weight_norm
    kept = plot.evenly_spaced(len(steps), 500)
    x, y = [steps[i] for i in kept], [plot.round_digits(norms[i]) for i in kept]
    return plot.make_figure(
        "weight_norm",
        "Weight norm",
        "The size of all weights together. It grows while the model learns; weight decay and the schedule bend "
        "it down.",
        [plot.line_trace("weight norm", x, y, "@train", showlegend=False)],
        plot.axis_layout("steps", "norm"),
        plot.make_table(("step", "weight norm"), zip(x, y, strict=True)),
    )
