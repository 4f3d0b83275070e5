"""Read safetensors files within bounds, and write them tensor by tensor, without a second copy in memory.

With several ranks a tensor may be a shard. A `gather` function returns the whole tensor; it is a message in which all
ranks take part, so all have to gather the same tensors in the same order, whatever happens to the file. A large model
is divided among several files.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..atomic_io import NullFile
from ..errors import CheckpointError

Gather = Callable[[Tensor], Tensor]
MAX_HEADER = 8 << 20  # bytes: names, types and shapes of about ten thousand tensors
# The order is that of tensors in a file: wide types first, so that every tensor is aligned.
TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor itself: the `gather` of one process, which has whole tensors."""
    return tensor


def file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors in the order in which a file holds them, the same on all ranks."""
    order = list(TYPES)
    return sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))


class TensorWriter:
    """A `WriteFn` that writes tensors by name, and gathers each on the way.

    Args:
        gather: returns a whole tensor; called on each in file order. Names, types and shapes are known without it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], gather: Gather = whole) -> None:
        self.tensors, self.gather = tensors, gather
        self.waiting = file_order(tensors)[::-1]

    def __call__(self, file: BinaryIO) -> None:
        """Write the header and the tensors, one at a time."""
        file.write(header_of(self.tensors))
        while self.waiting:
            tensor = self.next()
            # A rank that only takes part in the gathers needs no copy on the CPU.
            if not isinstance(file, NullFile):
                file.write(as_bytes(tensor.detach().cpu()))
            # One gathered tensor is freed before the next.
            del tensor

    def next(self) -> Tensor:
        """Gather the next tensor."""
        return self.gather(self.tensors[self.waiting.pop()])

    def finish(self) -> None:
        """Gather the tensors that a write that failed did not reach: the other ranks wait in those messages."""
        while self.waiting:
            self.next()


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], gather: Gather = whole) -> None:
    """Write tensors by name: the same bytes as `safetensors.torch.save`, which holds all of them in memory twice."""
    TensorWriter(tensors, gather)(file)


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor on the CPU, which are its memory if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def header_of(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the beginning of a safetensors file: names, types, shapes and places of its tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in file_order(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format asks for a header of a multiple of 8 bytes, so that the tensors after it are aligned.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def split_by_bytes(stem: str, tensors: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, Tensor]]:
    """Divide tensors in file order among files of at most `limit` bytes, by the name of the file.

    A larger tensor has a file of its own. One file is `model.safetensors`, several are `model-00001-of-00003...`.
    """
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name in file_order(tensors):
        n_bytes = tensors[name].numel() * tensors[name].element_size()
        if parts[-1] and size + n_bytes > limit:
            parts.append({})
            size = 0
        parts[-1][name] = tensors[name]
        size += n_bytes
    return dict(zip(file_names(stem, len(parts)), parts, strict=True))


def file_names(stem: str, n: int) -> list[str]:
    """Return the names of n files of tensors.

    >>> file_names("model", 1), file_names("model", 2)
    (['model.safetensors'], ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'])
    """
    if n == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]


def read_parts(folder: Path, stem: str, names: Collection[str]) -> dict[str, Tensor]:
    """Read the tensors of `stem` from one file or several.

    Args:
        names: of the files of the folder.

    Raises:
        CheckpointError: a file is missing or damaged, or two hold the same tensor.
    """
    several = re.compile(rf"{stem}-\d{{5}}-of-(\d{{5}})\.safetensors")
    counts = {match[1] for name in names if (match := several.fullmatch(name))}
    tensors: dict[str, Tensor] = {}
    for name in file_names(stem, int(counts.pop()) if counts else 1):
        if name not in names or counts:
            raise CheckpointError(f"{folder} is damaged: its manifest does not list {name}; use another checkpoint")
        part = read_tensors(folder / name)
        if both := tensors.keys() & part.keys():
            raise CheckpointError(f"{folder / name} is damaged: {min(both)} is in another file; use another checkpoint")
        tensors |= part
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name, on the CPU. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        # The library allocates what the header claims, so check the claim first.
        if header > MAX_HEADER:
            raise CheckpointError(
                f"{path} is damaged, or not a file of light-llm: its header claims {header:,} bytes; "
                "use another checkpoint"
            )
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); use another checkpoint") from None
