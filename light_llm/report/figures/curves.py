"""Pictures of what is learned: the loss on four axes and in two units, the gap, the learning rate."""

from collections.abc import Sequence
from itertools import accumulate

from ..rows import Evaluation
from ..tolerant import Number
from ..view import View
from .figure import Figure, Switch, Table, Trace, axes, extremes, line, rounded, smoothed, spread, table

COLORS = ("@c0", "@c1", "@c2", "@c3", "@c4", "@c5", "@c6", "@c7")
UNITS = (("nats", "loss, nats per token"), ("bits", "bits per byte"))


def loss_figure(views: Sequence[View]) -> Figure | None:
    """Training and held-out loss of one run or of several, against steps, tokens, time and arithmetic."""
    traces = [trace for i, view in enumerate(views) for trace in _loss_traces(view, i, len(views) > 1)]
    if not traces:
        return None
    x = [("steps", "steps"), ("tokens", "tokens"), ("time", "minutes in steps")]
    if all(view.flops_per_token for view in views):
        x.append(("FLOPs", "FLOPs"))
    has_bits = all(any(v is not None for v in view.steps.bits_per_byte) for view in views)
    switches = [Switch("x", "against", tuple(x)), *([Switch("y", "in", UNITS)] if has_bits else [])]
    for trace in traces:
        trace["choices"]["x"] = {name: trace["choices"]["x"][name] for name, _ in x}
    sentence = (
        "The loss says how surprised the model is by the next token, and bits per byte the same in a unit that does "
        "not depend on the vocabulary: lower is better. Thin: each batch. Thick: its running mean. Dots: text it never "
        "saw."
    )
    return Figure(
        id="loss" if len(views) == 1 else "losses",  # what is chosen on the one is not chosen on the other
        title="Loss" if len(views) == 1 else "Loss of all runs",
        sentence=sentence,
        traces=tuple(traces),
        layout=axes("steps", "loss, nats per token"),
        table=_loss_table(views),
        switches=tuple(switches),
        wide=True,
    )


