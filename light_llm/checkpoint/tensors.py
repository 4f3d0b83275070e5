"""Safetensors files, read within bounds."""

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import CheckpointError

MOST_HEADER = 8 << 20  # bytes: names, types and shapes of some ten thousand tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, on the CPU. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MOST_HEADER:
            raise CheckpointError(
                f"{path} is damaged, or no file of ours: its header is said to have {header:,} bytes; "
                "use another checkpoint"
            )
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or cut ({error}); use another checkpoint") from None
