"""Helpers of the layers with custom gradients: when to use them, ranges of rows, and autocast's number format."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def is_transformed() -> bool:
    """Return whether torch.func (grad, vmap, jvp ...) or torch.jit.trace reads the code here: it needs the formula.

    They have no rule for the layers' own gradients, and some none for the fused attention kernel.
    """
    # torch.compile knows what to do with both, and does not know this query.
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None


def can_use_custom_gradients() -> bool:
    """Return whether a layer may use an `autograd.Function` here; torch.compile fuses the formula itself."""
    return not (torch.compiler.is_compiling() or is_transformed())


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