def _loss_traces(view: View, number: int, several: bool) -> list[Trace]:
    """Raw, smoothed and held out, the band and the limit. `choices` has the values of each axis by name."""
    steps = view.steps
    train, held = (COLORS[number % 8],) * 2 if several else ("@train", "@held")
    of_run = f"{view.name}: " if several else ""
    traces = []
    if steps.step:
        window = max(5, min(50, len(steps.step) // 20))
        mean, mean_bits = smoothed(steps.loss, window), smoothed(steps.bits_per_byte, window)
        raw, kept = extremes(steps.loss), spread(len(steps.step), 750)
        thin = {"opacity": 0.35, "width": 1, "hoverinfo": "skip", "showlegend": not several}
        curve = _choose(view, [steps.step[i] for i in raw], [steps.loss[i] for i in raw])
        curve["y"]["bits"] = [rounded(steps.bits_per_byte[i]) for i in raw]
        traces.append(line(f"{of_run}training, each batch", [], [], train, choices=curve, **thin))
        curve = _choose(view, [steps.step[i] for i in kept], [mean[i] for i in kept])
        curve["y"]["bits"] = [rounded(mean_bits[i]) for i in kept]
        traces.append(line(f"{of_run}training, mean of {window}", [], [], train, choices=curve))
    if view.held_out:
        traces.append(_held_out_trace(view, f"{of_run}held out", held, dashed=several))
    if not several:
        traces += _band_traces(view) + _limit_trace(view)
    for trace in traces:
        trace["x"], trace["y"] = trace["choices"]["x"]["steps"], trace["choices"]["y"]["nats"]
    return traces


def _choose(view: View, steps: Sequence[int], losses: Sequence[Number]) -> dict[str, dict[str, list[Number]]]:
    """The values of a curve for every choice of axis that has one."""
    times = [0.0, *accumulate(s or 0.0 for s in view.steps.seconds)]
    place = {0: 0} | {step: i + 1 for i, step in enumerate(view.steps.step)}
    tokens: list[Number] = [0.0, *view.steps.tokens]
    at = [place.get(step) for step in steps]
    seen = [None if i is None else tokens[i] for i in at]
    flops = view.flops_per_token
    return {
        "x": {
            "steps": [float(s) for s in steps],
            "tokens": seen,
            "time": [None if i is None else rounded(times[i] / 60) for i in at],
            "FLOPs": [rounded(n * flops) if n is not None and flops else None for n in seen],
        },
        "y": {"nats": [rounded(v) for v in losses]},
    }


def _held_out_trace(view: View, name: str, color: str, dashed: bool) -> Trace:
    evaluations = [view.held_out[i] for i in spread(len(view.held_out), 500)]
    choices = _choose(view, [e.step for e in evaluations], [e.loss for e in evaluations])
    choices["y"]["bits"] = [rounded(e.bits_per_byte) for e in evaluations]
    errors = {
        "nats": [rounded(e.stderr) for e in evaluations],
        "bits": [rounded(_error_in_bits(e)) for e in evaluations],
    }
    style = {"mode": "lines+markers", "marker": {"color": color, "size": 7}} | ({"dash": "dot"} if dashed else {})
    bars = {"type": "data", "array": errors["nats"], "color": color, "thickness": 1, "width": 3}
    return line(name, [], [], color, choices=choices | {"error": errors}, error_y=bars, **style)


def _error_in_bits(e: Evaluation) -> Number:
    """The standard error in bits per byte, with the bytes per token as they are."""
    return None if e.stderr is None or e.bits_per_byte is None or e.loss <= 0 else e.stderr * e.bits_per_byte / e.loss


def _band_traces(view: View) -> list[Trace]:
    """Where other seeds of the same recipe were."""
    if view.band is None or not view.held_out:
        return []
    last = view.held_out[-1]
    if not last.bits_per_byte or last.loss <= 0:
        return []
    per_nat = last.bits_per_byte / last.loss
    points = view.band.held_out
    steps = [*(p.step for p in points), *(p.step for p in reversed(points))]
    edge = [p.mean + view.band.width(p) for p in points] + [p.mean - view.band.width(p) for p in reversed(points)]
    choices = _choose(view, steps, edge)
    choices["y"]["bits"] = [rounded(v * per_nat) for v in edge]
    name = f"expected held out ({view.band.seeds} seeds)"
    filled = {"fill": "toself", "fillcolor": "@band", "width": 0, "hoverinfo": "skip"}
    return [line(name, [], [], "@held", choices=choices, **filled)]


def _limit_trace(view: View) -> list[Trace]:
    """The true entropy of a text whose every probability is known."""
    last = view.held_out[-1] if view.held_out else None
    if last is None or last.limit is None or not last.bits_per_byte or not view.steps.step:
        return []
    ends = [view.steps.step[0], view.steps.step[-1]]
    choices = _choose(view, ends, [last.limit * last.loss / last.bits_per_byte] * 2)
    choices["y"]["bits"] = [rounded(last.limit)] * 2
    return [line("limit of this text", [], [], "@limit", choices=choices, dash="dash")]


def _loss_table(views: Sequence[View]) -> Table:
    """The evaluations with the running training loss; of several runs the held-out loss of each."""
    if len(views) > 1:
        by_step = [{e.step: e.loss for e in view.held_out} for view in views]
        steps = sorted({step for losses in by_step for step in losses})
        heads = ["step", *(f"{view.name}, held out" for view in views)]
        return table(heads, ([step, *(rounded(losses.get(step)) for losses in by_step)] for step in steps))
    view = views[0]
    means = dict(zip(view.steps.step, smoothed(view.steps.loss, 10), strict=True))
    held = {e.step: e for e in view.held_out}
    at = sorted(held) if held else [view.steps.step[i] for i in spread(len(means), 60)]
    heads = ["step", "training, mean of 10", "held out", "standard error", "bits per byte"]
    rows = []
    for step in at:
        e = held.get(step)
        cells = (e.loss, e.stderr, e.bits_per_byte) if e else (None, None, None)
        rows.append([step, rounded(means.get(step)), *map(rounded, cells)])
    return table(heads, rows)
