"""The random state of activation checkpointing: a block that is recomputed draws the same dropout masks again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import noop_context_fn

Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def preserve_rng(x: Tensor) -> Callable[[], Contexts]:
    """Return a `context_fn` for `torch.utils.checkpoint`: contexts for a block's first pass and its recomputation."""
    # torch restores the generators of the CPU and of CUDA itself, and those of other devices not
    # (pytorch/pytorch#127676). A compiled model accepts no other context_fn than this one.
    if x.is_cpu or x.is_cuda:
        return noop_context_fn
    return lambda: (nullcontext(), _RestoreRng(x.device))


class _RestoreRng:
    """Rewind the device's generator to its state at construction; leave it afterwards where it was on entry."""

    def __init__(self, device: torch.device) -> None:
        self.backend = torch.get_device_module(device)
        self.saved_state = self.backend.get_rng_state()

    def __enter__(self) -> None:
        self.current_state = self.backend.get_rng_state()
        self.backend.set_rng_state(self.saved_state)

    def __exit__(self, *error: object) -> None:
        self.backend.set_rng_state(self.current_state)
