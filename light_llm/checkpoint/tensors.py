"""Read safetensors files within bounds, and write them tensor by tensor, without a second copy in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError

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


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name: the same bytes as `safetensors.torch.save`, which holds all of them in memory twice."""
    order = list(TYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        tensor, end = tensors[name], offset + tensors[name].nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format asks for a header of a multiple of 8 bytes, so that the tensors after it are aligned.
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


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
