"""The learning rate as a multiple of its peak."""

import math

from ..config import TrainConfig

DECAY = 0.4  # of the steps of `wsd`, at its end


def warmup_cosine(step: int, *, warmup: int, horizon: int, floor: float = 0.1) -> float:
    """Linear from 0 to 1 over the warm-up, then half a cosine down to `floor` at the horizon, and `floor` beyond.

    Step 0 is the first update: it gets 1 / warmup, not 0, so that no step is wasted. (Loshchilov and Hutter, 2017,
    equation 5, with one cycle.)

    >>> [round(warmup_cosine(s, warmup=10, horizon=110), 2) for s in (0, 4, 9, 10, 60, 110, 500)]
    [0.1, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    if step < warmup:
        return (step + 1) / warmup
    if step >= horizon:
        return floor
    progress = (step - warmup) / max(1, horizon - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, *, warmup: int, horizon: int, floor: float = 0.1) -> float:
    """Linear warm-up, then 1, then down in a line to `floor` over the last 40% (Hu et al., 2024).

    The same as the cosine at both ends. In between the rate does not depend on the horizon, so a run can be prolonged.

    >>> [round(warmup_stable_decay(s, warmup=10, horizon=100, floor=0.0), 2) for s in (0, 9, 10, 60, 80, 100, 500)]
    [0.1, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    decay = max(1.0, DECAY * horizon)
    left = min(1.0, max(0.0, (horizon - step) / decay))
    return floor + (1 - floor) * left


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of an update, by the schedule a config names."""
    shape = warmup_stable_decay if config.schedule == "wsd" else warmup_cosine
    horizon = config.lr_horizon or config.max_steps
    return config.lr * shape(step, warmup=config.warmup_steps, horizon=horizon, floor=config.min_lr_ratio)
