"""The number formats that a GGUF file is written in, and how far each may move a number.

q8_0 stores 32 numbers of a row as whole numbers from -127 to 127 and a scale, q4_0 as -8 to 7, and q5_0 as -16 to 15.
q4_1 and q5_1 have a smallest number besides, and steps from 0 to 15 or 31 above it. Scales and smallest numbers are
float16. The numbers are rounded by the package `gguf`, as llama.cpp's own quantiser rounds them without statistics of
the activations.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .exporter import require

BLOCK = 32  # numbers of a row that share a scale
MAX_F16 = 65504.0
FLOAT32_ERROR = 1e-6  # relative, of a float64 that is stored or computed in float32
# llama.cpp's numbers for "most tensors have this dtype"
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2}
DTYPES = tuple(FILE_TYPES)
# The token table and the head keep 8 bits: they lose most by fewer, and llama.cpp's quantiser keeps 6 there.
TABLES = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class BlockFormat:
    """A format of whole numbers with a scale for each block."""

    steps: int  # from the smallest to the largest whole number, or on each side of 0
    signed: bool  # the largest number of a block is stored exactly, except for the scale's rounding
    bound: float  # the largest number that it holds


BLOCKS = {
    "q8_0": BlockFormat(127, signed=True, bound=127 * MAX_F16),
    "q5_1": BlockFormat(31, signed=False, bound=MAX_F16),
    "q5_0": BlockFormat(16, signed=True, bound=16 * MAX_F16),
    "q4_1": BlockFormat(15, signed=False, bound=MAX_F16),
    "q4_0": BlockFormat(8, signed=True, bound=8 * MAX_F16),
}


def tensor_dtype(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """Return the dtype of one tensor: norms, biases and the position table stay f32, as in llama.cpp's converter.

    Rows that do not divide into blocks are f16, as there.

    >>> tensor_dtype("blk.0.attn_q.weight", (64, 64), "q8_0"), tensor_dtype("blk.0.attn_norm.weight", (64,), "q8_0")
    ('q8_0', 'f32')
    >>> tensor_dtype("blk.0.attn_q.weight", (64, 64), "q4_0"), tensor_dtype("token_embd.weight", (9, 64), "q4_0")
    ('q4_0', 'q8_0')
    """
    if len(shape) < 2 or name == "position_embd.weight":
        return "f32"
    if dtype not in BLOCKS:
        return dtype
    if shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if name in TABLES else dtype


def quantize(name: str, tensor: Tensor, kind: str) -> NDArray[Any]:
    """Return a tensor in a number format: (rows, n) float32 -> (rows, bytes), or an array of that type.

    Raises ConfigError for a weight that the format cannot hold.
    """
    gguf = require("gguf", "gguf")
    numbers = tensor.detach().float().contiguous().numpy()
    # The package would write infinity, with no more than a warning.
    largest = float(np.abs(numbers).max(initial=0.0))
    bound = BLOCKS[kind].bound if kind in BLOCKS else MAX_F16 if kind == "f16" else float(np.finfo(np.float32).max)
    if not largest <= bound:  # also true for NaN
        remedy = "export with dtype f32" if math.isfinite(largest) else "export another checkpoint"
        raise ConfigError(f"{name} has a weight of {largest:g}, and {kind} holds numbers up to {bound:g}; {remedy}")
    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind.upper()])


def dequantize(numbers: NDArray[Any], kind: str) -> Tensor:
    """Return the float32 numbers of a quantized tensor."""
    gguf = require("gguf", "gguf")
    unpacked = gguf.quants.dequantize(numbers, gguf.GGMLQuantizationType[kind.upper()])
    return torch.from_numpy(np.array(unpacked, np.float32))


def block_minima(x: Tensor, kind: str) -> Tensor:
    """Return the smallest number of each block as the format stores it: (rows, n) -> (rows, n / 32) float32."""
    assert not BLOCKS[kind].signed
    return x.detach().float().reshape(len(x), -1, BLOCK).amin(dim=-1).half().float()


def rounding_error(x: Tensor, kind: str) -> Tensor:
    """Return how far a format may move each number of (rows, n): half of its last digit or of the smallest number.

    float16 has 11 binary digits, bfloat16 has 8.
    """
    if kind == "f16":
        return x.abs() * 2**-11 + 2**-25
    if kind == "bf16":
        return x.abs() * 2**-8 + 2**-134
    if kind in BLOCKS:
        return _block_error(x.reshape(-1, BLOCK), BLOCKS[kind]).view(x.shape)
    return torch.zeros_like(x)


def _block_error(x: Tensor, form: BlockFormat) -> Tensor:
    """Return the bound for blocks, (n, 32): half a step, and the float16 of the scale and of the smallest number."""
    low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    if not form.signed:
        step = (high - low) / form.steps
        half = step * (0.5 + form.steps * FLOAT32_ERROR)
        return half + (x - low) * 2**-11 + low.abs() * 2**-11 + (form.steps + 1) * 2**-25
    largest = torch.maximum(-low, high)
    step = largest / form.steps
    half = (step * (0.5 + form.steps * FLOAT32_ERROR)).expand_as(x)
    if form.steps < 127:
        # The scale has the sign that makes the largest number the whole number -8 (or -16). On the other side there are
        # only 7 (15): a number beyond is cut off.
        side = torch.where(high >= -low, -1.0, 1.0)
        both = (high == -low).expand_as(x)
        beyond = torch.where(both, x.abs(), x * side) - (form.steps - 1) * step
        half = torch.maximum(half, beyond * (1 + form.steps * FLOAT32_ERROR))
    return half + largest * 2**-11 + form.steps * 2**-25
