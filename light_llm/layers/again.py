"""A block that is computed again draws what it drew before."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import noop_context_fn

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def same_draws(x: Tensor) -> Callable[[], Contexts]:
    """For `torch.utils.checkpoint`: contexts for a block's first pass and for the one that computes it again.

    torch puts back the generators of the CPU and of CUDA by itself, and those of other devices not
    (pytorch/pytorch#127676).
    """
    if x.is_cpu or x.is_cuda:
        return noop_context_fn  # the one that a compiled model may be given
    return lambda: (nullcontext(), _SameDraws(x.device))


class _SameDraws:
    """Inside, the device's generator is where it was when this was made; afterwards where it had come to."""

    def __init__(self, device: torch.device) -> None:
        self.of_device = torch.get_device_module(device)
        self.then = self.of_device.get_rng_state()

    def __enter__(self) -> None:
        self.now = self.of_device.get_rng_state()
        self.of_device.set_rng_state(self.then)

    def __exit__(self, *error: object) -> None:
        self.of_device.set_rng_state(self.now)
