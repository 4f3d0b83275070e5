"""Rules about where the training loss is going."""

from ..curve import MEAN_OF
from ..view import View
from .collapse import EARLY, gradients_faded
from .finding import Finding


def slow(view: View) -> Finding | None:
    """Hardly any learning, though the gradients are as large as at the start."""
    curve = view.curve
    i = len(curve) - 1
    if i < EARLY or i < view.past.run.train.warmup_steps + 20:
        return None
    fallen = curve.mean(4, 5) - curve.mean(i)
    if fallen > 0.12 * curve.mean(4, 5) or gradients_faded(view, i) or curve.mean(i) < 0.6 * view.uniform:
        return None
    lr = view.past.run.train.lr
    what = (
        f"After {curve.steps[i]:,} steps the loss has fallen by {fallen:.2f} nats only, while the gradients still pull."
    )
    return Finding("watch", what, f"The learning rate may be too low: try --lr {lr * 5:.2g} instead of {lr:.2g}.", 1)


def going(view: View) -> Finding | None:
    """Whether it would go on falling: the last fifth of the steps, and the fifth before, by their means."""
    curve = view.curve
    n = len(curve) // 5
    if n < MEAN_OF:
        return None
    last = len(curve) - 1
    now, before = curve.mean(last, n), curve.mean(last - n, n)
    fall, noise = before - now, 2 * curve.noise(last, n)
    over = view.is_over
    since = curve.steps[last - n]
    if fall > max(noise, 0.01 * now):
        what = f"The training loss is still falling: by {fall:.3f} nats over the last {n:,} steps."
        more = view.past.run.train.max_steps * 2
        advice = f"It has more to learn: train longer, as with --max-steps {more:,}." if over else ""
        return Finding("good", what, advice, since)
    if fall < -max(2 * noise, 0.02 * now):
        what = f"The training loss has risen by {-fall:.3f} nats over the last {n:,} steps."
        return Finding("watch", what, "Lower the learning rate if it goes on.", since)
    what = f"The training loss has levelled off: {fall:+.3f} nats over the last {n:,} steps."
    if over:
        return Finding("info", what, "More steps alone would change little; a larger model or more text may.", since)
    return Finding(
        "info", what, "If it stays so, a larger model, more text or another learning rate is the next lever.", since
    )
