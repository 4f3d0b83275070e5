"""Dropout (Srivastava et al., 2014) whose random bits cost little on a CPU.

torch draws one number of its generator for each element there. A 64-bit number of the same generator decides four
elements here, each by 16 bits: so p is a multiple of 1 / 65,536, and what is kept is scaled by exactly that p.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """`nn.Dropout`, with cheaper bits on a CPU. Off when evaluating, as there."""

    def forward(self, x: Tensor) -> Tensor:
        """Each element 0 with probability p, or itself / (1 - p): any shape."""
        if not self.training or not self.p or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return drop(x, self.p)


def drop(x: Tensor, p: float) -> Tensor:
    """x with each element 0 with probability p, the others divided by 1 - p, by torch's own CPU generator."""
    level = round(p * LEVELS)
    return cast(Tensor, _Drop.apply(x, dropped(x.shape, level), LEVELS / (LEVELS - level)))


def dropped(shape: torch.Size, level: int) -> Tensor:
    """True with probability level / 65,536, independently: a bool tensor of that shape."""
    n = shape.numel()
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(1 << 63), None)
    return (words.view(torch.int16)[:n] < level - LEVELS // 2).view(shape)


class _Drop(torch.autograd.Function):
    """y = x scale where nothing is dropped: only the mask is kept, a byte an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gone: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(gone)
        ctx.scale = scale
        return (x * scale).masked_fill_(gone, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None]:
        (gone,) = ctx.saved_tensors
        return (d_y * ctx.scale).masked_fill_(gone, 0.0), None, None
