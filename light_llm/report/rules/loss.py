"""Rules about the loss of the training batches: what went wrong."""

from statistics import median

from ..view import View
from .finding import Finding

SPIKE = 8.0  # robust standard deviations above the losses before it, as the notice of the run has it


def nonfinite(view: View) -> Finding | None:
    """The run ended on a number that was none, or had losses that were none."""
    missing = [s for s, v in zip(view.steps.step, view.steps.loss, strict=True) if v is None]
    if view.status != "nonfinite" and not missing:
        return None
    since = missing[0] if missing else view.past.step
    if view.status == "nonfinite":
        what = f"The run ended at step {since:,}: a loss or gradient was no finite number."
    else:
        what = f"The loss was no finite number at {len(missing)} of the steps, first at step {since:,}."
    level = "bad" if view.status == "nonfinite" else "watch"
    return Finding(
        level, what, "Lower the learning rate, or train in float32; --on-nonfinite rollback goes back by itself.", since
    )


def spikes(view: View) -> Finding | None:
    """Single batches far above their neighbours."""
    curve = view.curve
    found = []
    for i in range(30, len(curve)):
        if curve.losses[i] < curve.mean(i - 1, 20) + 0.15:  # nearly all steps, and medians cost more
            continue
        before = curve.losses[i - 20 : i]
        middle = median(before)
        spread = 1.48 * median(abs(v - middle) for v in before)
        if curve.losses[i] > middle + max(SPIKE * spread, 0.15 * middle, 0.3):
            found.append(i)
    apart = [i for n, i in enumerate(found) if n == 0 or i - found[n - 1] > 10]
    if not apart:
        return None
    steps = [curve.steps[i] for i in apart]
    times = "once" if len(steps) == 1 else f"{len(steps)} times"
    what = f"The loss jumped {times}, first at step {steps[0]:,}."
    advice = "If it comes back by itself each time, go on; else lower the learning rate or set train.on_spike=rollback."
    return Finding("watch" if len(steps) <= 10 else "bad", what, advice, steps[0])
