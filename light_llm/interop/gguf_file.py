"""Read a GGUF file: fields first, then tensor by tensor.

Nothing in the file is trusted: each count, length, offset and shape is compared with the size of the file before memory
is reserved for it. The format: github.com/ggml-org/ggml, docs/gguf.md.
"""

import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import repr_short
from ..errors import CheckpointError
from .exporter import require

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_HEADER = 256 << 20  # bytes of fields, names and shapes; Gemma's vocabulary takes 15 MB
MAX_ITEMS = 1 << 22  # fields, and entries of lists; Gemma has 1.3 million
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS, MAX_ALIGNMENT = 4, 1 << 16
CHUNK = 1 << 18  # numbers that are dequantised at once
STRING, ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # stored as torch has them


class Damaged(Exception):
    """An error for invalid data in the file."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's place in the file, and the format of its numbers."""

    name: str
    kind: str  # "F32", "Q4_K", ...
    shape: tuple[int, ...]  # as torch has it: rows first
    offset: int  # bytes from the start of the file
    nbytes: int

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype that it is read in: its own, or float32 for one that is dequantised."""
        return PLAIN.get(self.kind, torch.float32)


class GGUFFile:
    """A GGUF file opened for reading: `fields` by key, `tensors` by name, and `read` for their numbers.

    Raises:
        CheckpointError: it cannot be opened, is not a GGUF file, is one of several parts, or is damaged.
        MissingDependency: the package `gguf` is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gguf = require("gguf", "gguf")
        try:
            self.size = path.stat().st_size
            self.file = open(path, "rb")  # noqa: SIM115  (open as long as this object)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
        try:
            header = _Header(self.file, self.size)
            self.fields, n_tensors = _read_fields(header)
            self._check_parts()
            self.tensors = self._read_tensors(header, n_tensors)
        except Damaged as error:
            self.close()
            raise CheckpointError(f"{path} is no complete GGUF file: {error}; use another copy") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read(self, name: str) -> Tensor:
        """Return the numbers of a tensor: in its own dtype, or dequantised to float32 by the package `gguf`.

        Raises CheckpointError for a format that the package cannot dequantise.
        """
        tensor = self.tensors[name]
        numbers = torch.empty(tensor.shape, dtype=tensor.dtype)
        self.file.seek(tensor.offset)
        if tensor.kind in PLAIN:
            self._fill(tensor, numbers.view(-1).view(torch.uint8).numpy())
            return numbers
        kind = self.gguf.GGMLQuantizationType[tensor.kind]
        block, size = self.gguf.GGML_QUANT_SIZES[kind]
        out = numbers.view(-1).numpy()
        # Blocks are independent, so the result does not depend on where the chunks begin.
        step = max(1, CHUNK // block)
        for start in range(0, tensor.nbytes // size, step):
            n = min(step, tensor.nbytes // size - start)
            # One row, because the package loops over rows in Python.
            raw = np.empty((1, n * size), np.uint8)
            self._fill(tensor, raw)
            try:
                unpacked = self.gguf.quants.dequantize(raw, kind)
            except NotImplementedError:
                raise CheckpointError(
                    f"{self.path}: {name} is in {tensor.kind}, which the package gguf cannot dequantise; "
                    "use a file in another format, such as Q8_0"
                ) from None
            out[start * block : (start + n) * block] = unpacked.reshape(-1)
        return numbers

    def _fill(self, tensor: StoredTensor, buffer: NDArray[np.uint8]) -> None:
        if self.file.readinto(buffer.data) != buffer.nbytes:
            raise CheckpointError(f"{self.path} was cut in {tensor.name} while it was read; use another copy")

    def same_bytes(self, a: str, b: str) -> bool:
        """Return whether two tensors are stored alike: one format, one shape and the same bytes."""
        first, second = self.tensors[a], self.tensors[b]
        if (first.kind, first.shape) != (second.kind, second.shape):
            return False
        for start in range(0, first.nbytes, 16 * CHUNK):
            parts = []
            for tensor in (first, second):
                self.file.seek(tensor.offset + start)
                parts.append(self.file.read(min(16 * CHUNK, tensor.nbytes - start)))
            if parts[0] != parts[1]:
                return False
        return True

    @cached_property
    def kinds(self) -> str:
        """Return the formats of the tensors, the one with the most numbers first: "Q4_K, Q6_K, F32"."""
        numbers: dict[str, int] = {}
        for tensor in self.tensors.values():
            numbers[tensor.kind] = numbers.get(tensor.kind, 0) + prod(tensor.shape)
        return ", ".join(sorted(numbers, key=lambda kind: -numbers[kind]))

    def _check_parts(self) -> None:
        """Raise CheckpointError for a model in several files."""
        n = self.fields.get("split.count", 1)
        if n not in (0, 1):
            raise CheckpointError(
                f"{self.path} is one of the {repr_short(n)} parts of a model; join them first with llama.cpp: "
                f"llama-gguf-split --merge {self.path.name} model.gguf"
            )

    def _read_tensors(self, header: "_Header", n: int) -> dict[str, StoredTensor]:
        """Return the tensors by name. Raises Damaged for one that does not fit the file, or overlaps another."""
        if n > MAX_TENSORS:
            raise Damaged(f"it claims {n:,} tensors")
        listed = [self._read_tensor(header) for _ in range(n)]
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise Damaged(f"general.alignment is {repr_short(alignment)}")
        start = -(-header.position // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        end, previous = 0, ""
        for name, kind, shape, offset, nbytes in sorted(listed, key=lambda entry: entry[3]):
            if name in tensors:
                raise Damaged(f"it has two tensors {repr_short(name)}")
            if offset % alignment or offset < end:
                raise Damaged(f"the tensor {repr_short(name)} begins inside {repr_short(previous)}")
            if start + offset + nbytes > self.size:
                raise Damaged(
                    f"the tensor {repr_short(name)} would end at byte {repr_short(start + offset + nbytes)}, and the "
                    f"file has {self.size:,}"
                )
            end, previous = offset + nbytes, name
            tensors[name] = StoredTensor(name, kind, shape, start + offset, nbytes)
        return tensors

    def _read_tensor(self, header: "_Header") -> tuple[str, str, tuple[int, ...], int, int]:
        """Return name, format, shape, offset and bytes of the next tensor."""
        name, n = header.string(), header.number("I")
        if not 0 < n <= MAX_DIMENSIONS:
            raise Damaged(f"the tensor {repr_short(name)} has {n:,} dimensions")
        shape = tuple(header.number("Q") for _ in range(n))[::-1]
        number, offset = header.number("I"), header.number("Q")
        try:
            kind = self.gguf.GGMLQuantizationType(number)
        except ValueError:
            raise CheckpointError(
                f"{self.path}: the tensor {repr_short(name)} is in the format number {number}, which the package gguf "
                "does not know; use a file in another format, such as Q8_0"
            ) from None
        block, size = self.gguf.GGML_QUANT_SIZES[kind]
        if 0 in shape or shape[-1] % block:
            raise Damaged(f"the tensor {repr_short(name)} has the shape {repr_short(shape)} in {kind.name}")
        return name, kind.name, shape, offset, prod(shape) // block * size


class _Header:
    """A cursor in the header that knows how many bytes are left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.position = self.items = 0

    def take(self, n: int) -> bytes:
        """Return the next n bytes. Raises Damaged if there are fewer."""
        if n > self.size - self.position:
            raise Damaged(f"at byte {self.position:,} it claims {n:,} more, and has {self.size - self.position:,}")
        self.position += n
        if self.position > MAX_HEADER:
            raise Damaged(f"its header has more than {MAX_HEADER:,} bytes")
        data = self.file.read(n)
        if len(data) != n:
            raise Damaged(f"it was cut at byte {self.position:,} while it was read")
        return data

    def number(self, code: str) -> Any:
        """Return the next number, of a type of `struct`."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        """Return the next string. Bytes that are not UTF-8 become U+FFFD: old vocabularies have such tokens."""
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """Return the next value of one of the format's types."""
        if kind == STRING:
            return self.string()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != ARRAY:
            raise Damaged(f"at byte {self.position:,} it has a value of type {kind}")
        kind, n = self.number("I"), self.number("Q")
        self.count(n)
        if kind == STRING:
            return [self.string() for _ in range(n)]
        if kind not in _SCALARS:
            raise Damaged(f"at byte {self.position:,} it has a list of type {kind}")
        size = struct.calcsize("<" + _SCALARS[kind])
        return np.frombuffer(self.take(n * size), np.dtype("<" + _SCALARS[kind])).tolist()

    def count(self, n: int) -> None:
        """Count fields and entries of lists. Raises Damaged for too many."""
        self.items += n
        if self.items > MAX_ITEMS:
            raise Damaged(f"at byte {self.position:,} it claims {n:,} values")


def _read_fields(header: _Header) -> tuple[dict[str, Any], int]:
    """Return the fields by key, and the number of tensors that follow. Raises Damaged."""
    if header.size < len(MAGIC) or header.take(len(MAGIC)) != MAGIC:
        raise Damaged("it does not begin with GGUF")
    version = header.number("I")
    if version not in VERSIONS:
        order = ", in the byte order of another processor" if version and not version & 0xFFFF else ""
        raise Damaged(f"its version is {version}{order}, and light-llm reads 2 and 3")
    n_tensors, n_fields = header.number("Q"), header.number("Q")
    header.count(n_fields)
    fields = dict[str, Any]()
    for _ in range(n_fields):
        key = header.string()
        if key in fields:
            raise Damaged(f"it has two fields {repr_short(key)}")
        fields[key] = header.value(header.number("I"))
    return fields, n_tensors


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a GGUF file by key, without its tensors. Raises CheckpointError."""
    with GGUFFile(path) as file:
        return file.fields


def is_gguf(path: Path) -> bool:
    """Return whether a path names a GGUF file: by its suffix, or by its first bytes, as Ollama's files have none."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
