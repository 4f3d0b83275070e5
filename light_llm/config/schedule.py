"""Learning-rate schedules: multiples of the peak rate as pure functions of the step, and the rate of a step.

They are defined here, and re-exported by `optim/`, because `TrainConfig` takes the allowed names from SCHEDULES and
must not import torch. A new schedule is a function and its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .train import TrainConfig

DECAY = 0.4  # of the steps of `wsd`, at its end
MAX_DROP = 0.5  # of the rate from one step to the next that `rate_notes` does not mention


def warmup_cosine(step: int, *, warmup: int, horizon: int, floor: float = 0.1) -> float:
    """Rise linearly from 1 / warmup to 1 over the warm-up, then follow half a cosine down to `floor` at the horizon.

    (Loshchilov and Hutter, 2017, equation 5, with one cycle.) Beyond the horizon it stays at `floor`.

    >>> [round(warmup_cosine(s, warmup=10, horizon=110), 2) for s in (0, 4, 9, 10, 60, 110, 500)]
    [0.1, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    # Step 0 is the first update: it gets 1 / warmup and not 0, so that no step is wasted.
    if step < warmup:
        return (step + 1) / warmup
    if step >= horizon:
        return floor
    progress = (step - warmup) / max(1, horizon - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, *, warmup: int, horizon: int, floor: float = 0.1) -> float:
    """Rise linearly to 1, stay there, and fall linearly to `floor` over the last 40% (Hu et al., 2024).

    The same as the cosine at both ends. In between the rate does not depend on the horizon, so a run can be extended.

    >>> [round(warmup_stable_decay(s, warmup=10, horizon=100, floor=0.0), 2) for s in (0, 9, 10, 60, 80, 100, 500)]
    [0.1, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    decay = max(1.0, DECAY * horizon)
    left = min(1.0, max(0.0, (horizon - step) / decay))
    return floor + (1 - floor) * left


SCHEDULES: dict[str, Callable[..., float]] = {"cosine": warmup_cosine, "wsd": warmup_stable_decay}


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of an update, by the schedule that a config names."""
    schedule, horizon = SCHEDULES[config.schedule], config.lr_horizon or config.max_steps
    return config.lr * schedule(step, warmup=config.warmup_steps, horizon=horizon, floor=config.min_lr_ratio)


def rate_notes(config: TrainConfig, *, resumed: bool = False) -> list[str]:
    """Return what the rate of a run does that its settings do not suggest, evaluated from the schedule itself.

    Args:
        resumed: the warm-up can no longer be changed.

    >>> from .train import TrainConfig
    >>> rate_notes(TrainConfig(max_steps=500, warmup_steps=50))
    []
    >>> rate_notes(TrainConfig(max_steps=20, warmup_steps=50, lr=1.5e-3))[0].partition(":")[2]
    ' it rises to 6.0e-04 at the last step and never reaches {--lr 0.0015}; a tenth of the run is {--warmup-steps 2}'
    """
    steps, warmup, horizon = config.max_steps, config.warmup_steps, config.lr_horizon or config.max_steps

    def rate(number: int) -> float:
        return learning_rate(number - 1, config)  # of update number 1, 2, 3 ...

    if warmup >= steps:
        reach = "never reaches" if warmup > steps else "does not fall after it reaches"
        advice = "" if resumed else f"; a tenth of the run is {{--warmup-steps {max(1, steps // 10)}}}"
        return [
            f"the learning rate warms up for {warmup:,} steps, and the run ends at step {steps:,}: "
            f"it rises to {rate(steps):.1e} at the last step and {reach} {{--lr {config.lr:g}}}{advice}"
        ]
    notes = []
    if horizon < steps:
        last = max(horizon, warmup) + 1
        rises = f", keeps rising to {rate(warmup):.1e} until step {warmup:,}," if warmup > horizon else ""
        notes.append(
            f"the learning-rate schedule ends at step {horizon:,}: the rate{rises} is {rate(last):.1e} "
            f"from step {last:,} on; {{--set train.lr_horizon={steps}}} stretches the schedule to the whole run"
        )
    elif warmup and rate(warmup + 1) < MAX_DROP * rate(warmup):
        notes.append(
            f"the learning rate drops from {rate(warmup):.1e} to {rate(warmup + 1):.1e} after its warm-up of "
            f"{warmup:,} steps: the schedule already falls by then; fewer {{--warmup-steps}} avoid this"
        )
    return notes
