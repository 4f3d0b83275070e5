"""Dropout (Srivastava et al., 2014) with cheaper random bits on a CPU.

There, torch draws one number of its generator for each element. Here a 64-bit number of the same generator decides four
elements, each by 16 bits: so p is a multiple of 1 / 65,536, and the other elements are scaled by exactly that p.

With activation checkpointing, a block that is recomputed draws the same masks again: `preserve_rng`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .tiling import can_use_custom_gradients

LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """`nn.Dropout` with cheaper bits on a CPU. It too is off in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Set each element to 0 with probability p, or divide it by 1 - p: any shape."""
        # A compiled graph has torch's own, whose random bits it fuses into its kernels, and so have torch.func's.
        if not self.training or not self.p or x.device.type != "cpu" or not can_use_custom_gradients():
            return super().forward(x)
        return drop(x, self.p)


def drop(x: Tensor, p: float) -> Tensor:
    """Set each element to 0 with probability p and divide the others by 1 - p, by torch's own CPU generator."""
    n, level = x.numel(), round(p * LEVELS)
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(1 << 63), None)
    mask = (words.view(torch.int16)[:n] < level - LEVELS // 2).view(x.shape)  # True with probability level / LEVELS
    return cast(Tensor, _Drop.apply(x, mask, LEVELS / (LEVELS - level)))


class _Drop(torch.autograd.Function):
    """y = x scale, or 0 where the mask is True. Saves the mask alone, a byte per element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * scale).masked_fill_(mask, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (d_y * ctx.scale).masked_fill_(mask, 0.0), None, None


def preserve_rng(x: Tensor) -> dict[str, Any]:
    """Return keywords for `torch.utils.checkpoint`: contexts for a block's first pass and its recomputation."""
    # torch restores the generators of the CPU and of CUDA itself, and those of other devices not
    # (pytorch/pytorch#127676). A compiled model accepts no context_fn from here.
    if x.is_cpu or x.is_cuda:
        return {}
    backend = torch.get_device_module(x.device)
    return {"context_fn": lambda: (nullcontext(), _restored_rng(backend, backend.get_rng_state()))}


@contextmanager
def _restored_rng(backend: Any, state: Tensor) -> Iterator[None]:
    """Rewind the device's generator to a state inside the block; leave it afterwards where it was on entry."""
    current = backend.get_rng_state()
    backend.set_rng_state(state)
    try:
        yield
    finally:
        backend.set_rng_state(current)
