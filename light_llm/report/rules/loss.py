"""Rules about the training loss: numbers that are not finite, and spikes."""

from statistics import median

from ..run_log import RunLog
from . import Finding, Rule

# Number of losses whose median is the usual loss.
BEFORE = 20
# Steps before which the loss falls too fast for that median to mean anything.
SPIKES_AFTER = 30
# Robust standard deviations above the usual loss, as in `train.callbacks`; a share of the loss and a number of nats at
# least: where losses hardly differ, every batch would be a spike.
SPIKE_DEVIATIONS, SPIKE_SHARE, SPIKE_NATS = 8.0, 0.15, 0.3
# 1.48 times the median absolute deviation estimates the standard deviation of a normal distribution.
MAD_TO_STD = 1.48
# Losses less than this above the mean cannot be spikes. The mean is cheap; medians are computed only for the others.
MIN_JUMP = 0.15
# Steps within which two high losses are one spike.
SAME_SPIKE = 10
# More spikes than this are bad: each costs some of what was learned. Rule of thumb.
MAX_SPIKES = 10


def check_nonfinite(log: RunLog) -> Finding | None:
    """Find losses that are not finite, and a run that ended for one."""
    missing = [s for s, v in zip(log.steps.step, log.steps.loss, strict=True) if v is None]
    ended = log.status == "nonfinite"
    if not ended and not missing:
        return None
    since = missing[0] if missing else log.last_step
    if ended:
        message = f"The run ended at step {since:,}: a loss or gradient was no finite number."
    else:
        message = f"The loss was no finite number at {len(missing)} of the steps, first at step {since:,}."
    advice = "Lower the learning rate, or train in float32; --on-nonfinite rollback goes back by itself."
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
    times = "once" if len(spikes) == 1 else f"{len(spikes)} times"
    message = f"The loss jumped {times}, first at step {first:,}."
    advice = "If it comes back by itself each time, go on; else lower the learning rate or set train.on_spike=rollback."
    return Finding("watch" if len(spikes) <= MAX_SPIKES else "bad", message, advice, first)


RULES = (Rule("not finite", "loss", check_nonfinite, order=20), Rule("spikes", "loss", check_spikes, order=110))
