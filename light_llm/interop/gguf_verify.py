"""Check a GGUF file: read it back with the `gguf` package, and predict what llama.cpp computes from it.

Most users do not have llama.cpp, which is compiled from source: without it the read-back is the only check. It
finds damage and wrong numbers, but not a wrong name or order of rows, which tests/support/gguf_reference.py checks by
rules of its own, and it does not run the model.

On a CPU llama.cpp multiplies a matrix in 16 or 8 bits by activations rounded to the same format (ggml-cpu.c,
`vec_dot_type`), and looks GELU up in a table of all float16 numbers (ggml-cpu/vec.h). Other kernels do so in part. So
the logits of a GGUF file are not those of the rounded weights: they are off by about as much as rounding the
activations moves them, which is measured here for each model and decides the tolerance.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import LoadedModel
from ..checkpoint.load import build
from ..errors import CheckpointError
from ..layers.mlps import GeGLU
from .architectures import trimmed_config
from .exporter import MAX_LOGIT_ERROR, require
from .gguf_formats import BLOCK, BLOCKS, FLOAT32_ERROR, block_minima, dequantize, quantize, rounding_error, tensor_dtype
from .verify import probe_windows

# A number between two of the format may be rounded to the other one, and kernels differ in their order of sums.
SAFETY_FACTOR = 3.0
# The tables, whose format depends on the name.
_NAMES = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight", "lm_head.weight": "output.weight"}
_TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Mismatch(Exception):
    """A part of the file that differs."""


def check_file(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str) -> str:
    """Compare a file with the fields and tensors (float32) that it should hold, and return one line on the result.

    Raises:
        MissingDependency: the package `gguf` is not installed.
        CheckpointError: the file differs; the message says in what.
    """
    gguf = require("gguf", "gguf")
    try:
        # A damaged file can fail in any part of the reader, by several types of error.
        reader = gguf.GGUFReader(path)
        stored = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        _check_fields(stored, fields)
        _check_tensors(reader.tensors, tensors, dtype)
    except Mismatch as error:
        raise CheckpointError(
            f"{path} was read back, and it is not the model: {error}. Do not use it; "
            "please report it, with the versions of torch and gguf"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as GGUF ({error!r:.120}); export it again") from None
    counts = Counter(tensor.tensor_type.name.lower() for tensor in reader.tensors)
    formats = " and ".join(f"{n} in {kind}" for kind, n in counts.items())
    tokens = fields.get("tokenizer.ggml.tokens")
    ids = f", its {len(tokens):,} tokens are the tokenizer's" if tokens else ""
    return f"read back with gguf {version('gguf')}: {len(tensors)} tensors ({formats}) are the model's{ids}"


def _check_fields(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise Mismatch for a field that is missing, unknown or different."""
    for name in sorted(stored.keys() | expected.keys()):
        if not _equal(stored.get(name), expected.get(name)):
            raise Mismatch(f"{name} is {stored.get(name)!r:.80} and should be {expected.get(name)!r:.80}")


