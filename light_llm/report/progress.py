"""The progress of a run: its status in words, and an estimate of the time that is left."""

import math
from statistics import median

from ..text_format import format_duration
from .coerce import as_mapping, as_number, drop_none
from .liveness import seconds_since
from .run_log import RunLog

RECENT_STEPS = 20  # whose median is the time of a step
# A run counts as silent after this many seconds, or this many steps if they are longer.
SILENT_SECONDS, SILENT_STEPS = 30.0, 5
STATUS_WORDS = {"done": "done", "interrupted": "interrupted", "stopped": "stopped early"}
# What is done beside the steps, by its name in the plan, and the setting that says how often.
INTERVALS = {
    "evaluations": "eval_interval",
    "probes": "probe_interval",
    "saves": "save_interval",
    "samples": "sample_interval",
}


def seconds_left(log: RunLog) -> float | None:
    """Estimate the time until a run that trains now has ended, its last evaluation and save included.

    The steps are as fast as the last ones. The other work takes what the plan predicted, corrected by the measured over
    the predicted time of a step. None for a run that is over or has made no step.
    """
    recent = drop_none(log.steps.seconds[-RECENT_STEPS:])
    if log.is_over or not recent:
        return None
    train, step = log.run.train, median(recent)
    n = max(0, train.max_steps - log.last_step)
    left, planned = as_mapping(log.plan.get("left")), as_number(log.plan.get("step_seconds"))
    if not planned:
        return n * step
    planned_steps, others = round((as_number(left.get("steps")) or 0.0) / planned), 0.0
    for name, setting in INTERVALS.items():
        interval, seconds = getattr(train, setting), as_number(left.get(name))
        count = _occurrences(planned_steps, interval)
        if seconds and count:
            # The last step is made, but what follows it is not: until the run ends, once is left.
            others += seconds / count * max(1, _occurrences(n, interval))
    return n * step + others * step / planned


def silent_seconds(log: RunLog, now: float | None = None) -> float | None:
    """Return the time since the last row of a run that trains now; None if that is no longer than usual.

    Args:
        now: seconds since the epoch.
    """
    if log.is_over or log.updated is None or log.training_since is None:
        return None
    recent = drop_none(log.steps.seconds[-RECENT_STEPS:])
    usual = max(SILENT_SECONDS, SILENT_STEPS * median(recent) if recent else 0.0)
    last = max(log.updated, log.training_since)
    age = seconds_since(last) if now is None else now - last
    return age if age > usual else None


def status_line(log: RunLog, now: float | None = None) -> str:
    """Return the status of a run in words, such as "running: step 544 of 1,000, about 2 min left"."""
    status, at = log.status, f"step {log.last_step:,} of {log.run.train.max_steps:,}"
    if status == "running":
        silent, left = silent_seconds(log, now), seconds_left(log)
        at = at if log.last_step else "before its first step"
        if silent is not None:
            return f"running: {at}, no update for {_round_duration(silent)}"
        return f"running: {at}, about {_round_duration(left)} left" if left is not None else f"running: {at}"
    if not log.last_step:
        return "interrupted before its first step"
    if status == "done" and log.last_step >= log.run.train.max_steps:
        return "done"
    if status == "nonfinite":
        return f"stopped at {at}: the loss or its gradient was not finite"
    return f"{STATUS_WORDS.get(status, status)} at {at}"


def _round_duration(seconds: float) -> str:
    """Return a duration to 5 seconds, or to a minute.

    >>> [_round_duration(s) for s in (2, 43, 80, 100, 3580, 9000)]
    ['5 s', '45 s', '1 min', '2 min', '60 min', '2 h 30 min']
    """
    if seconds < 57.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds <= 3600 else format_duration(60 * round(seconds / 60))


def _occurrences(steps: int, interval: int) -> int:
    """Return how often something is done that is due at every multiple of an interval and at the last step."""
    return math.ceil(steps / interval) if interval else 0
