"""Read safetensors files within bounds, and write them tensor by tensor, without a second copy in memory.

With several ranks a tensor may be a shard. A `gather` function returns the whole tensor; it is a message in which all
ranks take part, so all have to gather the same tensors in the same order, whatever happens to the file.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@contextmanager
def gather_all(tensors: Sequence[Tensor], gather: Gather) -> Iterator[Gather]:
    """Yield a function that gathers these tensors, called on them in order; after an error gather those that remain.

    A full disk stops the first rank in the middle of a file, and the others, which write none, do not know it: they
    wait in the next message until the first rank joins it. An error in a message itself ends it at once.
    """
    done, lost = 0, False

    def gather_next(tensor: Tensor) -> Tensor:
        nonlocal done, lost
        lost = True
        result = gather(tensor)
        done, lost = done + 1, False
        return result

    try:
        yield gather_next
    except Exception:
        for tensor in () if lost else tensors[done:]:
            gather(tensor)
        raise


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], gather: Gather = whole) -> None:
    """Write tensors by name: the same bytes as `safetensors.torch.save`, which holds all of them in memory twice.

    Args:
        gather: returns a whole tensor; called on each in file order. Names, types and shapes are known without it.
    """
    names = file_order(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format asks for a header of a multiple of 8 bytes, so that the tensors after it are aligned.
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        tensor = gather(tensors[name])
        # A rank that only takes part in the gathers needs no copy on the CPU.
        if not isinstance(file, NullFile):
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


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
