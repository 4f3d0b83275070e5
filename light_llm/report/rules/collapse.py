"""The rule for collapse: after a bad update the model predicts little more than the frequency of each token."""

from bisect import bisect_right
from itertools import takewhile
from statistics import median

from ..coerce import drop_none
from ..curves import MEAN_STEPS, Curve
from ..log_rows import Probe
from ..run_log import RunLog
from . import Finding, Rule

# A loss has risen if its mean is this far above its best, in nats and as a share of the best. Over seeds, means of 10
# steps of default runs deviate by 0.10 nats at most.
RISE, RISE_SHARE = 0.5, 0.1
# The same in standard errors of a mean: the best of many means of a noisy loss is far below the others by chance.
RISE_ERRORS = 5
# Steps that a loss must stay up: more than the window of the mean, which a single spike fills.
RISEN_STEPS = 12
# A loss above this share of log V is called near it.
NEAR_UNIFORM = 0.9

# Effective rank of the residual stream. It is 2 or more in models that learn, once they have begun.
ONE_DIRECTION_RANK = 1.5
# Largest activation: below 30 in nano and micro that learn; at 30 times the learning rate, 1,000 by step 25 and 17,000
# by step 75.
BLOWN_UP = 300.0
# Steps for which low rank alone must last: healthy models with 50,257 tokens pass through it in their first 50 steps.
LOW_RANK_STEPS = 100
# Share of log V. A few huge features are usual in trained models, whose loss is below it.
HIGH_LOSS = 0.5

# Steps before which a loss that stands still is not judged. Default runs have lost 3.4 nats or more by then.
STUCK_AFTER = 50
# Share of log V that a loss reaches with token frequencies alone, about, if the vocabulary is small.
FREQUENCIES_ONLY = 0.75
# Nats by which a loss that learns falls, at least, while the steps double. From 100 to 200, default runs lose 0.6 to
# 1.2.
STUCK_FALL = 0.1
# The finding is withdrawn if the loss later falls by this share of what it was.
RECOVERED_SHARE = 0.1
# The rank of a model that tells tokens apart. Such a model is slow, not collapsed.
HEALTHY_RANK = 2
# A learning rate below this share of its peak, in warm-up or at the end, explains a loss that stands still.
LR_AT_WORK = 0.5
# Gradients have faded if their median norm is below this share of that of the first 5 steps. Rule of thumb.
FADED = 0.5


def check_collapse(log: RunLog) -> Finding | None:
    """Find a loss that rose and stayed up, a residual stream with one direction left, or a loss stuck near log V."""
    curve = log.curve
    return _diverged(log, curve) or _one_direction(log, curve) or _stuck(log, curve)


def gradients_faded(log: RunLog, step: int) -> bool:
    """Return whether the median gradient norm of the 21 steps up to this one is below half of that of the first 5.

    True if norms are missing. This tells a collapse from slow learning: weights that move too slowly still have large
    gradients.
    """
    norms, end = log.steps.grad_norm, bisect_right(log.steps.step, step)
    start, now = drop_none(norms[:5]), drop_none(norms[max(0, end - 21) : end])
    return not start or not now or median(now) < FADED * median(start)


def _diverged(log: RunLog, curve: Curve) -> Finding | None:
    """Find a mean loss that rose above its best and stayed there."""
    best, best_step, risen_since = float("inf"), 0, -1
    for i in range(len(curve)):
        mean = curve.mean(i)
        if i + 1 >= MEAN_STEPS and mean < best:
            best, best_step = mean, curve.steps[i]
        has_risen = mean > best + max(RISE, RISE_SHARE * best)
        if has_risen and risen_since < 0:  # estimated only where it matters, as it takes a median
            has_risen = mean > best + RISE_ERRORS * curve.noise(i)
        risen_since = (risen_since if risen_since >= 0 else i) if has_risen else -1
    last = len(curve) - 1
    if risen_since < 0 or last - risen_since < RISEN_STEPS:
        return None
    since, now, uniform = curve.steps[risen_since], curve.mean(last), log.uniform_loss
    near = f", near log V = {uniform:.2f}, the loss of uniform guessing" if now > NEAR_UNIFORM * uniform else ""
    message = (
        f"Training has collapsed: the loss rose from {best:.2f} (step {best_step:,}) to {now:.2f}{near}, and has "
        f"stayed up since step {since:,}."
    )
    return Finding("bad", message, _lower_the_rate(log), since)


