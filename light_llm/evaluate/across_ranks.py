"""Deal the batches of an evaluation to the ranks, and give all ranks the results in the order of the batches."""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import ConfigError
from ..runtime import World

T = TypeVar("T")


def deal(batches: Iterable[T], world: World) -> Iterator[tuple[list[T], T]]:
    """Yield the next batches, one for each rank, and that of this rank.

    In the last round there may be too few: a rank without a batch gets the last one, whose result it does not share.
    All ranks have to make equally many forward passes, because each is a message where the weights are sharded.
    """
    rest = iter(batches)
    while group := list(islice(rest, world.size)):
        yield group, group[min(world.rank, len(group) - 1)]


def gather_values(values: Tensor, shapes: Sequence[tuple[int, ...]], world: World) -> list[Tensor]:
    """Return the float64 tensors of the first ranks on all ranks, in the order of the ranks and equal to the bit.

    Args:
        values: of this rank; ignored if there is no shape for it.
        shapes: of the tensors of rank 0, 1, ...
    """
    sizes = [math.prod(shape) for shape in shapes]
    gathered = torch.zeros(sum(sizes), dtype=torch.float64)
    parts = gathered.split(sizes)
    if world.rank < len(shapes):
        parts[world.rank].copy_(values.reshape(-1))
    # Exact: the other ranks add zeros.
    world.sum(gathered)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def same_batches(batches: Iterable[tuple[Tensor, Tensor]], world: World) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a loader that each rank has for itself.

    Raises:
        ConfigError: on all ranks, if their loaders give different batches.
    """
    if world.size == 1:
        yield from batches
        return
    rest, done = iter(batches), 0
    while True:
        group = list(islice(rest, world.size))
        by_rank = world.gather([_checksum(batch) for batch in group])
        for rank, other in enumerate(by_rank):
            if other != by_rank[0]:
                raise ConfigError(
                    f"the held-out loader of rank {rank} does not give the batches of rank 0, from batch {done + 1} "
                    "on; give each rank the same loader, in the same order and without a DistributedSampler, because "
                    "the evaluation divides the batches itself"
                )
        yield from group
        done += len(group)
        if len(group) < world.size:
            return


def _checksum(batch: tuple[Tensor, Tensor]) -> int:
    tokens, targets = (tensor.contiguous().numpy().tobytes() for tensor in batch)
    return zlib.crc32(targets, zlib.crc32(tokens))
