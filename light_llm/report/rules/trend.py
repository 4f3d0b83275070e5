"""Rules about the direction of the training loss."""

from ..curve import MEAN_STEPS
from ..run_log import RunLog
from . import Finding, Rule
from .collapse import STUCK_AFTER, gradients_faded

# Steps after the warm-up before which slow learning is not judged.
AFTER_WARMUP = 20
# Steps whose mean is the loss at the start.
START_STEPS = 5
# Learning is slow if the loss has fallen by less than this share and is above this share of log V. Default runs have
# lost a third or more of their first loss after 50 steps.
SLOW_FALL, SLOW_LOSS = 0.12, 0.6
# The trend compares the last 1/PARTS of the steps with as many before them.
PARTS = 5
# A change counts beyond 2 standard errors of the two means; a fall also beyond 1% of the loss. A rise must be twice as
# clear, because a schedule that ends or harder text also raises a mean.
CLEAR_ERRORS, CLEAR_FALL, CLEAR_RISE, RISE_FACTOR = 2, 0.01, 0.02, 2


def check_slow(log: RunLog) -> Finding | None:
    """Find a loss that has hardly fallen while gradients are as large as at the start."""
    curve = log.curve
    i = len(curve) - 1
    if i < STUCK_AFTER or i < log.run.train.warmup_steps + AFTER_WARMUP:
        return None
    start, now, lr = curve.mean(START_STEPS - 1, START_STEPS), curve.mean(i), log.run.train.lr
    fall = start - now
    if fall > SLOW_FALL * start or gradients_faded(log, i) or now < SLOW_LOSS * log.uniform_loss:
        return None
    message = (
        f"After {curve.steps[i]:,} steps the loss has fallen by {fall:.2f} nats only, while the gradients still pull."
    )
    return Finding("watch", message, f"The learning rate may be too low: try --lr {lr * 5:.2g} instead of {lr:.2g}.", 1)


def check_trend(log: RunLog) -> Finding | None:
    """Report whether the training loss still falls, has levelled off, or rises."""
    curve = log.curve
    n = len(curve) // PARTS
    if n < MEAN_STEPS:
        return None
    last = len(curve) - 1
    now, before = curve.mean(last, n), curve.mean(last - n, n)
    fall, noise = before - now, CLEAR_ERRORS * curve.noise(last, n)
    since = curve.steps[last - n]
    if fall > max(noise, CLEAR_FALL * now):
        message = f"The training loss is still falling: by {fall:.3f} nats over the last {n:,} steps."
        more = log.run.train.max_steps * 2
        advice = f"It has more to learn: train longer, as with --max-steps {more:,}." if log.is_over else ""
        return Finding("good", message, advice, since)
    if fall < -max(RISE_FACTOR * noise, CLEAR_RISE * now):
        message = f"The training loss has risen by {-fall:.3f} nats over the last {n:,} steps."
        return Finding("watch", message, "Lower the learning rate if it goes on.", since)
    message = f"The training loss has levelled off: {fall:+.3f} nats over the last {n:,} steps."
    if log.is_over:
        advice = "More steps alone would change little; a larger model or more text may."
    else:
        advice = "If it stays so, a larger model, more text or another learning rate is the next lever."
    return Finding("info", message, advice, since)


RULES = (
    Rule("hardly learning", "loss", check_slow, unless=("collapse",), order=100),
    Rule(
        "trend",
        "loss",
        check_trend,
        unless=("collapse", "memorising", "widening gap", "worse than its best"),
        order=170,
    ),
)
