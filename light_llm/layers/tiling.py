"""Helpers of the layers with custom gradients: ranges of rows, autocast's number format, and opting out of autocast."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def row_ranges(n: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most `size` of n rows."""
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the format in which products of x are made: autocast's where it is enabled, x's own otherwise."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def without_autocast(function: Callable[..., R]) -> Callable[..., R]:
    """Wrap a function so that it runs without autocast, on the device of its first tensor argument.

    Under autocast, sums and softmaxes would make float32 copies of their arguments.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapper
