"""Read a GGUF file back with the `gguf` package and compare it with the intended fields and tensors.

Most users do not have llama.cpp, which is compiled from source: without it this is the only check of an export. It
finds damage and wrong numbers, but not a wrong name or order of rows, which tests/support/gguf_reference.py checks by
rules of its own, and it does not run the model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .exporter import require
from .gguf_dtypes import dequantize
from .gguf_tensors import BLOCK, tensor_dtype

FLOAT32_ERROR = 1e-6  # relative, of a float64 field that is stored in float32


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


def rounding_error(x: Tensor, kind: str) -> Tensor:
    """Return how far a format may move each number of (rows, n): half of its last digit or of the smallest number.

    float16 has 11 binary digits, bfloat16 has 8. q8_0 stores whole numbers up to 127 times a float16 scale that 32
    numbers share.
    """
    if kind == "f16":
        return x.abs() * 2**-11 + 2**-25
    if kind == "bf16":
        return x.abs() * 2**-8 + 2**-134
    if kind == "q8_0":
        largest = x.reshape(-1, BLOCK).abs().amax(dim=-1, keepdim=True).expand(-1, BLOCK).reshape(x.shape)
        return largest * (0.5 / 127 * (1 + FLOAT32_ERROR) + 2**-11) + 127 * 2**-25
    return torch.zeros_like(x)
