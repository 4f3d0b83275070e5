"""What a number format does to a model: to its weights, which are stored in it, and in llama.cpp to what they multiply.

On a CPU llama.cpp takes a product of a matrix in 16 or 8 bits by rounding the other side to the same format
(ggml-cpu.c, `vec_dot_type`), and looks GELU up in a table of all float16 numbers (ggml-cpu/vec.h). With other kernels
it does so in part. So a GGUF file's logits are not those of the rounded weights: they are off by about as much as
rounding what the matrices multiply moves them, which is measured here and is what may be allowed.
"""

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import LoadedModel
from ..checkpoint.load import build
from ..config.validation import check_choice
from ..errors import ConfigError
from .gguf_tensors import BLOCK, DTYPES, format_of
from .optional_deps import need
from .verify import looked_at

LARGEST_F16 = 65504.0
LEAST = 1e-4  # what float32 in another order of sums may give
TIMES = 3.0  # a number that lies between two of the format may fall to the other side, and other kernels differ


def packed(gguf: ModuleType, name: str, tensor: Tensor, kind: str) -> NDArray[Any]:
    """The bytes of a tensor in a number format: (rows, n) float32 -> (rows, bytes), or the numbers themselves.

    Raises:
        ConfigError: a weight that the format cannot hold.
    """
    numbers = tensor.detach().float().contiguous().numpy()
    largest = float(np.abs(numbers).max(initial=0.0))
    bound = {"f16": LARGEST_F16, "q8_0": 127 * LARGEST_F16}.get(kind, float(np.finfo(np.float32).max))
    if not largest <= bound:  # NaN is not
        way_out = "export with dtype f32" if math.isfinite(largest) else "export another checkpoint"
        raise ConfigError(f"{name} has a weight of {largest:g}, and {kind} holds numbers up to {bound:g}; {way_out}")
    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind.upper()])


def unpacked(gguf: ModuleType, numbers: NDArray[Any], kind: str) -> Tensor:
    """The inverse of `packed`, as far as the format has kept the numbers: float32."""
    found = gguf.quants.dequantize(numbers, gguf.GGMLQuantizationType[kind.upper()])
    return torch.from_numpy(np.array(found, np.float32))


def rounded(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """The same model with the weights that a file in this dtype holds: what llama.cpp is compared with."""
    check_choice("dtype", dtype, DTYPES)
    gguf = need("gguf", "gguf")
    weights = {}
    for name, tensor in loaded.model.state_dict().items():
        there = "position_embd.weight" if name == "wpe.weight" else name
        kind = format_of(there, tuple(tensor.shape), dtype)
        weights[name] = unpacked(gguf, packed(gguf, name, tensor.cpu(), kind), kind)
    file = replace(loaded.file, weights=weights)
    return LoadedModel(build(file).eval(), file)


def as_computed(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """`rounded`, and what its matrices multiply is rounded too, as llama.cpp's kernels for CPUs do it."""
    twin = rounded(loaded, dtype)
    model = twin.model
    for module in model.modules():
        if isinstance(module, nn.Linear):
            kind = format_of("", tuple(module.weight.shape), dtype)
            module.register_forward_pre_hook(lambda _, inputs, kind=kind: (_through(inputs[0], kind), *inputs[1:]))
        elif isinstance(module, nn.GELU):
            module.register_forward_hook(_looked_up)
    head, kind = model.head_weight, format_of("", tuple(model.head_weight.shape), dtype)
    model.logits = lambda hidden: F.linear(_through(hidden, kind), head)  # type: ignore[method-assign]
    return twin


def _through(x: Tensor, kind: str) -> Tensor:
    """Numbers rounded to a format and back: (..., n) float32 -> (..., n). q8_0 has a float16 scale for 32 of them."""
    if kind == "f32":
        return x
    if kind in ("f16", "bf16"):
        return x.to(torch.float16 if kind == "f16" else torch.bfloat16).float()
    blocks = x.reshape(-1, BLOCK)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / 127
    whole = torch.where(scale > 0, blocks / scale, 0.0).round()
    return (whole * scale.half().float()).view(x.shape)


def _looked_up(module: nn.GELU, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """GELU of the nearest float16, as the nearest float16; beyond 10 it is not looked up."""
    (x,) = inputs
    found = F.gelu(x.half().float(), approximate=module.approximate).half().float()
    return torch.where(x.abs() < 10, found, y)


@torch.inference_mode()
def allowed(loaded: LoadedModel, dtype: str) -> float:
    """How far llama.cpp's logits may be from those of `rounded(loaded, dtype)`, as `verify` compares them.

    Three times as far as they move in the same places when what the matrices multiply is rounded, and at least 1e-4.
    """
    plain, twin = rounded(loaded, dtype).model, as_computed(loaded, dtype).model
    config, tokenizer = loaded.model.config, loaded.file.tokenizer
    n_ids = tokenizer.vocab_size if tokenizer else config.vocab_size
    seen = [torch.tensor(rows) for rows in looked_at(n_ids, config.n_positions)]
    moved = max(float((plain(rows) - twin(rows))[..., :n_ids].abs().max()) for rows in seen)
    return max(LEAST, TIMES * moved)
