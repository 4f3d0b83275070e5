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
            "Gradient norm by parameter group",
            "From the embeddings (wte, wpe) at the bottom through the blocks (h.0, h.1, ...) to the final norm. A row "
            "far below the others gets little signal; one that rises above them is where instability starts.",
        ),
        _by_group(
            log,
            log.steps.update_ratios,
            "update_ratios",
            "Update-to-weight ratio by parameter group",
            "The norm of an update over the norm of the weights. About 0.001 is usual; above 0.01 training is often "
            "unstable, below 0.0001 the group hardly learns.",
        ),
        _weight_norm(log),
    ]


def _gradient_norm(log: RunLog) -> Figure | None:
    clip, clipped = log.run.train.grad_clip, mean_of(log.steps.clipped)
    share = f" {100 * clipped:.0f}% of the steps were clipped." if clipped is not None else ""
    layout = plot.axis_layout("steps", "norm", yaxis=plot.log_axis(log.steps.grad_norm))
    if 0 < clip < 1e4:
        layout |= plot.threshold_line(clip, f"clipped above {clip:g}", is_log=True)
    sentence = "Norm of the gradient of all weights, before clipping. It should be steady; spikes are unusual batches."
    steps, norms = log.steps.step, log.steps.grad_norm
    return plot.smoothed_figure("grad_norm", "Gradient norm", f"{sentence}{share}", steps, norms, layout)


def _by_group(log: RunLog, groups: Mapping[str, Numbers], id: str, title: str, sentence: str) -> Figure | None:
    """Return a heat map of the means over stretches of steps, with a logarithmic scale."""
    x, _ = plot.bin_means(log.steps.step, log.steps.step)
    means = {name: plot.bin_means(log.steps.step, values)[1] for name, values in groups.items()}
    z = {
        name: [plot.round_digits(math.log10(v), 4) if v and v > 0 else None for v in row] for name, row in means.items()
    }
    bar = plot.log_colorbar(z.values())
    return plot.heatmap_over_steps(id, title, sentence, x, z, "10^%{z:.2f}", colorbar=bar)


def _weight_norm(log: RunLog) -> Figure | None:
    steps, norms = log.steps.step, log.steps.weight_norm
    kept = plot.evenly_spaced(len(steps), 500)
    x, y = [steps[i] for i in kept], [plot.round_digits(norms[i]) for i in kept]
    return plot.make_figure(
        "weight_norm",
        "Weight norm",
        "Norm of all weights. It grows while the model learns; weight decay limits it.",
        [plot.line_trace("weight norm", x, y, "@train", showlegend=False)],
        plot.axis_layout("steps", "norm"),
        plot.make_table(("step", "weight norm"), zip(x, y, strict=True)),
    )
