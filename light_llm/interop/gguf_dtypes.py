"""Number formats of GGUF: quantizing weights, and the roundings of llama.cpp's own arithmetic.

On a CPU llama.cpp multiplies a matrix in 16 or 8 bits by activations rounded to the same format (ggml-cpu.c,
`vec_dot_type`), and looks GELU up in a table of all float16 numbers (ggml-cpu/vec.h). Other kernels do so in part. So
the logits of a GGUF file are not those of the rounded weights: they are off by about as much as rounding the
activations moves them, which is measured here for each model and decides the tolerance.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import LoadedModel
from ..checkpoint.load import build
from ..errors import ConfigError
from .exporter import MAX_LOGIT_ERROR, require
from .gguf_tensors import BLOCK, tensor_dtype
from .verify import probe_windows

MAX_F16 = 65504.0
# A number between two of the format may be rounded to the other one, and kernels differ in their order of sums.
SAFETY_FACTOR = 3.0
_TORCH_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}


def quantize(name: str, tensor: Tensor, kind: str) -> NDArray[Any]:
    """Return a tensor in a number format: (rows, n) float32 -> (rows, bytes), or an array of that type.

    Raises ConfigError for a weight that the format cannot hold.
    """
    gguf = require("gguf", "gguf")
    numbers = tensor.detach().float().contiguous().numpy()
    # The package would write infinity, with no more than a warning.
    largest = float(np.abs(numbers).max(initial=0.0))
    bound = {"f16": MAX_F16, "q8_0": 127 * MAX_F16}.get(kind, float(np.finfo(np.float32).max))
    if not largest <= bound:  # also true for NaN
        remedy = "export with dtype f32" if math.isfinite(largest) else "export another checkpoint"
        raise ConfigError(f"{name} has a weight of {largest:g}, and {kind} holds numbers up to {bound:g}; {remedy}")
    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind.upper()])


def dequantize(numbers: NDArray[Any], kind: str) -> Tensor:
    """Return the float32 numbers of a quantized tensor."""
    gguf = require("gguf", "gguf")
    unpacked = gguf.quants.dequantize(numbers, gguf.GGMLQuantizationType[kind.upper()])
    return torch.from_numpy(np.array(unpacked, np.float32))


def round_weights(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """Return the same model with the weights of a file in this dtype."""
    weights = {}
    for name, tensor in loaded.model.state_dict().items():
        gguf_name = "position_embd.weight" if name == "wpe.weight" else name
        kind = tensor_dtype(gguf_name, tuple(tensor.shape), dtype)
        weights[name] = dequantize(quantize(name, tensor.cpu(), kind), kind)
    file = replace(loaded.file, weights=weights)
    return LoadedModel(build(file).eval(), file)


def emulate_llama_cpp(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """Return `round_weights(loaded, dtype)` with activations rounded too, as by llama.cpp's kernels for CPUs."""
    emulated = round_weights(loaded, dtype)
    model = emulated.model
    for module in model.modules():
        if isinstance(module, nn.Linear):
            kind = tensor_dtype("", tuple(module.weight.shape), dtype)
            module.register_forward_pre_hook(lambda _, inputs, kind=kind: (round_trip(inputs[0], kind), *inputs[1:]))
        elif isinstance(module, nn.GELU):
            module.register_forward_hook(_table_gelu)
    # The head is a function of the model and not a module, so a hook cannot reach it.
    head, kind = model.head_weight, tensor_dtype("", tuple(model.head_weight.shape), dtype)
    model.logits = lambda hidden: F.linear(round_trip(hidden, kind), head)  # type: ignore[method-assign]
    return emulated


def round_trip(x: Tensor, kind: str) -> Tensor:
    """Round numbers to a format and back: (..., n) float32 -> (..., n). In q8_0 32 numbers share a float16 scale."""
    if kind == "f32":
        return x
    if kind in _TORCH_DTYPES:
        return x.to(_TORCH_DTYPES[kind]).float()
    blocks = x.reshape(-1, BLOCK)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    whole = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (whole * scale.half().float()).view(x.shape)


def _table_gelu(module: nn.GELU, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Return GELU of the nearest float16, as the nearest float16. llama.cpp's table is not used beyond 10."""
    (x,) = inputs
    from_table = F.gelu(x.half().float(), approximate=module.approximate).half().float()
    return torch.where(x.abs() < 10, from_table, y)


@torch.inference_mode()
def logit_tolerance(loaded: LoadedModel, dtype: str) -> float:
    """Return how far the logits of llama.cpp may be from ours: 3 times the change by rounded activations, or 1e-4."""
    exact, emulated = round_weights(loaded, dtype).model, emulate_llama_cpp(loaded, dtype).model
    config, tokenizer = loaded.model.config, loaded.file.tokenizer
    n_ids = tokenizer.vocab_size if tokenizer else config.vocab_size
    windows = [torch.tensor(rows) for rows in probe_windows(n_ids, config.n_positions)]
    change = max(float((exact(rows) - emulated(rows))[..., :n_ids].abs().max()) for rows in windows)
    return max(MAX_LOGIT_ERROR, SAFETY_FACTOR * change)
