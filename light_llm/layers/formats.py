"""Number formats: what autocast would make of a product, and a function that makes its own choice."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def product_format(x: Tensor) -> torch.dtype:
    """The format in which the running autocast makes products of x; its own where none runs."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def as_given(function: Callable[..., R]) -> Callable[..., R]:
    """The function without autocast: sums and softmaxes take their arguments as they are, not copies in float32."""

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> R:
        kind = next(a.device.type for a in args if isinstance(a, Tensor))
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return plain
