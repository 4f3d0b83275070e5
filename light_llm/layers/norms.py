"""Norms over the last axis, by name: LayerNorm (Ba et al., 2016) and RMSNorm (Zhang and Sennrich, 2019)."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import ModelConfig


class RMSNorm(nn.Module):
    """y = g x / sqrt(mean(x^2) + eps): (..., size) -> (..., size), in float32 as LayerNorm is under autocast."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Each vector divided by its root mean square, times the gain."""
        if x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return cast(Tensor, _RMSNorm.apply(x, self.weight, self.eps))
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The formula, as written. The twin of the form with a gradient of its own, and twice differentiable."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * gain).to(gain.dtype)


class _RMSNorm(torch.autograd.Function):
    """With u = x / r, r the root mean square: dx = (g dy - u mean(g dy u)) / r and dg = sum of dy u.

    x and 1 / r are all that is kept; torch would keep four tensors of x's size on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1))
        scale = mean.add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, gain, scale)
        ctx.eps = eps
        return (wide * scale).mul_(gain).to(gain.dtype)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, gain, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient is to be differentiated itself, as curvature does
            needed = ctx.needs_input_grad[:2]  # of what is frozen there is none
            wanted = [part for part, need in zip((x, gain), needed, strict=True) if need]
            found = iter(torch.autograd.grad(rms_norm(x, gain, ctx.eps), wanted, d_y, create_graph=True))
            d_x, d_gain = (next(found) if need else None for need in needed)
            return d_x, d_gain, None
        u = (x if x.dtype == torch.float64 else x.float()) * scale
        d_gain = (d_y * u).flatten(0, -2).sum(dim=0)
        d_u = d_y * gain
        shared = (d_u * u).mean(dim=-1, keepdim=True)
        d_x = d_u.addcmul_(u, shared, value=-1).mul_(scale)
        return d_x.to(x.dtype), d_gain, None


NORMS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "layernorm": lambda config, size: nn.LayerNorm(size, config.norm_eps, bias=config.bias),
    "rmsnorm": lambda config, size: RMSNorm(size, config.norm_eps),
}


def make_norm(config: ModelConfig, size: int) -> nn.Module:
    """The norm that a config names, over vectors of a size."""
    return NORMS[config.norm](config, size)
