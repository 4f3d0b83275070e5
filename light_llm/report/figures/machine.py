"""Speed, share of the machine's arithmetic, memory, and where the time goes."""

from collections.abc import Sequence

from ..coerce import Number, drop_none
from ..run_log import RunLog
from .figure import (
    Figure,
    axis_layout,
    downsample_minmax,
    escape_markup,
    evenly_spaced,
    line_trace,
    make_figure,
    make_table,
    round_digits,
    running_mean,
)

SECTION = "machine"


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return speed, MFU, memory and phases."""
    return [
        _over_steps(
            log,
            "speed",
            "Tokens per second",
            "Tokens trained on in a second. It should be level: dips are another program, or a slow disk.",
            log.steps.tok_per_sec,
            "tokens/s",
        ),
        _over_steps(
            log,
            "mfu",
            "Use of the machine",
            "MFU: the share of the matrix products this machine could do that went into the model.",
            [None if v is None else 100 * v for v in log.steps.mfu],
            "% of its product rate",
        ),
        _over_steps(
            log,
            "memory",
            "Peak memory",
            "The most memory held so far. It should level off after the first steps.",
            [None if v is None else v / 1e9 for v in log.steps.memory],
            "GB",
        ),
        _phases(log),
    ]


def _over_steps(log: RunLog, id: str, title: str, sentence: str, values: Sequence[Number], label: str) -> Figure | None:
    """Return a figure of each value and the running mean."""
    steps, mean = log.steps.step, running_mean(values, 20)
    raw, kept = downsample_minmax(values, 1000), evenly_spaced(len(steps), 500)
    thin = {"opacity": 0.3, "width": 1, "hoverinfo": "skip", "showlegend": False}
    x, y = [steps[i] for i in kept], [round_digits(mean[i]) for i in kept]
    traces = [
        line_trace("each step", [steps[i] for i in raw], [round_digits(values[i]) for i in raw], "@train", **thin),
        line_trace("mean of 20", x, y, "@train", showlegend=False),
    ]
    rows = ((steps[i], round_digits(values[i]), round_digits(mean[i])) for i in kept)
    layout = axis_layout("steps", label, yaxis={"rangemode": "tozero"})
    return make_figure(id, title, sentence, traces, layout, make_table(("step", title, "mean of 20"), rows))


def _phases(log: RunLog) -> Figure | None:
    """Return the share of the whole time by phase."""
    seconds = {name: sum(drop_none(values)) for name, values in log.steps.phases.items()}
    total = sum(seconds.values())
    if total <= 0:
        return None
    shares = {name: round_digits(100 * value / total) for name, value in seconds.items()}
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": list(shares.values()),
        "y": list(map(escape_markup, shares)),
        "marker": {"color": "@train"},
        "showlegend": False,
    }
    return make_figure(
        "phases",
        "Where the time goes",
        "Waiting for data should be next to nothing; the gradients are the work itself.",
        [bar],
        axis_layout("% of the time in steps", "", yaxis={"autorange": "reversed"}, bargap=0.45),
        make_table(("phase", "seconds", "%"), ((name, round_digits(seconds[name]), shares[name]) for name in seconds)),
    )
