"""Speed, share of the machine's arithmetic, memory, and where the time goes."""

from ..coerce import drop_none
from ..run_log import RunLog
from . import plot
from .plot import Figure

SECTION = "machine"


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return speed, MFU, memory and phases."""
    speed = "Training speed. It should be steady; dips come from other programs or a slow disk."
    mfu = "Model FLOPs utilisation: the model's matrix multiplications as a share of what this machine can do."
    memory = "The most memory used so far. It should stop growing after the first steps."
    percent = [None if v is None else 100 * v for v in log.steps.mfu]
    gigabytes = [None if v is None else v / 1e9 for v in log.steps.memory]
    curves = (
        ("speed", "Tokens per second", speed, log.steps.tok_per_sec, "tokens/s"),
        ("mfu", "MFU", mfu, percent, "% of the machine's rate"),
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
        "Nearly all of a step should be gradients (forward and backward pass); waiting for data should be close to 0.",
        [plot.bar_trace(shares.values(), map(plot.escape_markup, shares), orientation="h")],
        plot.axis_layout("% of the time in steps", "", yaxis={"autorange": "reversed"}, bargap=0.45),
        plot.make_table(
            ("phase", "seconds", "%"), ((name, plot.round_digits(seconds[name]), shares[name]) for name in seconds)
        ),
    )
