"""Some of the ranks of a run, which send messages among themselves: the groups of a two-dimensional mesh."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..runtime.process_group import silent_stdout
from ..runtime.world import Json, World


class TensorGroup:
    """The ranks that share each matrix. They hold the same rows of a batch and the same residual stream."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def sum(self, x: Tensor) -> Tensor:
        """Add up a contiguous tensor over the ranks, in place. Returns it."""
        dist.all_reduce(x, group=self.group)
        return x

    def max(self, x: Tensor) -> Tensor:
        """Take the elementwise maximum of a contiguous tensor over the ranks, in place. Returns it."""
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def all_gather(self, x: Tensor, sizes: list[int], dim: int) -> list[Tensor]:
        """Return the tensors of all ranks, which have these sizes in one dimension and are otherwise alike."""
        # gloo gathers tensors of one shape only.
        padded = x.new_zeros((*x.shape[:dim], max(sizes), *x.shape[dim + 1 :]))
        padded.narrow(dim, 0, x.size(dim)).copy_(x)
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.group)
        return [part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)]


class GroupWorld(World):
    """Ranks that divide the rows of a batch while other ranks of the run do the same: one of each tensor group.

    Sums and values are those of the group. Agreements are of all ranks of the run, which call them together.
    """

    def __init__(self, world: World, rank: int, size: int, group: ProcessGroup) -> None:
        super().__init__(rank, size)
        self.world, self.group = world, group

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self.group)
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        dist.broadcast(x, group=self.group, group_src=0)
        return x

    def gather(self, value: Json) -> list[Json]:
        values = self.world.gather(value)
        return [values[rank] for rank in dist.get_process_group_ranks(self.group)]

    def agree(self, **flags: int) -> dict[str, int]:
        return self.world.agree(**flags)

    def barrier(self) -> None:
        self.world.barrier()


def group_of(world: World) -> ProcessGroup | None:
    """Return the process group of a world that is a part of the run; None for all ranks."""
    return world.group if isinstance(world, GroupWorld) else None


def make_groups(world: World, tensor: int, timeout: float) -> tuple[GroupWorld, TensorGroup]:
    """Divide the ranks of a run into tensor groups of neighbours, and into the groups that divide the batch.

    With 4 ranks and tensor groups of 2 these are {0, 1}, {2, 3} and {0, 2}, {1, 3}. All ranks call it.

    Args:
        tensor: ranks of a tensor group.
        timeout: seconds that a message waits for the other ranks.

    Returns:
        The two groups of this rank.
    """
    data_size, limit = world.size // tensor, timedelta(seconds=timeout)
    # Every rank makes every group, in one order. Neighbours are on one machine, where messages are fast.
    with silent_stdout():
        tensor_groups = [dist.new_group([d * tensor + t for t in range(tensor)], limit) for d in range(data_size)]
        data_groups = [dist.new_group([d * tensor + t for d in range(data_size)], limit) for t in range(tensor)]
    data_rank, tensor_rank = divmod(world.rank, tensor)
    own, data = tensor_groups[data_rank], data_groups[tensor_rank]
    assert isinstance(own, ProcessGroup) and isinstance(data, ProcessGroup)
    return GroupWorld(world, data_rank, data_size, data), TensorGroup(own)
