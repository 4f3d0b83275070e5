"""Rules about held-out text: overfitting, the gap, the limit of a text, the band of other seeds."""

import math
from collections.abc import Sequence

from ..curves import GapPoint
from ..run_log import RunLog
from . import Finding, Rule

# Nats by which the training loss must have fallen before the held-out gain is compared with it. Half of it is enough
# after two rises in a row.
MIN_FALL = 0.12
# The same in standard errors of the two means, each of which is 0.01 to 0.02 nats in nano on tales.
MIN_FALL_ERRORS, RISES_FALL_ERRORS = 2.5, 2
# A held-out gain below this share of the training gain counts as no gain. Memorising is then named at the evaluation
# after the best one or at the best itself; two rises in a row alone came up to 40 steps later.
NO_GAIN = 0.05
# Nats of two rises in a row: about two standard errors of an evaluation of nano on tales (0.004).
MIN_RISE = 0.01
# Nats above which a message says "risen" and not "not got better".
MENTIONED_RISE = 0.005
# The gap widens if held-out text gains less than this share, the gap is larger than MIN_GAP, and training has fallen by
# WIDENING_FALL nats and WIDENING_ERRORS standard errors. A default run (training -0.32, held-out -0.13, gap 0.94) does.
LITTLE_GAIN, MIN_GAP, WIDENING_FALL, WIDENING_ERRORS = 0.5, 0.1, 0.2, 3
# A gap this many nats below its widest is narrowing. Means of 10 steps of default runs deviate by up to 0.10.
NARROWED = 0.1
# Nats above which a gap that does not widen is worth a note. Rule of thumb.
LARGE_GAP = 0.3
# Nats by which the last evaluation may be above the best: less is noise. Over seeds, evaluations of default runs
# deviate by up to 0.05.
WORSE_THAN_BEST = 0.02
# Standard errors and bits per byte by which a loss must be below the limit. Three standard errors below it happen once
# in 740 evaluations by chance.
LIMIT_ERRORS, LIMIT_MARGIN = 3, 0.001
# Dropout from which on advice does not suggest more: GPT-2's 0.1, and twice that on small texts. Rule of thumb.
DROPOUT_SMALL_DATA, DROPOUT = 0.2, 0.1


def check_memorising(log: RunLog) -> Finding | None:
    """Find an evaluation since which training has fallen clearly and the held-out loss has gained nothing."""
    points = log.gap_points
    start = _memorising_since(points)
    if start is None:
        return None
    best, now = min(points, key=lambda p: p.held), points[-1]
    steps, change = now.step - start.step, now.held - start.held
    moved = f"has risen by {change:.3f}" if change > MENTIONED_RISE else "has not improved"
    message = (
        f"The model is overfitting (memorising the training text): for {steps:,} steps the held-out loss {moved} "
        f"({start.held:.3f} to {now.held:.3f}), while the training loss fell from {start.train:.3f} to {now.train:.3f}."
    )
    dropout = "" if log.run.model.dropout >= DROPOUT_SMALL_DATA else " or dropout 0.2"
    kept = f"; the best model is from step {best.step:,} and is kept" if best.step < now.step else ""
    stop = "Use" if log.is_over else "Stop here, or use"
    return Finding("bad", message, f"{stop} more text{dropout}{kept}.", start.step)


def _memorising_since(points: Sequence[GapPoint]) -> GapPoint | None:
    """Return the evaluation from which memorising shows: the best one if it does from there, else the earliest.

    Two rises in a row while training falls are enough as well.
    """
    if len(points) < 2:
        return None
    now, best = points[-1], min(points, key=lambda p: p.held)
    # The best evaluation so far is no sign of overfitting, even if the loss had risen before.
    if now.held < min(p.held for p in points[:-1]) - MENTIONED_RISE:
        return None
    for start in (best, *points[:-1]):
        fall = start.train - now.train
        clear = max(MIN_FALL, MIN_FALL_ERRORS * math.hypot(now.noise, start.noise))
        if fall >= clear and start.held - now.held <= NO_GAIN * fall:
            return start
    if len(points) >= 3:
        a, b, c = points[-3:]
        clear = max(MIN_FALL / 2, RISES_FALL_ERRORS * math.hypot(a.noise, c.noise))
        if a.held < b.held < c.held and c.held - a.held > MIN_RISE and a.train - c.train >= clear:
            return a
    return None


def check_widening_gap(log: RunLog) -> Finding | None:
    """Find held-out text that gains less than half as much as the training text."""
    points = log.gap_points
    if len(points) < 3:
        return None
    now = points[-1]

    def has_fallen(p: GapPoint) -> bool:
        return p.train - now.train >= max(WIDENING_FALL, WIDENING_ERRORS * math.hypot(now.noise, p.noise))

    start = next((p for p in reversed(points[:-1]) if has_fallen(p)), None)
    if start is None:
        return None
    fall, gain = start.train - now.train, start.held - now.held
    widest = max(p.gap for p in points if p.step >= start.step)
    if now.gap < max(MIN_GAP, widest - NARROWED) or gain > LITTLE_GAIN * fall:
        return None
    held = f"the held-out loss by {gain:.2f}" if gain >= 0 else f"the held-out loss rose by {-gain:.2f}"
    message = (
        f"The gap to held-out text is widening: since step {start.step:,} the training loss fell by {fall:.2f} nats "
        f"and {held}; the gap is {now.gap:.2f} now."
    )
    dropout = " or dropout 0.1" if log.run.model.dropout < DROPOUT else ""
    return Finding("watch", message, f"More text{dropout} would help.", start.step)


