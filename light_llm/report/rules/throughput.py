"""Rules about speed: time spent waiting for data, use of the machine, steadiness."""

from statistics import median_high

from ..coerce import drop_none, mean_of
from ..run_log import RunLog
from . import Finding, Rule

# Share of the time of the steps. Reading a batch takes 0.01% of a step of nano.
DATA_SHARE, MOSTLY_DATA = 0.15, 0.5
# MFU below which a larger batch is suggested, over the last MFU_STEPS steps. Rule of thumb.
LOW_MFU, MFU_STEPS = 0.15, 200
# Steps before which speed is not judged. The first WARM_STEPS are slow while caches and the allocator fill.
SPEED_AFTER, WARM_STEPS, RECENT = 60, 10, 20
# The speed has dropped if it is below this share of what it was. With other programs running, the same step varied
# between 1,040 and 1,670 tokens/s within an hour.
SLOWER = 0.6
SLOW_READING = "The folder of texts is on a slow disk (LIGHT_LLM_CACHE moves it), or a loader of your own is slow."


def check_data_wait(log: RunLog) -> Finding | None:
    """Report the share of the time spent waiting for data."""
    seconds = {name: sum(drop_none(values)) for name, values in log.steps.phases.items()}
    total, data = sum(seconds.values()), seconds.get("data")
    if total <= 0 or data is None:
        return None
    share = data / total
    if share > DATA_SHARE:
        level = "bad" if share > MOSTLY_DATA else "watch"
        return Finding(level, f"The machine waits for data {100 * share:.0f}% of the time.", SLOW_READING)
    return Finding("good", f"Data takes {100 * share:.1f}% of the time: nothing waits for it.")


def check_mfu(log: RunLog) -> Finding | None:
    """Report the share of the machine's rate of matrix products that training reaches."""
    mfu = mean_of(log.steps.mfu[-MFU_STEPS:])
    if mfu is None:
        return None
    message = f"Training reaches {100 * mfu:.0f}% of the rate at which this machine multiplies matrices."
    if mfu < LOW_MFU:
        return Finding("watch", message, "Larger batches or a longer context fill it better, if memory allows.")
    return Finding("good", message)


def check_speed(log: RunLog) -> Finding | None:
    """Report whether the speed has dropped."""
    speeds = drop_none(log.steps.tok_per_sec)
    if len(speeds) < SPEED_AFTER:
        return None
    before, now = median_high(speeds[WARM_STEPS : len(speeds) // 2]), median_high(speeds[-RECENT:])
    if now < SLOWER * before:
        message = f"The speed has dropped from {before:,.0f} to {now:,.0f} tokens/s."
        return Finding("watch", message, "Is another program running, or is the machine hot?")
    return Finding("good", f"The speed is steady at about {now:,.0f} tokens/s.")


RULES = (
    Rule("data", "phases", check_data_wait, order=250),
    Rule("use of the machine", "mfu", check_mfu, order=260),
    Rule("speed", "speed", check_speed, order=270),
)
