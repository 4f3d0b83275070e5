"""The predicted time of a step: from the profile of this machine, corrected by runs that were not disturbed.

Two corrections, both from the last such run of at least MIN_STEPS steps:

1.  the same step (model, batch, window, number format ...) takes what it took last time;
2.  a profile whose prediction was wrong by more than MAX_ERROR is scaled by that ratio for all other steps.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

from ..config import TrainConfig
from ..runtime.machine_cache import (
    disturbed_measurements,
    forget_measurements,
    machine_key,
    read_measurements,
    store_measurements,
)
from ..runtime.timing import MIN_PROCESSOR_SHARE, is_busy
from .memory_model import StepShape
from .profile import Profile, is_disturbed, is_known, profile
from .time_model import step_seconds, update_seconds

MIN_STEPS, MIN_SECONDS = 10, 2.0  # of a run that corrects predictions
# Predictions from a good profile were within 25% (docs/plan.md); a factor of 1.5 means that the profile is wrong.
MAX_ERROR = 1.5
STEP, RATIO = "step ", "measured / predicted steps "  # how the keys of the two corrections begin
MEASURED, BUSY, LAST_RUN, CORRECTED = "measured", "busy", "last run", "corrected"  # where a prediction comes from


@dataclass(frozen=True)
class Speed:
    """The profile of this machine, a factor for all its times, and where the predictions come from."""

    profile: Profile
    factor: float = 1.0
    source: str = MEASURED


def find_speed(shape: StepShape, train: TrainConfig) -> Speed:
    """Return the speed that predicts a step best; measures this machine if it was not measured before."""
    device, dtype, model = train.device, train.dtype, shape.model
    parts, known = profile(device, dtype, model), read_measurements()
    if last := known.get(_step_key(shape, train)):
        return Speed(parts, last / step_seconds(shape, parts), LAST_RUN)
    if is_disturbed(device, dtype, model):
        return Speed(parts, 1.0, BUSY)
    ratio = known.get(_ratio_key(train), 1.0)
    return Speed(parts, ratio, MEASURED if ratio == 1.0 else CORRECTED)


def device_seconds(shape: StepShape, train: TrainConfig) -> tuple[float, float]:
    """Return the seconds of a micro-batch and of an update of all parameters, on this machine's device alone."""
    whole, speed = replace(shape, ranks=1, local=1, shards=1), find_speed(shape, train)
    update = speed.factor * update_seconds(whole, speed.profile)
    return (speed.factor * step_seconds(whole, speed.profile) - update) / whole.micro_batches, update


def record_steps(shape: StepShape, train: TrainConfig, seconds: Sequence[float], shares: Sequence[float]) -> bool:
    """Correct later predictions by the steps of a run, unless it was too short or disturbed. Returns whether it did.

    Args:
        seconds: of each step, without the first ones.
        shares: of the time since the step before in which the thread had a processor (`BusyMeter`).
    """
    if len(seconds) < MIN_STEPS or sum(seconds) < MIN_SECONDS or _was_disturbed(train.device, seconds, shares):
        return False
    step = median(seconds)
    numbers = {_step_key(shape, train): step}
    known = is_known(train.device, train.dtype, shape.model)
    if known and not is_disturbed(train.device, train.dtype, shape.model):
        ratio = step / step_seconds(shape, profile(train.device, train.dtype, shape.model))
        numbers[_ratio_key(train)] = 1.0 if 1 / MAX_ERROR < ratio < MAX_ERROR else ratio
    store_measurements(numbers)
    return True


def forget_speed() -> None:
    """Remove every profile and correction of this machine, so that the next plan measures it again."""
    numbers = disturbed_measurements() | read_measurements()
    forget_measurements([key for key in numbers if key.startswith(("profile ", STEP, RATIO)) and machine_key() in key])


def _was_disturbed(device: str, seconds: Sequence[float], shares: Sequence[float]) -> bool:
    """Return whether other programs slowed the steps down: by their processor time, or by their spread on a GPU."""
    first, _, third = quantiles(seconds, n=4)
    return is_busy((first, third)) or (device == "cpu" and median(shares) < MIN_PROCESSOR_SHARE)


def _step_key(shape: StepShape, train: TrainConfig) -> str:
    digest = hashlib.sha256(repr(shape).encode()).hexdigest()[:16]
    return f"{STEP}{digest} of {train.dtype} on {train.device}, seconds: {machine_key()}"


def _ratio_key(train: TrainConfig) -> str:
    return f"{RATIO}of {train.dtype} on {train.device}: {machine_key()}"