def check_generalising(log: RunLog) -> Finding | None:
    """Report that the last held-out loss is the lowest, or within noise of it."""
    points = log.gap_points
    if len(points) < 2:
        return None
    now, before = points[-1], min(points[:-1], key=lambda p: p.held)
    if now.held > before.held + WORSE_THAN_BEST:
        return None
    gap = f"the gap between training ({now.train:.3f}) and held-out loss ({now.held:.3f}) is {now.gap:.2f} nats"
    if now.held < before.held:
        message = f"Training still helps on new text; {gap}."
    else:
        message = f"The held-out loss is as low as at step {before.step:,}, within noise; {gap}."
    if now.gap > LARGE_GAP:
        return Finding("info", message, "A longer text would narrow it.")
    return Finding("good" if now.held < before.held else "info", message)


def check_worse_than_best(log: RunLog) -> Finding | None:
    """Find a last evaluation that is clearly above the best one."""
    points = log.gap_points
    if len(points) < 2:
        return None
    best, now = min(points, key=lambda p: p.held), points[-1]
    if now.held <= best.held + WORSE_THAN_BEST:
        return None
    message = f"The held-out loss is {now.held - best.held:.3f} above its best, which was at step {best.step:,}."
    advice = "The best model of the run is from that step."
    if now.held < points[-2].held:
        advice += " The loss is falling again."
    elif not log.is_over:
        advice += " If it continues to rise, stop."
    return Finding("watch", message, advice, best.step)


def check_below_limit(log: RunLog) -> Finding | None:
    """Find an evaluation better than the true entropy of its text, which shows a bug."""
    for e in log.evals:
        if e.limit is None or e.bits_per_byte is None or e.loss <= 0:
            continue
        error = e.in_unit("bits_per_byte")[1] or 0.0
        if e.bits_per_byte < e.limit - max(LIMIT_ERRORS * error, LIMIT_MARGIN):
            message = (
                f"{e.bits_per_byte:.4f} bits/byte at step {e.step:,} is below the entropy of the text ({e.limit:.4f}), "
                "which is impossible."
            )
            advice = "That is a bug: the model sees the tokens that it has to predict, or the loss is wrong."
            return Finding("bad", message, advice, e.step)
    return None


def check_limit(log: RunLog) -> Finding | None:
    """Report the distance to the limit of a text whose true entropy is known."""
    last = log.last_eval
    if last is None or last.limit is None or last.bits_per_byte is None:
        return None
    limit = f"the limit of this text, {last.limit:.3f} (its entropy: no model can do better on average)"
    distance = last.bits_per_byte - last.limit
    if distance <= LIMIT_ERRORS * (last.in_unit("bits_per_byte")[1] or 0.0):
        return Finding("good", f"{last.bits_per_byte:.3f} bits/byte is within its error of {limit}.")
    return Finding("info", f"{distance:.3f} bits/byte above {limit}.")


def check_band(log: RunLog) -> Finding | None:
    """Compare with other seeds of this recipe, at the last point that both have."""
    band = log.band
    if band is None:
        return None
    held = {e.step: e.loss for e in log.evals}
    train = {step: log.curve.mean(i) for i, step in enumerate(log.curve.steps)}
    for points, losses, split in ((band.held_out, held, "held-out"), (band.train, train, "training")):
        point = next((p for p in reversed(points) if p.step in losses), None)
        if point is None:
            continue
        loss, position = losses[point.step], band.position(point, losses[point.step])
        expected = f"{point.mean:.3f} ± {band.half_width(point):.3f} expected of {band.name}"
        details = f"the {split} loss at step {point.step:,} is {loss:.3f}, {expected}"
        if abs(position) <= 1:
            return Finding("good", f"Inside the expected band: {details}.", since=point.step)
        if position < 0:
            message = f"Outside the expected band, on the better side: {details}."
            advice = "It is better than other seeds: was the text or the split changed?"
            return Finding("info", message, advice, point.step)
        advice = "The settings are those of the recipe: compare the machine, its number format and the versions."
        return Finding("watch", f"Outside the expected band: {details}.", advice, point.step)
    return None


RULES = (
    Rule("memorising", "gap", check_memorising, unless=("collapse",), order=30),
    Rule("below the limit", "loss", check_below_limit, order=40),
    Rule("widening gap", "gap", check_widening_gap, unless=("collapse", "memorising"), order=80),
    Rule("worse than its best", "gap", check_worse_than_best, unless=("collapse", "memorising"), order=90),
    Rule("expected band", "loss", check_band, order=150),
    Rule("generalising", "gap", check_generalising, unless=("collapse", "memorising", "widening gap"), order=160),
    Rule("limit", "loss", check_limit, unless=("below the limit",), order=180),
)
