"""Pictures beside the loss: the gap to held-out text, the learning rate, what context is worth, and the machine."""

from ..rules.window import gap_points
from ..tolerant import Number, known
from ..view import View
from .figure import Figure, axes, extremes, figure, inert, line, rounded, smoothed, spread, table

GB = 1e9


def learning_pictures(view: View) -> list[Figure]:
    """Gap, learning rate, loss by position."""
    return [f for f in (_gap(view), _rate(view), _position(view)) if f]


def machine_pictures(view: View) -> list[Figure]:
    """Speed, share of the machine, memory, phases."""
    return [f for f in (_speed(view), _mfu(view), _memory(view), _phases(view)) if f]


def _gap(view: View) -> Figure | None:
    points = gap_points(view)
    steps, gaps = [p.step for p in points], [rounded(p.gap) for p in points]
    return figure(
        "gap",
        "Held out minus training",
        "How much worse the model does on text it never saw. A small steady gap is normal. One that grows while the "
        "held-out loss stands still is memory, not understanding.",
        [line("gap", steps, gaps, "@held", mode="lines+markers", showlegend=False)],
        axes("steps", "nats per token", yaxis={"rangemode": "tozero"}),
        table(
            ("step", "held out", "training, mean of 10", "gap"),
            ((p.step, rounded(p.held), rounded(p.train), rounded(p.gap)) for p in points),
        ),
    )


def _rate(view: View) -> Figure | None:
    steps = view.steps
    kept = extremes(steps.lr, 400)
    x, y = [steps.step[i] for i in kept], [rounded(steps.lr[i]) for i in kept]
    return figure(
        "lr",
        "Learning rate",
        "How large a step each update takes: up during warm-up, then down along the schedule.",
        [line("learning rate", x, y, "@train", showlegend=False)],
        axes("steps", "learning rate", yaxis={"rangemode": "tozero", "exponentformat": "power"}),
        table(("step", "learning rate"), zip(x, y, strict=True)),
    )


def _position(view: View) -> Figure | None:
    last = view.held_out[-1] if view.held_out else None
    if last is None or len(known(last.by_position)) < 2:
        return None
    first = next(e for e in view.held_out if e.by_position)
    labels = [f"{u:.0f}" if u is not None else "" for u in last.upto]
    traces = [
        line(f"step {last.step:,}", labels, [rounded(v) for v in last.by_position], "@held", mode="lines+markers")
    ]
    if first.step != last.step and len(first.by_position) == len(last.by_position):
        earlier = [rounded(v) for v in first.by_position]
        traces.insert(0, line(f"step {first.step:,}", labels, earlier, "@muted", mode="lines+markers", dash="dot"))
    rows = zip(labels, map(rounded, last.by_position), strict=True)
    return figure(
        "position",
        "Loss by position",
        "Does more context help? Each point is the mean loss of the tokens between the mark before it and its own. A "
        "line that falls to the right means that the model uses what came before.",
        traces,
        axes("tokens seen before, up to", "nats per token", xaxis={"type": "category"}),
        table(("position up to", f"loss at step {last.step:,}"), rows),
    )


def _over_time(view: View, id: str, title: str, sentence: str, values: list[Number], label: str) -> Figure | None:
    steps, mean = view.steps.step, smoothed(values, 20)
    raw, kept = extremes(values, 1000), spread(len(steps), 500)
    thin = {"opacity": 0.3, "width": 1, "hoverinfo": "skip", "showlegend": False}
    traces = [
        line("each step", [steps[i] for i in raw], [rounded(values[i]) for i in raw], "@train", **thin),
        line("mean of 20", [steps[i] for i in kept], [rounded(mean[i]) for i in kept], "@train", showlegend=False),
    ]
    rows = ((steps[i], rounded(values[i]), rounded(mean[i])) for i in kept)
    return figure(
        id,
        title,
        sentence,
        traces,
        axes("steps", label, yaxis={"rangemode": "tozero"}),
        table(("step", title, "mean of 20"), rows),
    )


def _speed(view: View) -> Figure | None:
    what = "Tokens trained on in a second. It should be level: dips are another program, or a slow disk."
    return _over_time(view, "speed", "Tokens per second", what, list(view.steps.tok_per_sec), "tokens/s")


def _mfu(view: View) -> Figure | None:
    share = [None if v is None else 100 * v for v in view.steps.mfu]
    what = "MFU: the share of the matrix products this machine could do that went into the model."
    return _over_time(view, "mfu", "Use of the machine", what, share, "% of its product rate")


def _memory(view: View) -> Figure | None:
    share = [None if v is None else v / GB for v in view.steps.memory]
    what = "The most memory held so far. It should level off after the first steps."
    return _over_time(view, "memory", "Peak memory", what, share, "GB")


def _phases(view: View) -> Figure | None:
    """Where the time of the steps went, in all."""
    sums = {name: sum(known(values)) for name, values in view.steps.phases.items()}
    total = sum(sums.values())
    if total <= 0:
        return None
    shares = {name: rounded(100 * value / total) for name, value in sums.items()}
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": list(shares.values()),
        "y": list(map(inert, shares)),
        "marker": {"color": "@train"},
    }
    return figure(
        "phases",
        "Where the time goes",
        "Waiting for data should be next to nothing; the gradients are the work itself.",
        [bar | {"showlegend": False}],
        axes("% of the time in steps", "", yaxis={"autorange": "reversed"}, bargap=0.45),
        table(("phase", "seconds", "%"), ((name, rounded(sums[name]), shares[name]) for name in sums)),
    )
