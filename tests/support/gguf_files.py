"""GGUF files for tests, written byte by byte or by the `gguf` package, with any format and any mistake."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

QUANTISED = (
    *("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4"),
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS"),
)  # what the package can dequantise, besides NVFP4, whose tensors have scales beside them
ALIGNMENT = 32


def string(text: str | bytes) -> bytes:
    """Return a string as the format has it: its length, and its bytes."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def field(key: str, value: Any) -> bytes:
    """Return a field: uint32, float32, bool or string."""
    if isinstance(value, bool):
        return string(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return string(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return string(key) + struct.pack("<If", 6, value)
    return string(key) + struct.pack("<I", 8) + string(value)


def tensor_info(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """Return the entry of a tensor; the shape as torch has it."""
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)


def header(n_tensors: int, n_fields: int, *, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    """Return the beginning of a file."""
    return magic + struct.pack("<IQQ", version, n_tensors, n_fields)


def padded(data: bytes) -> bytes:
    """Return bytes with zeros up to the next multiple of the alignment."""
    return data + bytes(-len(data) % ALIGNMENT)


def random_blocks(kind: str, shape: Sequence[int], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a tensor of random valid blocks: any bytes whose numbers are finite and not huge; (rows, bytes)."""
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    n = int(np.prod(shape)) // block
    # Each random block is finite with a chance of more than a half, and the others are replaced.
    blocks = generator.integers(0, 256, (4 * n + 16, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        numbers = gguf.quants.dequantize(blocks, number)
        fine = blocks[np.isfinite(numbers).all(axis=1) & (np.abs(numbers).max(axis=1) < 1e5)]
    return np.resize(fine, (n, size)).reshape(*shape[:-1], -1)


def write_gguf(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, tuple[NDArray[Any], str]]) -> Path:
    """Write a file by the package: fields, and tensors as raw numbers in a format."""
    writer = gguf.GGUFWriter(path, fields["general.architecture"])
    for key, value in fields.items():
        if key != "general.architecture":
            kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            kinds.get(type(value), writer.add_array)(key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
