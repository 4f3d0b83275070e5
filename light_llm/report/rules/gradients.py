"""Rules about updates: gradients that explode or vanish, clipping, and how much each group moves."""

from collections.abc import Iterator, Mapping
from statistics import median

from ..tolerant import Numbers, known
from ..view import View
from .finding import Finding

RECENT = 20  # steps
SETTLED = 60  # steps before which ratios are those of small initial weights
TOO_HIGH, TOO_LOW = 1e-2, 1e-4  # update over weight; about 1e-3 is usual (Karpathy's rule of thumb)
TABLES = {"wte": 3e-2, "wpe": 3e-2}  # too high for them: rows of tables start small, and few see a gradient
VANISHED = 1e-4  # of the typical group's gradient norm
EXPLODED = 10.0  # times what it was


def exploding(view: View) -> Finding | None:
    """The recent gradients are many times what they were."""
    norms = known(view.steps.grad_norm)
    if len(norms) < 3 * RECENT:
        return None
    now, usual = median(norms[-RECENT:]), median(norms[:-RECENT])
    if now < EXPLODED * usual or now < 1:
        return None
    pairs = list(zip(view.steps.step, view.steps.grad_norm, strict=True))
    calm = max((i for i, (_, v) in enumerate(pairs[:-1]) if v and v < EXPLODED * usual), default=-1)
    since = pairs[calm + 1][0]
    what = f"Gradients are exploding: their norm is {now:.3g} now and was {usual:.3g}."
    return Finding("bad", what, "Lower the learning rate, or warm up longer; clipping alone only hides it.", since)


def vanishing(view: View) -> Finding | None:
    """Some group gets next to no gradient, and hardly moves: Adam alone would move it by little signal as by much."""
    last, moves = _recent(view.steps.grad_norms), _recent(view.steps.update_ratios)
    if not last:
        return None
    usual = median(last.values())
    dark = [name for name, v in last.items() if v < VANISHED * usual and moves.get(name, 0.0) < TOO_LOW]
    if usual == 0 or not dark:
        return None
    what = f"Gradients have vanished in {_list(dark)}: less than a ten-thousandth of what is typical here."
    return Finding(
        "bad", what, "These weights learn nothing: lower the learning rate and start again.", _first_step(view, dark)
    )


def _first_step(view: View, dark: list[str]) -> int | None:
    norms = view.steps.grad_norms[dark[0]]
    usual = median(_recent(view.steps.grad_norms).values())
    return next(
        (s for s, v in zip(view.steps.step, norms, strict=True) if v is not None and v < VANISHED * usual), None
    )


def clipping(view: View) -> Finding | None:
    """Most steps are clipped: each counts alike then, whatever its gradient."""
    recent = [c for c in view.steps.clipped[-5 * RECENT :] if c is not None]
    if len(recent) < RECENT:
        return None
    share, clip = sum(recent) / len(recent), view.past.run.train.grad_clip
    norm = median(known(view.steps.grad_norm[-5 * RECENT :]) or [0.0])
    what = f"{100 * share:.0f}% of the last {len(recent)} steps were clipped at {clip:g}; a typical norm is {norm:.2f}."
    if share <= 0.5:
        return Finding("good", what)
    if norm < 3 * clip:
        return Finding("info", what, "With norms this near the limit, clipping is a mild brake and harmless.")
    return Finding(
        "watch", what, "The batch is small or the rate high: larger batches or a lower rate give steadier steps."
    )


def update_ratios(view: View) -> Iterator[Finding]:
    """Groups that are torn about, and groups that hardly move; while the learning rate is at work."""
    peak, rates = view.past.run.train.lr, view.steps.lr
    at_work = [i for i, lr in enumerate(rates) if i >= SETTLED and lr is not None and lr >= 0.3 * peak]
    if len(at_work) < RECENT:
        return
    places = at_work[-RECENT:]
    typical = {
        name: median(there)
        for name, values in view.steps.update_ratios.items()
        if (there := known([values[i] for i in places]))
    }
    high = [name for name, v in typical.items() if v > TABLES.get(name, TOO_HIGH)]
    low = [name for name, v in typical.items() if v < TOO_LOW]
    step = view.steps.step[places[0]]
    if high and low:
        what = (
            f"Groups move at very different rates: {_list(high)} by more than 1% of their size a step, {_list(low)} by"
        )
        yield Finding("watch", f"{what} less than 0.01%.", "No single learning rate mends that.", step)
    elif high:
        top = max(high, key=lambda name: typical[name])
        what = f"More than {100 * TABLES.get(top, TOO_HIGH):.0f}% of its size is changed at each step in {_list(high)}"
        what = f"{what} ({top}: {100 * typical[top]:.1f}%)."
        yield Finding("watch", what, f"The learning rate may be too high: try --lr {peak / 3:.2g}.", step)
    elif low:
        what = f"Less than 0.01% of its size is changed at each step in {_list(low)}: hardly anything."
        yield Finding("watch", what, f"The learning rate may be too low: try --lr {peak * 3:.2g}.", step)
    elif typical:
        yield Finding(
            "good",
            f"Every group changes by {100 * min(typical.values()):.2f}% to {100 * max(typical.values()):.2f}% a step.",
        )


def _recent(groups: Mapping[str, Numbers]) -> dict[str, float]:
    """The typical value of each group over the last steps."""
    return {name: median(there) for name, values in groups.items() if (there := known(values[-RECENT:]))}


def _list(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
