"""The random state of activation checkpointing: a block that is recomputed draws the same dropout masks again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    backend = torch.get_device_module(x.device)
    return lambda: (nullcontext(), _restored_rng(backend, backend.get_rng_state()))


@contextmanager
def _restored_rng(backend: Any, state: Tensor) -> Iterator[None]:
    """Rewind the device's generator to a state inside the block; leave it afterwards where it was on entry."""
    current = backend.get_rng_state()
    backend.set_rng_state(state)
    try:
        yield
    finally:
        backend.set_rng_state(current)
