"""Learning: the loss of one run or of several, the gap to held-out text, the learning rate, loss by position."""

from collections.abc import Sequence
from itertools import accumulate

from ..coerce import Number, drop_none
from ..run_log import RunLog
from . import plot
from .plot import AxisToggle, Figure, Table, Trace

SECTION = "learning"
COLORS = ("@c0", "@c1", "@c2", "@c3", "@c4", "@c5", "@c6", "@c7")
UNITS = (("nats", "loss, nats per token"), ("bits", "bits per byte"))


def make_figures(log: RunLog) -> list[Figure | None]:
    """Return the loss of one run, gap, learning rate and loss by position."""
    return [loss_figure([log]), _gap(log), _learning_rate(log), _position(log)]


def loss_figure(logs: Sequence[RunLog]) -> Figure | None:
    """Return training and held-out loss against steps, tokens, time and arithmetic."""
    window = _mean_window(logs)
    traces = [trace for i, log in enumerate(logs) for trace in _loss_traces(log, i, len(logs) > 1, window)]
    if not traces:
        return None
    x = [("steps", "steps"), ("tokens", "tokens"), ("time", "minutes in steps")]
    if all(log.flops_per_token for log in logs):
        x.append(("FLOPs", "FLOPs"))
    has_bits = all(any(v is not None for v in log.steps.bits_per_byte) for log in logs)
    # Nats per token of different tokenizers cannot be compared: a token of more bytes is harder to predict.
    is_mixed = has_bits and len({(log.data or {}).get("tokenizer_sha256") for log in logs}) > 1
    units = UNITS[::-1] if is_mixed else UNITS
    toggles = [AxisToggle("x", "against", tuple(x)), *([AxisToggle("y", "in", units)] if has_bits else [])]
    for trace in traces:
        trace["choices"]["x"] = {name: trace["choices"]["x"][name] for name, _ in x}
        trace["y"] = trace["choices"]["y"][units[0][0]]
    if len(logs) == 1:
        sentence = "Lower is better. Held out: text that the model is not trained on. "
    else:
        sentence = f"Lower is better. Lines: training, mean of {window} steps. Dotted: held-out text. "
    if is_mixed:
        sentence += "The runs have different tokenizers, so only bits per byte can be compared."
    else:
        sentence += "Bits per byte is the same in a unit that does not depend on the tokenizer."
    return Figure(
        # The page remembers toggles by id. The two figures must not share them.
        id="loss" if len(logs) == 1 else "losses",
        title="Loss" if len(logs) == 1 else "Loss of all runs",
        sentence=sentence,
        traces=tuple(traces),
        layout=plot.axis_layout("steps", units[0][1]),
        table=_loss_table(logs),
        toggles=tuple(toggles),
        wide=True,
    )


