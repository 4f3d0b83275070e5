"""A training module on the processes of a run. With one process nothing is wrapped and every method is the identity."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..config.tensor_parallel import check_tensor_parallel
from ..config.validation import divisors
from ..errors import ConfigError, DeviceError
from ..objective import NextTokenLoss
from ..runtime.world import World

Kind = Literal["one", "ddp", "fsdp", "tensor"]


class Parallel:
    """The objective of a run on one process; the subclasses put it on several.

    The global batch is split by rows. Each rank computes the sum of the losses of its rows over the weight of the whole
    batch, and gradients are summed over the ranks, never averaged: so no number depends on how many ranks there are.

    Attributes:
        module: called by the training loop as (tokens, targets) -> summed nats; the objective or its wrapper.
        data_rank, data_size: this rank and the number of ranks among which the rows of a batch are divided.
        data_world: those ranks. Work that is dealt to ranks, as an evaluation, is dealt to these.
    """

    kind: Kind = "one"

    def __init__(self, objective: NextTokenLoss, world: World, config: TrainConfig) -> None:
        self.world, self.data_rank, self.data_size = world, world.rank, world.size
        self.data_world: World = world
        self.module: nn.Module = self._wrap(objective, config)

    def _wrap(self, objective: NextTokenLoss, config: TrainConfig) -> nn.Module:
        """Compile the objective if the config says so, and return what the training loop calls."""
        # All batches have one shape, because the micro-batch divides the batch; dynamic shapes give slower kernels.
        if config.compile == "on":
            objective.compile(dynamic=False)
        return objective

    def rows(self, batch_size: int) -> slice:
        """Return this rank's rows of a global batch. Raises ConfigError if the batch does not divide."""
        n = self.data_size
        if batch_size % n:
            below, above = batch_size // n * n, (batch_size // n + 1) * n
            fitting = f"{{--batch-size {above}}}" + (f" or {{--batch-size {below}}}" if below else "")
            raise ConfigError(
                f"batch_size={batch_size} does not divide among {n} processes; use {fitting}, or another number of "
                f"processes: {divisors(batch_size)}"
            )
        each = batch_size // n
        return slice(self.data_rank * each, (self.data_rank + 1) * each)

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Return a context for the forward and backward pass of a micro-batch.

        Gradients accumulate on each rank, and are summed over the ranks only in the last one.
        """
        return nullcontext()

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the whole of a parameter, a gradient or a moment. All ranks call it in the same order."""
        return tensor

    def stand_in(self, name: str, tensor: Tensor) -> Tensor:
        """Return what a checkpoint writes, by `gather`, as a parameter or a moment (`parameter/entry`) of this name.

        It has the type and the shape of the whole. A DTensor has them, so only tensor parallelism needs another one.
        """
        return tensor

    def shard(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor, on the device of `like` and divided in the same way."""
        return tensor.to(like.device)

    def local(self, tensor: Tensor) -> Tensor:
        """Return this rank's slice of a parameter, a gradient or a moment, without a copy."""
        return tensor.detach()

    def offset(self, parameter: Tensor) -> int:
        """Return the number of elements of the whole parameter before this rank's slice."""
        return 0

    def replicas(self, parameter: Tensor) -> int:
        """Return how many ranks have the same slice of a parameter: all, unless it is sharded."""
        return self.world.size

    def combine_norms(self, norms: Tensor, replicas: Tensor) -> Tensor:
        """Combine the norms of the slices of P parameters, and their replicas, into those of the whole: (..., P).

        Without shards every rank has the norms of the whole, and nothing is sent.
        """
        return norms

    def finish_evaluation(self) -> None:
        """Free what forward passes without a backward pass have left behind."""


def check_parallel(kind: str, device: str) -> None:
    """Raise DeviceError if torch cannot divide the work of processes in this way on this device."""
    if kind == "fsdp" and torch.device(device).type not in ("cpu", "cuda"):
        raise DeviceError(
            f"FSDP runs on cpu and cuda, and this run is on {device}; use {{--parallel ddp}} or {{--device cpu}}"
        )


def parallelize(objective: NextTokenLoss, world: World, config: TrainConfig) -> Parallel:
    """Put an objective, whose model is on its device with its initial weights, on the processes of a run.

    Every rank gets the weights of rank 0. Blocks or the objective are compiled here where the config says "on", because
    that has an order. The optimizer is built afterwards, because sharding replaces the parameters.

    Args:
        config: with `device`, `dtype`, `compile` and `parallel` resolved; "auto" is DDP.

    Raises:
        DeviceError: FSDP on a device for which torch does not have it.
        ConfigError: tensor parallelism that does not suit the model or the number of processes.
    """
    check_tensor_parallel(objective.model.config, config, world.size)
    # Imported here, because one process needs no part of torch.distributed.
    if config.tensor > 1:
        from .tensor import TensorParallel

        return TensorParallel(objective, world, config)
    return divide_rows(objective, world, config)


def divide_rows(objective: NextTokenLoss, world: World, config: TrainConfig) -> Parallel:
    """Divide the rows of a batch by DDP or FSDP2 among ranks that otherwise do the same."""
    if world.size == 1:
        return Parallel(objective, world, config)
    if config.parallel == "fsdp":
        from .fsdp import FullySharded

        return FullySharded(objective, world, config)
    from .ddp import DataParallel

    return DataParallel(objective, world, config)
