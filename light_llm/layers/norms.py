"""Norms over the last axis, by name: LayerNorm (Ba et al., 2016) and RMSNorm (Zhang and Sennrich, 2019)."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .tiling import can_use_custom_gradients


class RMSNorm(nn.Module):
    """y = g x / sqrt(mean(x^2) + eps): (..., size) -> (..., size), in float32, as LayerNorm under autocast."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Divide each vector by its root mean square and multiply it by the gain."""
        return _fast_rms_norm(x, self.weight, self.eps)


def _fast_rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    if x.is_cpu and torch.is_grad_enabled() and can_use_custom_gradients():
        return cast(Tensor, _RMSNorm.apply(x, gain, eps))
    return rms_norm(x, gain, eps)


def widen(x: Tensor) -> Tensor:
    """Return x in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Compute RMSNorm as written: the reference of `_RMSNorm`, and twice differentiable."""
    wide = widen(x)
    return (wide * (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * gain).to(gain.dtype)


class RMSNorm1p(RMSNorm):
    """y = (1 + w) x / sqrt(mean(x^2) + eps), w 0 at first: Gemma's, where weight decay would draw the gain to 1."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        nn.init.zeros_(self.weight)

    def gain(self) -> Tensor:
        """Return 1 + w, (size,), in float32 or wider: in bfloat16 the sum would lose most of w."""
        return 1 + widen(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Divide each vector by its root mean square and multiply it by the gain."""
        return _fast_rms_norm(x, self.gain(), self.eps).to(self.weight.dtype)


class _RMSNorm(torch.autograd.Function):
    """With u = x / r, r the root mean square: dx = (g dy - u mean(g dy u)) / r and dg = sum of dy u.

    Saves x and 1 / r alone; autograd would save four tensors of x's size on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = widen(x)
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1))
        scale = mean.add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, gain, scale)
        ctx.eps = eps
        return (wide * scale).mul_(gain).to(gain.dtype)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, gain, scale = ctx.saved_tensors
        # Gradients are enabled here only if this gradient is to be differentiated itself, as for curvature.
        if torch.is_grad_enabled():
            needed = ctx.needs_input_grad[:2]  # a frozen input has no gradient
            inputs = [part for part, need in zip((x, gain), needed, strict=True) if need]
            gradients = iter(torch.autograd.grad(rms_norm(x, gain, ctx.eps), inputs, d_y, create_graph=True))
            d_x, d_gain = (next(gradients) if need else None for need in needed)
            return d_x, d_gain, None
        u = widen(x) * scale
        d_gain = (d_y * u).flatten(0, -2).sum(dim=0)
        d_u = d_y * gain
        mean = (d_u * u).mean(dim=-1, keepdim=True)
        d_x = d_u.addcmul_(u, mean, value=-1).mul_(scale)
        return d_x.to(x.dtype), d_gain, None


NORMS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "layernorm": lambda config, size: nn.LayerNorm(size, config.norm_eps, bias=config.bias),
    "rmsnorm": lambda config, size: RMSNorm(size, config.norm_eps),
    "rmsnorm1p": lambda config, size: RMSNorm1p(size, config.norm_eps),
}


def make_norm(config: ModelConfig, size: int) -> nn.Module:
    """Build the norm that a config names, over vectors of the given size."""
    return NORMS[config.norm](config, size)
