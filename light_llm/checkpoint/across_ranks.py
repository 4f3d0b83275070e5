"""Checkpoints and several ranks: which ranks see the folder, and how the tensors of a checkpoint reach all of them."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ..runtime import Json, World
from .tensors import TYPES


def broadcast_tensors(world: World, tensors: dict[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of rank 0 on all ranks, on the CPU, one at a time; they leave the dictionary.

    No rank holds more than one tensor that it did not have before. All ranks must take all of them.

    Args:
        tensors: on rank 0, and None on the others. Where all ranks have read the file themselves, so that `tensors` is
            given on all, no tensor is sent.
    """
    if not world.agree(missing=tensors is None)["missing"]:
        assert tensors is not None, "no rank lacks them"
        for name in list(tensors):
            yield name, tensors.pop(name)
        return
    mine = tensors or {}
    types = {TYPES[dtype]: dtype for dtype in TYPES}
    described: Json = world.of_first(lambda: [[name, TYPES[t.dtype], list(t.shape)] for name, t in mine.items()])
    for name, dtype, shape in described:
        tensor = mine.pop(name).cpu().contiguous() if world.is_first else torch.empty(shape, dtype=types[dtype])
        if tensor.numel():
            # As bytes, because not every backend sends every type.
            world.broadcast(tensor.view(-1).view(torch.uint8))
        yield name, tensor


def all_see(world: World, folder: Path) -> bool:
    """Return whether a folder that exists on rank 0 is the same folder on all ranks: on one machine, or a shared disk.

    Rank 0 writes a file of random content, which all ranks try to read.
    """
    token = secrets.token_hex(16)
    path = folder / f".shared.tmp-{os.getpid()}"
    if world.is_first:
        with suppress(OSError):
            path.write_text(token)
    name, expected = world.of_first(lambda: [str(path), token])
    found = ""
    with suppress(OSError):
        found = Path(name).read_text()
    seen = not world.agree(missing=found != expected)["missing"]
    if world.is_first:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return seen
