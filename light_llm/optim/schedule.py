"""The learning rate as a multiple of its peak."""

import math


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
