"""Tensor parallelism: groups of ranks that share each matrix, beside DDP or FSDP2 over the rows of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import TrainConfig
from ..objective import NextTokenLoss
from .base import Parallel, divide_rows
from .groups import make_groups
from .tensor_layers import divide_model
from .tensor_layout import Layout, layouts

if TYPE_CHECKING:
    from ..runtime.world import World


class StandIn(Tensor):
    """A divided tensor as a checkpoint sees it: on the meta device, with the type and shape of the whole."""

    part: Tensor  # of this rank
    divided: Layout

    @staticmethod
    def of(part: Tensor, layout: Layout) -> StandIn:
        """Return what stands for the whole of a part."""
        whole = torch.empty(layout.whole_shape(part), dtype=part.dtype, device="meta")
        stand_in = torch.Tensor._make_subclass(StandIn, whole)
        stand_in.part, stand_in.divided = part, layout
        return stand_in


class TensorParallel(Parallel):
    """Each tensor group of N ranks is one replica for the data parallelism of the other dimension.

    The ranks of a group take the same rows and draw the same dropout masks. Parameters are divided within a group and
    replicated or sharded (FSDP2) over the groups; a checkpoint has whole tensors in the order of one process.
    """

    kind = "tensor"

    def __init__(self, objective: NextTokenLoss, world: World, config: TrainConfig) -> None:
        self.world, self.model = world, objective.model
        for tensor in chain(self.model.parameters(), self.model.buffers()):
            world.broadcast(tensor.detach())
        self.data_world, self.group = make_groups(world, config.tensor, config.timeout)
        self.data_rank, self.data_size = self.data_world.rank, self.data_world.size
        divide_model(self.model, self.group)
        self.data = divide_rows(objective, self.data_world, config)
        self.module = self.data.module
        by_name = layouts(self.model.config)
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        self.layouts = {p: by_name[name] for p, name in names.items() if name in by_name}
        # Gains of norms over single heads: a rank computes their gradient from its own heads.
        self.partial = [p for p, name in names.items() if ".q_norm." in name or ".k_norm." in name]

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        return self._micro_batch(last)

    @contextmanager
    def _micro_batch(self, last: bool) -> Iterator[None]:
        with self.data.micro_batch(last):
            yield
        if last:
            self._sum_partial_gradients()

    def _sum_partial_gradients(self) -> None:
        gradients = [self.data.local(p.grad) for p in self.partial if p.grad is not None]
        if gradients:
            total = self.group.sum(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def stand_in(self, name: str, tensor: Tensor) -> Tensor:
        layout = layouts(self.model.config).get(name.partition("/")[0])
        return tensor if layout is None or tensor.ndim == 0 else StandIn.of(tensor.detach(), layout)

    def gather(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, StandIn):
            return self.data.gather(tensor)
        part, layout = self.data.gather(tensor.part), tensor.divided
        return layout.join(self.group.all_gather(part.contiguous(), layout.sizes(self.group.size), layout.dim))

    def shard(self, tensor: Tensor, like: Tensor) -> Tensor:
        layout = self.layouts.get(like)
        # A tensor of another shape stays as it is, and the caller refuses it.
        if layout is None or tensor.shape != layout.whole_shape(like):
            return self.data.shard(tensor, like)
        return self.data.shard(layout.part(tensor, self.group.rank, self.group.size), like)

    def local(self, tensor: Tensor) -> Tensor:
        return self.data.local(tensor)

    def offset(self, parameter: Tensor) -> int:
        return self.data.offset(parameter)

    def replicas(self, parameter: Tensor) -> int:
        # Of the ranks of a group, each has a part of its own, or all have the same.
        return self.data.replicas(parameter) * (1 if parameter in self.layouts else self.group.size)

    def combine_norms(self, norms: Tensor, replicas: Tensor) -> Tensor:
        # Over all ranks, because a parameter is divided within a group and perhaps over the groups.
        return self.world.sum(norms.square() / replicas).sqrt()

    def finish_evaluation(self) -> None:
        self.data.finish_evaluation()