def _one_direction(log: RunLog, curve: Curve) -> Finding | None:
    """Find a residual stream that is spoilt while the loss is high.

    Blown-up activations count from the second probe on. Low rank alone must last longer, because models with a large
    vocabulary pass through it at the start.
    """
    uniform = log.uniform_loss
    if not log.probes or not len(curve) or curve.mean(len(curve) - 1) < HIGH_LOSS * uniform:
        return None
    spoilt = list(takewhile(lambda p: _rank(p) < ONE_DIRECTION_RANK or _largest(p) >= BLOWN_UP, reversed(log.probes)))
    if len(spoilt) < 2:
        return None
    now, since = spoilt[0], spoilt[-1].step
    blown_up = all(_largest(probe) >= BLOWN_UP for probe in spoilt[:2])
    if not blown_up and now.step - since < LOW_RANK_STEPS:
        return None
    sign = "activations have blown up" if blown_up else "the residual stream has about one direction left"
    message = (
        f"Training has collapsed: since step {since:,} {sign} (largest activation {_largest(now):,.0f}, effective rank "
        f"{_rank(now):.1f}), and the loss is {curve.mean(len(curve) - 1):.2f}; uniform guessing gives log V = "
        f"{uniform:.2f}."
    )
    return Finding("bad", message, _lower_the_rate(log), since)


def _largest(probe: Probe) -> float:
    """Return the largest activation of any layer; 0 if it was not measured."""
    return max(drop_none(probe.vector("stream.largest")), default=0.0)


def _rank(probe: Probe) -> float:
    """Return the largest effective rank in the upper half of the layers; infinity if it was not measured."""
    ranks = probe.vector("stream.effective_rank")
    return max(drop_none(ranks[len(ranks) // 2 :]), default=float("inf"))


def _stuck(log: RunLog, curve: Curve) -> Finding | None:
    """Find a loss that stands still near log V with faded gradients, from the first step where that shows."""
    rates = dict(zip(log.steps.step, log.steps.lr, strict=True))
    peak, last, uniform = log.run.train.lr, len(curve) - 1, log.uniform_loss
    if HEALTHY_RANK < _rank(log.probe) < float("inf"):
        return None
    for i in range(STUCK_AFTER, len(curve)):
        mean, rate = curve.mean(i), rates.get(curve.steps[i])
        at_work = rate is None or rate >= LR_AT_WORK * peak
        stands = mean > FREQUENCIES_ONLY * uniform and curve.mean(i // 2) - mean < STUCK_FALL
        if not (stands and at_work):
            continue
        if mean - curve.mean(last) > RECOVERED_SHARE * mean or not gradients_faded(log, curve.steps[i]):
            return None
        start = next(j for j in range(MEAN_STEPS - 1, len(curve)) if curve.mean(j) < mean + STUCK_FALL)
        since = curve.steps[start]
        message = (
            f"Training has collapsed: since step {since:,} the loss has stayed at about {curve.mean(last):.2f} "
            f"(log V = {uniform:.2f}), about what token frequencies alone give, and the gradients have become small."
        )
        return Finding("bad", message, _lower_the_rate(log), since)
    return None


def _lower_the_rate(log: RunLog) -> str:
    lr, warmup = log.run.train.lr, log.run.train.warmup_steps
    return (
        f"Start again with a lower learning rate (--lr {lr / 10:.2g} instead of {lr:.2g}), or a longer warm-up than "
        f"{warmup} steps: a collapsed model seldom recovers."
    )


RULES = (Rule("collapse", "loss", check_collapse, order=10),)
