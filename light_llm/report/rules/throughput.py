"""Rules about speed: time spent waiting for data, use of the machine, steadiness."""

from statistics import median_high

from ..coerce import drop_none, mean_of
from ..run_log import RunLog
from . import Finding, Rule, last_since

# Share of the time of the steps. Reading a batch takes 0.01% of a step of nano.
DATA_SHARE, MOSTLY_DATA = 0.15, 0.5
# MFU below which a larger batch is suggested. Rule of thumb.
LOW_MFU = 0.15
# Steps before which speed is not judged. The first WARM_STEPS are slow while caches and the allocator fill.
SPEED_AFTER, WARM_STEPS, RECENT = 60, 10, 20
# A step is slow below this share of the usual speed. With other programs running, the same step varied between 1,040
# and 1,670 tokens/s within an hour.
SLOWER = 0.6
# Share of slow or fast steps from which the speed varies; share of the usual speed below which the mean is mentioned.
MANY_STEPS, MEAN_SHARE = 0.05, 0.9
SLOW_READING = "The folder of texts is on a slow disk (LIGHT_LLM_CACHE moves it), or your own loader is slow."
OTHER_PROGRAM = "Was another program running, was the machine hot, or was it suspended?"


def check_data_wait(log: RunLog) -> Finding | None:
    """Report the share of the time spent waiting for data."""
    seconds = {name: sum(drop_none(values)) for name, values in log.steps.phases.items()}
    total, data = sum(seconds.values()), seconds.get("data")
    if total <= 0 or data is None:
        return None
    share = data / total
    message = f"The machine waits for data {100 * share:.1f}% of the time."
    if share > DATA_SHARE:
        return Finding("bad" if share > MOSTLY_DATA else "watch", message, SLOW_READING)
    return Finding("good", message)


def check_mfu(log: RunLog) -> Finding | None:
    """Report the share of the machine's matrix multiplications per second that training reaches, over all steps."""
    mfu = mean_of(log.steps.mfu)
    if mfu is None:
        return None
    message = f"Training does {100 * mfu:.0f}% of the matrix multiplications per second that this machine can do (MFU)."
    if mfu < LOW_MFU:
        return Finding("watch", message, "A larger --batch-size or a longer --max-length uses more, if memory allows.")
    return Finding("good", message)


def check_speed(log: RunLog) -> Finding | None:
    """Judge the speed over the whole run: a drop or a rise that lasts to the end, swings, or steadiness."""
    pairs = [(s, v) for s, v in zip(log.steps.step, log.steps.tok_per_sec, strict=True) if v is not None][WARM_STEPS:]
    if len(pairs) < SPEED_AFTER - WARM_STEPS:
        return None
    speeds = [speed for _, speed in pairs]
    usual, before, now = (median_high(part) for part in (speeds, speeds[: len(speeds) // 2], speeds[-RECENT:]))
    mean = log.tokens_per_second or usual  # the number at the head of the report
    on_average = f"on average {mean:,.0f}"
    # The mean can be below both medians, because slow steps take more of the time.
    medians = f"medians; the mean of the whole run is {mean:,.0f}"
    if now < SLOWER * before:
        since = last_since([step for step, _ in pairs], [speed < SLOWER * before for speed in speeds])
        message = f"The speed has dropped from {before:,.0f} to {now:,.0f} tokens/s ({medians})."
        return Finding("watch", message, OTHER_PROGRAM, since)
    if now > before / SLOWER:
        message = f"The speed has risen from {before:,.0f} to {now:,.0f} tokens/s ({medians})."
        return Finding("info", message, OTHER_PROGRAM)
    slow = [step for step, speed in pairs if speed < SLOWER * usual]
    fast = [step for step, speed in pairs if speed > usual / SLOWER]
    if len(slow) + len(fast) > MANY_STEPS * len(pairs):
        steps, limit = (
            (slow, f"less than {SLOWER:g}") if len(slow) >= len(fast) else (fast, f"more than {1 / SLOWER:.1f}")
        )
        message = (
            f"The speed varies: {len(steps):,} of {len(pairs):,} steps (between {steps[0]:,} and {steps[-1]:,}) ran at "
            f"{limit} times the usual {usual:,.0f} tokens/s ({on_average})."
        )
        return Finding("watch", message, OTHER_PROGRAM)
    if mean < MEAN_SHARE * usual:
        message = f"Most steps ran at about {usual:,.0f} tokens/s; a few slow ones lower the average to {mean:,.0f}."
        return Finding("info", message, OTHER_PROGRAM)
    return Finding("good", f"The speed is steady at about {usual:,.0f} tokens/s ({on_average}).")


RULES = (
    Rule("data", "phases", check_data_wait, order=250),
    Rule("use of the machine", "mfu", check_mfu, order=260),
    Rule("speed", "speed", check_speed, order=270),
)
