"""Rules about text the model never saw: memorising, the gap, the limit, the expected band."""

import math
from collections.abc import Sequence

from ..view import View
from .finding import Finding
from .window import GapPoint, gap_points

LEAST_FALL = 0.12  # nats that training must have fallen by before its gain is compared
NO_GAIN = 0.05  # of the gain in training: less than that on held-out text is none
LITTLE_GAIN = 0.5
LARGE_GAP = 0.3  # nats
LEAST_RISE = 0.01  # nats over two evaluations


def memorising(view: View) -> Finding | None:
    """Since some evaluation training has fallen clearly, and the held-out loss has not gained at all."""
    points = gap_points(view)
    start = _memorising_since(points)
    if start is None:
        return None
    best, now = min(points, key=lambda p: p.held), points[-1]
    steps = now.step - start.step
    change = now.held - start.held
    moved = f"has risen by {change:.3f}" if change > 0.005 else "has not got better"
    what = (
        f"The model is memorising: for {steps:,} steps the held-out loss {moved} ({start.held:.3f} to {now.held:.3f}), "
        f"while training fell from {start.train:.3f} to {now.train:.3f}."
    )
    dropout = "" if view.past.run.model.dropout >= 0.2 else " or dropout 0.2"
    kept = f"; the best is of step {best.step:,}, and kept" if best.step < now.step else ""
    stop = "Use" if view.is_over else "Stop here, or use"
    return Finding("bad", what, f"{stop} more text{dropout}{kept}.", start.step)


def _memorising_since(points: Sequence[GapPoint]) -> GapPoint | None:
    """From which evaluation on training has fallen clearly and the held-out loss has gained nothing by it.

    The best evaluation, if that holds from there; else the earliest of which it holds. Two rises in a row while
    training falls are enough as well.
    """
    if len(points) < 2:
        return None
    now, best = points[-1], min(points, key=lambda p: p.held)
    for start in (best, *points[:-1]):
        fall = start.train - now.train
        clear = max(LEAST_FALL, 2.5 * math.hypot(now.noise, start.noise))
        if fall >= clear and start.held - now.held <= NO_GAIN * fall:
            return start
    if len(points) >= 3:
        a, b, c = points[-3:]
        clear = max(LEAST_FALL / 2, 2 * math.hypot(a.noise, c.noise))
        if a.held < b.held < c.held and c.held - a.held > LEAST_RISE and a.train - c.train >= clear:
            return a
    return None


def widening(view: View) -> Finding | None:
    """Held-out text gains from training, but less than half of what the training text does."""
    points = gap_points(view)
    if len(points) < 3:
        return None
    now = points[-1]
    start = next(
        (p for p in reversed(points[:-1]) if p.train - now.train >= max(0.2, 3 * math.hypot(now.noise, p.noise))), None
    )
    if start is None:
        return None
    fall, gain = start.train - now.train, start.held - now.held
    if now.gap < 0.1 or gain > LITTLE_GAIN * fall:
        return None
    what = (
        f"The gap is widening: since step {start.step:,} training fell by {fall:.2f} nats and held-out text by "
        f"{gain:.2f}; it is {now.gap:.2f} now."
    )
    dropout = ", or dropout 0.1," if view.past.run.model.dropout < 0.1 else ""
    return Finding("watch", what, f"More text{dropout} would make more of the same steps.", start.step)


def generalising(view: View) -> Finding | None:
    """What is learned holds for new text as well."""
    points = gap_points(view)
    if len(points) < 2:
        return None
    now = points[-1]
    if now.held > min(p.held for p in points[:-1]) + 0.02:
        return None
    both = f"held out {now.held:.3f}, training {now.train:.3f}"
    if now.gap > LARGE_GAP:
        what = f"New text still gains by training, and the text trained on is known {now.gap:.2f} nats better: {both}."
        return Finding("info", what, "A longer text would make more of the same steps.")
    return Finding("good", f"What is learned holds for new text: {both}.")


def worse_than_best(view: View) -> Finding | None:
    """The last evaluation is clearly above the best one, whatever training did."""
    points = gap_points(view)
    if len(points) < 2:
        return None
    best, now = min(points, key=lambda p: p.held), points[-1]
    if now.held <= best.held + 0.02:
        return None
    what = f"The held-out loss is {now.held - best.held:.3f} above its best, which was at step {best.step:,}."
    return Finding("watch", what, "best_model.pt is of that step; if it goes on rising, stop.", best.step)


def below_limit(view: View) -> Finding | None:
    """Nobody predicts a text better than the grammar that wrote it."""
    for e in view.held_out:
        if e.limit is None or e.bits_per_byte is None or e.loss <= 0:
            continue
        error = 0.0 if e.stderr is None else e.stderr * e.bits_per_byte / e.loss
        if e.bits_per_byte < e.limit - max(3 * error, 0.001):
            what = f"{e.bits_per_byte:.4f} bits/byte at step {e.step:,} is better than is possible ({e.limit:.4f})."
            return Finding(
                "bad", what, "That is a bug: the model sees what it should guess, or the loss is wrong.", e.step
            )
    return None


def near_limit(view: View) -> Finding | None:
    """How far there is to go on a text whose true entropy is known."""
    last = view.held_out[-1] if view.held_out else None
    if last is None or last.limit is None or last.bits_per_byte is None:
        return None
    away = last.bits_per_byte - last.limit
    what = (
        f"{away:.3f} bits/byte above the limit of this text, {last.limit:.3f}, which no model can beat in expectation."
    )
    return Finding("info", what)


def expected(view: View) -> Finding | None:
    """Inside or outside of what other seeds of this recipe did, by the last point that both have."""
    band = view.band
    if band is None:
        return None
    held = {e.step: e.loss for e in view.held_out}
    curve = view.curve
    train = {step: curve.mean(i) for i, step in enumerate(curve.steps)}
    for points, losses, what in ((band.held_out, held, "held-out"), (band.train, train, "training")):
        point = next((p for p in reversed(points) if p.step in losses), None)
        if point is None:
            continue
        loss, away = losses[point.step], band.position(point, losses[point.step])
        against = f"{point.mean:.3f} ± {band.width(point):.3f} expected of {band.name}"
        where = f"the {what} loss at step {point.step:,} is {loss:.3f}, {against}"
        if abs(away) <= 1:
            return Finding("good", f"Inside the expected band: {where}.", since=point.step)
        if away < 0:
            what = f"Outside the expected band, on the better side: {where}."
            return Finding("info", what, "A better result than known: was the text or the split changed?", point.step)
        advice = "The settings are those of the recipe: look at the machine, its number format and the versions."
        return Finding("watch", f"Outside the expected band: {where}.", advice, point.step)
    return None
