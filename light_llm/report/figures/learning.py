"""The gap to held-out text, the learning rate, and the loss by position."""

from ..coerce import drop_none
from ..run_log import RunLog
from . import plot
from .plot import Figure

SECTION = "learning"


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return gap, learning rate and loss by position."""
    return [_gap(log), _learning_rate(log), _position(log)]


def _gap(log: RunLog) -> Figure | None:
    points = log.gap_points
    steps, gaps = [p.step for p in points], [plot.round_digits(p.gap) for p in points]
    return plot.make_figure(
        "gap",
        "Held out minus training",
        "How much worse the model does on text it never saw. A small steady gap is normal. One that grows while the "
        "held-out loss stands still is memory, not understanding.",
        [plot.line_trace("gap", steps, gaps, "@held", mode="lines+markers", showlegend=False)],
        plot.axis_layout("steps", "nats per token", yaxis={"rangemode": "tozero"}),
        plot.make_table(
            ("step", "held out", "training, mean of 10", "gap"),
            ((p.step, plot.round_digits(p.held), plot.round_digits(p.train), plot.round_digits(p.gap)) for p in points),
        ),
    )


def _learning_rate(log: RunLog) -> Figure | None:
    steps = log.steps
    kept = plot.downsample_minmax(steps.lr, 400)
    x, y = [steps.step[i] for i in kept], [plot.round_digits(steps.lr[i]) for i in kept]
    return plot.make_figure(
        "lr",
        "Learning rate",
        "How large a step each update takes: up during warm-up, then down along the schedule.",
        [plot.line_trace("learning rate", x, y, "@train", showlegend=False)],
        plot.axis_layout("steps", "learning rate", yaxis={"rangemode": "tozero", "exponentformat": "power"}),
        plot.make_table(("step", "learning rate"), zip(x, y, strict=True)),
    )


def _position(log: RunLog) -> Figure | None:
    last = log.last_eval
    if last is None or len(drop_none(last.by_position)) < 2:
        return None
    first = next(e for e in log.evals if e.by_position)
    labels = [f"{position:.0f}" if position is not None else "" for position in last.upto]
    losses = [plot.round_digits(v) for v in last.by_position]
    traces = [plot.line_trace(f"step {last.step:,}", labels, losses, "@held", mode="lines+markers")]
    if first.step != last.step and len(first.by_position) == len(last.by_position):
        earlier = [plot.round_digits(v) for v in first.by_position]
        style = {"mode": "lines+markers", "dash": "dot"}
        traces.insert(0, plot.line_trace(f"step {first.step:,}", labels, earlier, "@muted", **style))
    return plot.make_figure(
        "position",
        "Loss by position",
        "Does more context help? Each point is the mean loss of the tokens between the mark before it and its own. A "
        "line that falls to the right means that the model uses what came before.",
        traces,
        plot.axis_layout("tokens seen before, up to", "nats per token", xaxis={"type": "category"}),
        plot.make_table(("position up to", f"loss at step {last.step:,}"), zip(labels, losses, strict=True)),
    )
