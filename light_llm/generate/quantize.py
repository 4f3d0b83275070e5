"""Int8 weights: half the bytes of bfloat16 to read for every token, rounded to 1/127 of each row's largest weight."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_INT8 = 127  # symmetric: -128 is not used
# The kernel reads this many weights at a time, and beyond the end of a row whose length is not a multiple of it.
KERNEL_WIDTH = 32
MANY_ROWS = 128  # from here on it is faster to dequantize the weights to bfloat16 at each call


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize per output channel, symmetrically: (out, in) -> int8 (out, in) and bfloat16 scales (out,)."""
    # The scale is rounded before the weights are divided by it, so that its own rounding adds no error.
    scale = (weight.float().abs().amax(dim=1).clamp_min(1e-12) / MAX_INT8).bfloat16()
    rounded = (weight.float() / scale.float()[:, None]).round().clamp(-MAX_INT8, MAX_INT8)
    return rounded.to(torch.int8).contiguous(), scale


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the weights that the int8 numbers stand for, float32 (out, in)."""
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
        self.register_buffer("bias", None if bias is None else bias.float())
        self.has_kernel = weight.size(1) % KERNEL_WIDTH == 0 and has_int8_kernel(weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in) -> (..., out)."""
        rows = x.reshape(-1, x.size(-1))
        if not self.has_kernel or rows.size(0) >= MANY_ROWS:
            return self.dequantized(x)
        y = torch._weight_int8pack_mm(rows.bfloat16(), self.weight, self.scale).view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def dequantized(self, x: Tensor) -> Tensor:
        """Apply the layer by dequantized weights: for many rows, without the kernel, and as its reference."""
        weight = self.weight.to(torch.bfloat16) * self.scale[:, None]
        y = F.linear(x.bfloat16(), weight).to(x.dtype)
        return y if self.bias is None else y + self.bias


def has_int8_kernel(device: torch.device) -> bool:
    """Return whether torch's int8 kernel works on the CPU, by a small product: its function is a private one."""
    if device.type != "cpu":
        return False
    x, weight = torch.ones(1, 32, dtype=torch.bfloat16), torch.ones(32, 32, dtype=torch.int8)
    try:
        y = torch._weight_int8pack_mm(x, weight, torch.ones(32, dtype=torch.bfloat16))
    except (RuntimeError, AttributeError):
        return False
    return bool((y == 32).all())