def _mean_window(logs: Sequence[RunLog]) -> int:
    """Return the steps of the running mean: the same for all runs of a figure, so that they are equally smooth."""
    return max(5, min(50, max(len(log.steps) for log in logs) // 20))


def _loss_traces(log: RunLog, number: int, several: bool, window: int) -> list[Trace]:
    """Return the loss of each batch, its running mean, the held-out loss, and for a single run its band and limit.

    Of several runs, each has one entry in the legend.
    """
    steps = log.steps
    train, held = (COLORS[number % 8],) * 2 if several else ("@train", "@held")
    prefix = f"{log.name}: " if several else ""
    traces = []
    if len(steps):
        mean, mean_bits = plot.running_mean(steps.loss, window), plot.running_mean(steps.bits_per_byte, window)
        raw, kept = plot.downsample_minmax(steps.loss), plot.evenly_spaced(len(steps), 750)
        thin = {"opacity": 0.35, "width": 1, "hoverinfo": "skip", "showlegend": not several}
        for name, indices, loss, bits, style in (
            ("training, each batch", raw, steps.loss, steps.bits_per_byte, thin),
            (f"training, mean of {window}", kept, mean, mean_bits, {}),
        ):
            choices = _axis_choices(log, [steps.step[i] for i in indices], [loss[i] for i in indices])
            choices["y"]["bits"] = [plot.round_digits(bits[i]) for i in indices]
            traces.append(plot.line_trace(f"{prefix}{name}", [], [], train, choices=choices, **style))
    if log.evals:
        traces.append(_held_out_trace(log, f"{prefix}held out", held, dashed=several))
    if not several:
        traces += _band_traces(log) + _limit_trace(log)
    for i, trace in enumerate(traces):
        trace["x"], trace["y"] = trace["choices"]["x"]["steps"], trace["choices"]["y"]["nats"]
        if several:
            entry = {
                "name": plot.escape_markup(log.name),
                "hovertemplate": f"{trace['name']}: %{{y:.4g}}<extra></extra>",
            }
            trace |= entry | {"legendgroup": str(number), "showlegend": i == min(1, len(traces) - 1)}
    return traces


def _axis_choices(log: RunLog, steps: Sequence[int], losses: Sequence[Number]) -> dict[str, dict[str, list[Number]]]:
    """Return the values of a curve for every option of both axes, without bits per byte."""
    times = [0.0, *accumulate(s or 0.0 for s in log.steps.seconds)]
    index = {0: 0} | {step: i + 1 for i, step in enumerate(log.steps.step)}
    all_tokens: list[Number] = [0.0, *log.steps.tokens]
    places = [index.get(step) for step in steps]
    tokens = [None if i is None else all_tokens[i] for i in places]
    flops = log.flops_per_token
    return {
        "x": {
            "steps": [float(s) for s in steps],
            "tokens": tokens,
            "time": [None if i is None else plot.round_digits(times[i] / 60) for i in places],
            "FLOPs": [plot.round_digits(n * flops) if n is not None and flops else None for n in tokens],
        },
        "y": {"nats": [plot.round_digits(v) for v in losses]},
    }


def _held_out_trace(log: RunLog, name: str, color: str, dashed: bool) -> Trace:
    evals = [log.evals[i] for i in plot.evenly_spaced(len(log.evals), 500)]
    choices = _axis_choices(log, [e.step for e in evals], [e.loss for e in evals])
    choices["y"]["bits"] = [plot.round_digits(e.bits_per_byte) for e in evals]
    errors = {
        "nats": [plot.round_digits(e.stderr) for e in evals],
        "bits": [plot.round_digits(e.in_unit("bits_per_byte")[1]) for e in evals],
    }
    style = {"mode": "lines+markers", "marker": {"color": color, "size": 7}} | ({"dash": "dot"} if dashed else {})
    bars = {"type": "data", "array": errors["nats"], "color": color, "thickness": 1, "width": 3}
    return plot.line_trace(name, [], [], color, choices=choices | {"error": errors}, error_y=bars, **style)


def _band_traces(log: RunLog) -> list[Trace]:
    """Return the area in which other seeds of this recipe ended."""
    last = log.last_eval
    if log.band is None or last is None or not last.bits_per_byte or last.loss <= 0:
        return []
    per_nat = last.bits_per_byte / last.loss
    points = log.band.held_out
    steps = [*(p.step for p in points), *(p.step for p in reversed(points))]
    edge = [p.mean + log.band.half_width(p) for p in points] + [
        p.mean - log.band.half_width(p) for p in reversed(points)
    ]
    choices = _axis_choices(log, steps, edge)
    choices["y"]["bits"] = [plot.round_digits(v * per_nat) for v in edge]
    name = f"expected held out ({log.band.seeds} seeds)"
    area = {"fill": "toself", "fillcolor": "@band", "width": 0, "hoverinfo": "skip"}
    return [plot.line_trace(name, [], [], "@held", choices=choices, **area)]


def _limit_trace(log: RunLog) -> list[Trace]:
    """Return a line at the true entropy of the text, if it is known."""
    last = log.last_eval
    if last is None or last.limit is None or not last.bits_per_byte or not len(log.steps):
        return []
    ends = [log.steps.step[0], log.steps.step[-1]]
    choices = _axis_choices(log, ends, [last.limit * last.loss / last.bits_per_byte] * 2)
    choices["y"]["bits"] = [plot.round_digits(last.limit)] * 2
    return [plot.line_trace("limit of this text", [], [], "@limit", choices=choices, dash="dash")]


def _loss_table(logs: Sequence[RunLog]) -> Table:
    """Return the evaluations with the running training loss; for several runs the held-out loss of each."""
    if len(logs) > 1:
        by_step = [{e.step: e.loss for e in log.evals} for log in logs]
        steps = sorted({step for losses in by_step for step in losses})
        heads = ["step", *(f"{log.name}, held out" for log in logs)]
        return plot.make_table(
            heads, ([step, *(plot.round_digits(losses.get(step)) for losses in by_step)] for step in steps)
        )
    log = logs[0]
    means = dict(zip(log.steps.step, plot.running_mean(log.steps.loss, 10), strict=True))
    evals = {e.step: e for e in log.evals}
    rows = []
    for step in sorted(evals) or [log.steps.step[i] for i in plot.evenly_spaced(len(means), 60)]:
        e = evals.get(step)
        cells = (e.loss, e.stderr, e.bits_per_byte) if e else (None, None, None)
        rows.append([step, plot.round_digits(means.get(step)), *map(plot.round_digits, cells)])
    return plot.make_table(["step", "training, mean of 10", "held out", "standard error", "bits per byte"], rows)


def _gap(log: RunLog) -> Figure | None:
    points = log.gap_points
    steps, gaps = [p.step for p in points], [plot.round_digits(p.gap) for p in points]
    return plot.make_figure(
        "gap",
        "Held out minus training",
        "A small, steady gap is normal. One that grows while the held-out loss stops falling means that the model "
        "memorises the training text.",
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
        "It rises during warm-up and then follows the schedule down.",
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
        "Does more context help? Each point is the mean loss of the tokens after the previous mark, up to its own. A "
        "line that falls to the right means that the model uses the context.",
        traces,
        plot.axis_layout("tokens seen before, up to", "nats per token", xaxis={"type": "category"}),
        plot.make_table(("position up to", f"loss at step {last.step:,}"), zip(labels, losses, strict=True)),
    )
