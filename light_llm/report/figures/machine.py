"""Speed, share of the machine's arithmetic, memory, and where the time goes."""

from ..coerce import drop_none
from ..run_log import RunLog
from . import plot
from .plot import Figure

SECTION = "machine"


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return speed, MFU, memory and phases."""
    speed = "Tokens trained on in a second. It should be level: dips are another program, or a slow disk."
    mfu = "MFU: the share of the matrix products this machine could do that went into the model."
    memory = "The most memory held so far. It should level off after the first steps."
    percent = [None if v is None else 100 * v for v in log.steps.mfu]
    gigabytes = [None if v is None else v / 1e9 for v in log.steps.memory]
    curves = (
        ("speed", "Tokens per second", speed, log.steps.tok_per_sec, "tokens/s"),
        ("mfu", "Use of the machine", mfu, percent, "% of its product rate"),
        ("memory", "Peak memory", memory, gigabytes, "GB"),
    )
    figures = [
        plot.smoothed_figure(
            id, title, text, log.steps.step, y, plot.axis_layout("steps", unit, yaxis={"rangemode": "tozero"})
        )
        for id, title, text, y, unit in curves
    ]
    return [*figures, _phases(log)]


def _phases(log: RunLog) -> Figure | None:
    """Return the share of the whole time by phase."""
    seconds = {name: sum(drop_none(values)) for name, values in log.steps.phases.items()}
    total = sum(seconds.values())
    if total <= 0:
        return None
    shares = {name: plot.round_digits(100 * value / total) for name, value in seconds.items()}
    return plot.make_figure(
        "phases",
        "Where the time goes",
        "Waiting for data should be next to nothing; the gradients are the work itself.",
        [plot.bar_trace(shares.values(), map(plot.escape_markup, shares), orientation="h")],
        plot.axis_layout("% of the time in steps", "", yaxis={"autorange": "reversed"}, bargap=0.45),
        plot.make_table(
            ("phase", "seconds", "%"), ((name, plot.round_digits(seconds[name]), shares[name]) for name in seconds)
        ),
    )
