"""Rules about the training loss: numbers that are not finite, spikes, slow learning, and its direction."""

import math
from statistics import median

from ...config.choices import OPTIMIZERS
from ..curves import MEAN_STEPS
from ..run_log import RunLog
from . import Finding, Rule
from .collapse import STUCK_AFTER, gradients_faded
from .learning_rate import HIGH_LR

# Number of losses whose median is the usual loss.
BEFORE = 20
# Steps before which the loss falls too fast for that median to mean anything.
SPIKES_AFTER = 30
# Robust standard deviations above the usual loss, as in `train.callbacks`; a share of the loss and a number of nats at
# least: where losses hardly differ, every batch would be a spike.
SPIKE_DEVIATIONS, SPIKE_SHARE, SPIKE_NATS = 8.0, 0.15, 0.3
# 1.4826 times the median absolute deviation estimates the standard deviation of a normal distribution.
MAD_TO_STD = 1.4826
# Losses less than this above the mean cannot be spikes. The mean is cheap; medians are computed only for the others.
MIN_JUMP = 0.15
# Steps within which two high losses are one spike.
SAME_SPIKE = 10
# More spikes than this are bad: each costs some of what was learned. Rule of thumb.
MAX_SPIKES = 10

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


def check_nonfinite(log: RunLog) -> Finding | None:
    """Find losses that are not finite, and a run that ended for one."""
    missing = [s for s, v in zip(log.steps.step, log.steps.loss, strict=True) if v is None]
    ended = log.status == "nonfinite"
    if not ended and not missing:
        return None
    since = log.last_step if ended else missing[0]
    if ended:
        message = f"The run stopped at step {log.last_step:,}, because the loss or its gradient was not finite."
    else:
        steps = "1 step" if len(missing) == 1 else f"{len(missing):,} steps"
        message = f"The loss was not finite at {steps}, first at step {missing[0]:,}."
    advice = (
        "Lower the learning rate, or train in float32; with --on-nonfinite rollback the run returns to its last "
        "checkpoint and continues."
    )
    return Finding("bad" if ended else "watch", message, advice, since)


def check_spikes(log: RunLog) -> Finding | None:
    """Find single batches with a loss far above those before them."""
    curve = log.curve
    high = []
    for i in range(SPIKES_AFTER, len(curve)):
        if curve.losses[i] < curve.mean(i - 1, BEFORE) + MIN_JUMP:
            continue
        before = curve.losses[i - BEFORE : i]
        usual = median(before)
        deviation = MAD_TO_STD * median(abs(v - usual) for v in before)
        if curve.losses[i] > usual + max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * usual, SPIKE_NATS):
            high.append(i)
    spikes = [i for n, i in enumerate(high) if n == 0 or i - high[n - 1] > SAME_SPIKE]
    if not spikes:
        return None
    first = curve.steps[spikes[0]]
    times = "once," if len(spikes) == 1 else f"{len(spikes)} times, first"
    message = f"The loss jumped {times} at step {first:,}."
    advice = (
        "If it recovers each time, continue; otherwise lower the learning rate or use --set train.on_spike=rollback."
    )
    return Finding("watch" if len(spikes) <= MAX_SPIKES else "bad", message, advice, first)


def check_slow(log: RunLog) -> Finding | None:
    """Find a loss that has hardly fallen while gradients are as large as at the start."""
    curve = log.curve
    i = len(curve) - 1
    if i < STUCK_AFTER or i < log.run.train.warmup_steps + AFTER_WARMUP:
        return None
    start, now, lr = curve.mean(START_STEPS - 1, START_STEPS), curve.mean(i), log.run.train.lr
    fall = start - now
    if fall > SLOW_FALL * start or gradients_faded(log, curve.steps[i]) or now < SLOW_LOSS * log.uniform_loss:
        return None
    change = f"fallen by only {fall:.2f}" if fall >= 0 else f"risen by {-fall:.2f}"
    message = (
        f"After {curve.steps[i]:,} steps the loss has {change} nats, although the gradients are as large as at the "
        "start."
    )
    if fall < 0 or (OPTIMIZERS[log.run.train.optimizer].is_adam and 5 * lr > HIGH_LR):
        advice = f"The learning rate ({lr:.2g}) is not too low: check the text and its tokens, or lower the rate."
    else:
        advice = f"The learning rate may be too low: try --lr {lr * 5:.2g} instead of {lr:.2g}."
    return Finding("watch", message, advice)


def check_trend(log: RunLog) -> Finding | None:
    """Report whether the training loss still falls, has levelled off, or rises."""
    curve = log.curve
    n = len(curve) // PARTS
    if n < MEAN_STEPS:
        return None
    last = len(curve) - 1
    now, before = curve.mean(last, n), curve.mean(last - n, n)
    fall, noise = before - now, CLEAR_ERRORS * math.hypot(curve.noise(last, n), curve.noise(last - n, n))
    over = f"over the last {n:,} steps"
    if fall > max(noise, CLEAR_FALL * now):
        message = f"The training loss is still falling: by {fall:.3f} nats {over}."
        return Finding("good", message, _train_longer(log))
    if fall < -max(RISE_FACTOR * noise, CLEAR_RISE * now):
        message = f"The training loss has risen by {-fall:.3f} nats {over}."
        advice = "Lower the learning rate." if log.is_over else "If it continues to rise, lower the learning rate."
        return Finding("watch", message, advice)
    if noise > CLEAR_FALL * now:
        message = f"The training loss has no clear trend: {-fall:+.3f} nats {over}, with a noise of ± {noise:.3f}."
        return Finding("info", message, "A larger --batch-size would make the curve smoother.")
    message = f"The training loss has levelled off: {-fall:+.3f} nats {over}."
    if log.is_over:
        advice = "More steps alone would change little; a larger model or more text may."
    else:
        advice = "If it stays level, try a larger model, more text or another learning rate."
    return Finding("info", message, advice)


def _train_longer(log: RunLog) -> str:
    """Return how to train longer, for a run that has ended."""
    if not log.is_over:
        return ""
    if log.last_step < log.run.train.max_steps:
        return "Continue it with --resume."
    return f"It has more to learn: train longer, for example with --resume --max-steps {log.run.train.max_steps * 2:,}."


RULES = (
    Rule("not finite", "loss", check_nonfinite, order=20),
    Rule("spikes", "loss", check_spikes, order=110),
    Rule("hardly learning", "loss", check_slow, unless=("collapse",), order=100),
    Rule(
        "trend",
        "loss",
        check_trend,
        unless=("collapse", "memorising", "widening gap", "worse than its best"),
        order=170,
    ),
)
