"""Pictures of the updates: how large gradients, weights and changes are, in all and by group of parameters."""

import math
from collections.abc import Mapping

from ..tolerant import Number, Numbers, known
from ..view import View
from .figure import Figure, axes, binned, extremes, figure, heat, line, rounded, smoothed, spread, table, threshold


def gradient_pictures(view: View) -> list[Figure]:
    """Norm, norm by group, update ratios, weight norm."""
    return [f for f in (_norm(view), _groups(view), _ratios(view), _weights(view)) if f]


def _norm(view: View) -> Figure | None:
    steps, norms = view.steps.step, view.steps.grad_norm
    clip = view.past.run.train.grad_clip
    mean = smoothed(norms, 20)
    raw, kept = extremes(norms), spread(len(steps), 500)
    clipped = known([None if c is None else float(c) for c in view.steps.clipped])
    share = f" {100 * sum(clipped) / len(clipped):.0f}% of the steps were clipped." if clipped else ""
    traces = [
        line("each step", [steps[i] for i in raw], [rounded(norms[i]) for i in raw], "@train", opacity=0.35, width=1),
        line("mean of 20", [steps[i] for i in kept], [rounded(mean[i]) for i in kept], "@train"),
    ]
    layout = axes("steps", "norm", yaxis={"type": "log", "exponentformat": "power"})
    if 0 < clip < 1e4:  # on a log axis, annotations count in powers of ten, shapes do not
        limit = threshold(clip, f"clipped above {clip:g}")
        limit["annotations"][0]["y"] = math.log10(clip)
        layout |= limit
    return figure(
        "grad_norm",
        "Gradient norm",
        f"How hard the loss pulls at all weights together. Level is healthy; jumps are batches that surprise.{share}",
        traces,
        layout,
        table(("step", "gradient norm", "mean of 20"), ((steps[i], rounded(norms[i]), rounded(mean[i])) for i in kept)),
        wide=True,
    )


def _groups(view: View) -> Figure | None:
    return _by_group(
        view,
        view.steps.grad_norms,
        "grad_groups",
        "Gradient norm by group",
        "From the tables (wte, wpe) up through the blocks (h.0, h.1, ...) to the last norm. A row far below the others "
        "gets little signal; one that rises above them is where trouble starts.",
    )


def _ratios(view: View) -> Figure | None:
    return _by_group(
        view,
        view.steps.update_ratios,
        "update_ratios",
        "Update to weight ratio by group",
        "How much of itself each group changes in a step. Near 0.001 (-3) is the usual; above 0.01 (-2) it is torn "
        "about, below 0.0001 (-4) it hardly learns.",
    )


def _by_group(view: View, groups: Mapping[str, Numbers], id: str, title: str, sentence: str) -> Figure | None:
    """A heat map over time, groups from the bottom up, in powers of ten."""
    columns = {name: binned(view.steps.step, values) for name, values in groups.items()}
    if not columns:
        return None
    x = next(iter(columns.values()))[0]
    z = [[rounded(_log10(v), 4) for v in means] for _, means in columns.values()]
    rows = ([step, *(rounded(means[i], 3) for _, means in columns.values())] for i, step in enumerate(x))
    numbers = table(("mean up to step", *columns), rows)
    trace = heat(x, list(columns), z, "log10", hovertemplate="%{y}, step %{x}: 10^%{z:.2f}<extra></extra>")
    layout = axes(
        "steps",
        "",
        yaxis={"type": "category", "dtick": 1 if len(columns) <= 20 else 2},
        height=max(300, 60 + 17 * len(columns)),
    )
    return figure(id, title, sentence, [trace], layout, numbers)


def _weights(view: View) -> Figure | None:
    steps, norms = view.steps.step, view.steps.weight_norm
    kept = spread(len(steps), 500)
    x, y = [steps[i] for i in kept], [rounded(norms[i]) for i in kept]
    return figure(
        "weight_norm",
        "Weight norm",
        "The size of all weights together. It grows while the model learns; weight decay and the schedule bend "
        "it down.",
        [line("weight norm", x, y, "@train", showlegend=False)],
        axes("steps", "norm"),
        table(("step", "weight norm"), zip(x, y, strict=True)),
    )


def _log10(value: Number) -> Number:
    return math.log10(value) if value is not None and value > 0 else None