def _equal(stored: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(stored, (int, float)):
        return abs(stored - expected) <= FLOAT32_ERROR * abs(expected)
    # The type too: True and 1 are equal in Python and different in the file.
    return type(stored) is type(expected) and bool(stored == expected)


def _check_tensors(stored: Sequence[Any], expected: Mapping[str, Tensor], dtype: str) -> None:
    """Raise Mismatch for a tensor that is missing, unknown, in another number format, or different."""
    by_name = {tensor.name: tensor for tensor in stored}
    if len(by_name) != len(stored) or by_name.keys() != expected.keys():
        odd = sorted(by_name.keys() ^ expected.keys())
        raise Mismatch(f"it has {len(stored)} tensors and should have {len(expected)}: {', '.join(odd[:3])}")
    for name, tensor in expected.items():
        kind = by_name[name].tensor_type.name.lower()
        if kind != (right := tensor_dtype(name, tuple(tensor.shape), dtype)):
            raise Mismatch(f"{name} is in {kind} and should be in {right}")
        check_numbers(name, dequantize(by_name[name].data, kind), tensor, kind)


def check_numbers(name: str, stored: Tensor, expected: Tensor, kind: str) -> None:
    """Raise Mismatch for a number that is off by more than its format rounds."""
    if stored.shape != expected.shape:
        raise Mismatch(f"{name} has the shape {tuple(stored.shape)} and should have {tuple(expected.shape)}")
    excess = (stored - expected).abs() - rounding_error(expected, kind)
    if not bool((excess <= 0).all()):  # also true for NaN
        worst = float((stored - expected).abs().max())
        raise Mismatch(f"{name} is off by {worst:.1e}, more than {kind} rounds")


def round_weights(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """Return the same model with the weights of a file in this dtype."""
    weights = {}
    for name, tensor in loaded.model.state_dict().items():
        kind = tensor_dtype(_NAMES.get(name, name), tuple(tensor.shape), dtype)
        weights[name] = dequantize(quantize(name, tensor.cpu(), kind), kind)
    file = replace(loaded.file, weights=weights)
    return LoadedModel(build(file).eval(), file)


def emulate_llama_cpp(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """Return `round_weights(loaded, dtype)` with activations rounded too, as by llama.cpp's kernels for CPUs."""
    emulated = round_weights(loaded, dtype)
    model = emulated.model
    exact = dict(loaded.model.named_modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weight = exact[name].weight
            assert isinstance(weight, Tensor)
            module.forward = _Product(weight, module.weight, module.bias, dtype).multiply  # type: ignore[method-assign, assignment]
        elif isinstance(module, (nn.GELU, GeGLU)):
            module.register_forward_hook(_table_gelu)
    # The head is a function of the model and not a module.
    head = _Product(loaded.model.head_weight, model.head_weight, None, dtype, "output.weight")
    model.logits = head.multiply  # type: ignore[method-assign, assignment]
    return emulated


class _Product:
    """A product of activations and a matrix as llama.cpp computes it.

    Args:
        weight: (m, n), before it was rounded.
        rounded: the same in the format of the file.
    """

    def __init__(self, weight: Tensor, rounded: Tensor, bias: Tensor | None, dtype: str, name: str = "") -> None:
        self.weight, self.bias = rounded, bias
        self.kind = kind = tensor_dtype(name, tuple(weight.shape), dtype)
        self.smallest = block_minima(weight, kind) if kind in BLOCKS and not BLOCKS[kind].signed else None

    def multiply(self, x: Tensor) -> Tensor:
        """Round the activations, and multiply them by the matrix: (..., n) -> (..., m)."""
        if self.kind not in BLOCKS:
            # The weights are float64 where the rounding of float32 is measured.
            rounded = x if self.kind == "f32" else x.to(_TORCH_DTYPES[self.kind])
            return F.linear(rounded.to(self.weight.dtype), self.weight, self.bias)
        # q8_0: 32 activations share a float16 scale.
        blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
        largest = blocks.abs().amax(dim=-1, keepdim=True)
        scale = largest / 127
        # The product with 127 / largest, as there, is not always the quotient.
        whole = torch.where(scale > 0, blocks * (127 / largest), 0.0).round()
        y = F.linear((whole * scale.half().float()).view(x.shape), self.weight, self.bias)
        if self.smallest is None:
            return y
        # q8_1: the smallest number of a block of weights is multiplied by the sum of the activations, in float16 too.
        total = whole.sum(dim=-1)
        excess = (total * scale[..., 0]).half().float() - total * scale[..., 0].half().float()
        return y + F.linear(excess, self.smallest)


def _table_gelu(module: nn.GELU | GeGLU, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """Return GELU's tanh form of the nearest float16, as the nearest float16; times the value in a gated MLP.

    llama.cpp has this form for all families. Its table is not used beyond 10.
    """
    x, *value = inputs
    from_table = F.gelu(x.half().float(), approximate="tanh").half().float()
    hidden = torch.where(x.abs() < 10, from_table, F.gelu(x, approximate="tanh"))
    return hidden * value[0] if value else hidden


@torch.inference_mode()
def logit_tolerance(loaded: LoadedModel, dtype: str) -> float:
    """Return how far the logits of llama.cpp may be from ours: 3 times the change by rounded activations, or 1e-4."""
    n_ids = trimmed_config(loaded).vocab_size
    windows = [torch.tensor(rows) for rows in probe_windows(n_ids, loaded.model.config.n_positions)]
    # One after the other, because each is a copy of the model.
    exact = _logits(round_weights(loaded, dtype), windows, n_ids)
    emulated = _logits(emulate_llama_cpp(loaded, dtype), windows, n_ids)
    change = max(float((a - b).abs().max()) for a, b in zip(exact, emulated, strict=True))
    return max(MAX_LOGIT_ERROR, SAFETY_FACTOR * change)


def _logits(loaded: LoadedModel, windows: Sequence[Tensor], n_ids: int) -> list[Tensor]:
    return [loaded.model(rows)[..., :n_ids] for rows in windows]
