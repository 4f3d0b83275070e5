"""Fully sharded data parallel (FSDP2; Zhao et al., 2023): each rank stores a slice of every parameter.

A slice is rows [a, b) of a tensor, with its gradient and its optimizer state. The whole of a block is gathered for its
forward pass and again for its backward pass, and its gradients are summed and sliced after that.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ..config import TrainConfig
from ..model import LightLLM
from ..objective import NextTokenLoss
from ..runtime.process_group import silent_stdout
from ..runtime.world import World
from .base import Parallel, check_parallel
from .groups import group_of

# The loss, evaluation, decoding and probes call these instead of the model itself.
FORWARD_METHODS = ("hidden_states", "logits")


class FullySharded(Parallel):
    """A slice of the model on each rank. The model stays the same object, with the same names; its parameters become
    DTensors, and every call of it is one of all ranks.
    """

    kind = "fsdp"

    def _wrap(self, objective: NextTokenLoss, config: TrainConfig) -> nn.Module:
        check_parallel(self.kind, config.device)
        device = torch.device(config.device).type
        self.model = objective.model
        # The output of a Linear layer is a view, and nothing here changes it in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        # DDP does this by itself; FSDP would keep a slice of what each rank happens to have.
        for tensor in chain(self.model.parameters(), self.model.buffers()):
            self.world.broadcast(tensor.detach())
        # A compiled block is compiled before it is sharded, so that FSDP's hooks stay outside of its graph.
        if config.compile == "on":
            for block in self.model.h:
                block.compile(dynamic=False)
        shard_model(self.model, make_mesh(self.world, device, config.timeout), config)
        return objective

    @contextmanager
    def _accumulate(self, last: bool) -> Iterator[None]:
        root: Any = self.model
        root.set_requires_gradient_sync(last)
        yield

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        return self._accumulate(last)

    def gather(self, tensor: Tensor) -> Tensor:
        with torch.no_grad():
            return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def shard(self, tensor: Tensor, like: Tensor) -> Tensor:
        # A counter of Adam's is not divided, although its parameter is.
        if not isinstance(like, DTensor) or tensor.ndim == 0:
            return tensor.to(like.device)
        # No message: every rank has the whole tensor and keeps its slice.
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    def local(self, tensor: Tensor) -> Tensor:
        with torch.no_grad():
            return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()

    def offset(self, parameter: Tensor) -> int:
        if not isinstance(parameter, DTensor):
            return 0
        index, n = shard_of(parameter)
        rows = len(parameter)
        # FSDP divides the rows as torch.chunk does: ceil(rows / n) each, and fewer or none on the last ranks.
        return min(index * -(-rows // n), rows) * math.prod(parameter.shape[1:])

    def replicas(self, parameter: Tensor) -> int:
        return self.world.size // shard_of(parameter)[1]

    def combine_norms(self, norms: Tensor, replicas: Tensor) -> Tensor:
        # A slice that several ranks have is in the sum as many times.
        return self.world.sum(norms.square() / replicas).sqrt()

    def finish_evaluation(self) -> None:
        # After a forward pass without a backward pass the root module keeps its whole parameters.
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def make_mesh(world: World, device: str, timeout: float) -> DeviceMesh:
    """Return the mesh of a run: its ranks in a line; or on several machines replicas of shards (HSDP).

    Then each machine has all slices, so that parameters are gathered inside a machine and only gradients cross between.

    Args:
        timeout: seconds that a message waits for the other ranks.
    """
    if (group := group_of(world)) is not None:
        return DeviceMesh.from_group(group, device, mesh_dim_names=("shard",))
    if 1 < world.local_size < world.size and world.size % world.local_size == 0:
        shape = (world.size // world.local_size, world.local_size)
        with silent_stdout():
            mesh = init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))
        # These groups are new, with torch's default of many minutes. The public name is newer than torch 2.10.
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        for group in mesh.get_all_groups():
            set_timeout(timedelta(seconds=timeout), group)
        return mesh
    with silent_stdout():
        return init_device_mesh(device, (world.size,), mesh_dim_names=("shard",))


def shard_model(model: LightLLM, mesh: DeviceMesh, config: TrainConfig) -> None:
    """Shard a model in place, block by block, with gradients that are summed in float32.

    In bfloat16, only the Linear layers are gathered in 16 bits: autocast would cast the same weights to the same
    numbers, so the arithmetic is that of one process to the bit, and half as many bytes are sent. Norms, tables and the
    residual stream stay in float32.
    """
    for block in model.h:
        # Hooks inside a block would split its graph, so a compiled block is gathered as one, in float32.
        if config.dtype == "bfloat16" and config.compile != "on":
            layers: list[nn.Module] = [module for module in block.modules() if isinstance(module, nn.Linear)]
            policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
            fully_shard(layers, mesh=mesh, mp_policy=policy)
            for layer in layers:
                cast_outside_autocast(layer, torch.bfloat16)
        else:
            fully_shard(block, mesh=mesh)
    # Needed by the backward pass first, so it is not freed before.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for name in FORWARD_METHODS:
        register_fsdp_forward_method(model, name)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # gloo has no reduction with a factor.
            module.set_force_sum_reduction_for_comms(True)


def cast_outside_autocast(layer: nn.Module, dtype: torch.dtype) -> None:
    """Let a Linear layer whose weights are gathered in dtype take and return float32 where autocast is off: samples."""

    def cast(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        return (x,) if torch.is_autocast_enabled(x.device.type) else (x.to(dtype),)

    def restore(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output if torch.is_autocast_enabled(output.device.type) else output.float()

    layer.register_forward_pre_hook(cast)
    layer.register_forward_hook(restore)


def shard_of(parameter: Tensor) -> tuple[int, int]:
    """Return which slice of the rows of a parameter this rank has, and the number of slices."""
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        for dim, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard):
                return mesh.get_local_rank(dim), mesh.size(dim)
    return 0, 1
