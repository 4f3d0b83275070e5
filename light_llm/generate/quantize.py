"""Weights in int8: half the bytes to read for every token, at the price of rounding each weight to 1/127 of its row's
largest."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import LightLLM
from .packed_linear import replace_linear_layers

LARGEST = 127  # symmetric: -128 is not used
WIDTH = 32  # the kernel reads this many weights at a time, and past the end of a row that is no multiple of it
MANY_ROWS = 128  # from here on it is faster to make bfloat16 weights of them at each call


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Per output channel and symmetric: (out, in) -> int8 (out, in), and the scale of each row, bfloat16 (out,).

    The scale is rounded before the weights are divided by it, so that its own rounding costs nothing.
    """
    scale = (weight.float().abs().amax(dim=1).clamp_min(1e-12) / LARGEST).bfloat16()
    rounded = (weight.float() / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST)
    return rounded.to(torch.int8).contiguous(), scale


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """The weights that int8 stands for, float32 (out, in)."""
    return weight.float() * scale.float()[:, None]


class Int8Linear(nn.Module):
    """x W^T + b with W (out, in) in int8: (..., in) -> (..., out) in x's number format; x is rounded to bfloat16.

    No gradients.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        stored, scale = quantize(weight)
        self.register_buffer("weight", stored)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.has_kernel = weight.size(1) % WIDTH == 0 and has_int8_kernel(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        rows = x.reshape(-1, x.size(-1))
        if not self.has_kernel or rows.size(0) >= MANY_ROWS:
            return self.plain(x)
        y = torch._weight_int8pack_mm(rows.bfloat16(), self.weight, self.scale).view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def plain(self, x: Tensor) -> Tensor:
        """The same from dequantised weights: for many rows, where there is no kernel, and to compare with."""
        weight = self.weight.to(torch.bfloat16) * self.scale[:, None]
        y = F.linear(x.bfloat16(), weight).to(x.dtype)
        return y if self.bias is None else y + self.bias


def has_int8_kernel(device: torch.device) -> bool:
    """Whether this torch multiplies by int8 weights on the CPU, and right: the call is one of torch's private ones."""
    if device.type != "cpu":
        return False
    x, weight = torch.ones(1, 32, dtype=torch.bfloat16), torch.ones(32, 32, dtype=torch.int8)
    try:
        found = torch._weight_int8pack_mm(x, weight, torch.ones(32, dtype=torch.bfloat16))
    except (RuntimeError, AttributeError):
        return False
    return bool((found == 32).all())


def quantize_int8(model: LightLLM) -> None:
    """Change a finished model's products to int8: every linear layer, and the head's. The tables stay as they are."""
    replace_linear_layers(model, Int8Linear)
