"""Distributed data parallel (Li et al., 2020): a replica of the model per rank, gradients summed in buckets."""

from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config import TrainConfig
from ..objective import NextTokenLoss
from .base import Parallel
from .groups import group_of


class DataParallel(Parallel):
    """A replica on each rank. The model stays a plain module; the wrapper is around the objective."""

    kind = "ddp"

    def _wrap(self, objective: NextTokenLoss, config: TrainConfig) -> nn.Module:
        # Broadcasts rank 0's weights. With bucket views the gradients are the buckets and no second copy of them.
        group = group_of(self.world)
        wrapped = super()._wrap(objective, config)
        self.ddp = DistributedDataParallel(wrapped, process_group=group, gradient_as_bucket_view=True)
        self.ddp.register_comm_hook(group, sum_gradients)
        return self.ddp

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        return nullcontext() if last else self.ddp.no_sync()


# Without annotations, because DDP compares them with its own classes, and mypy's copy of torch lacks one of those.
def sum_gradients(group, bucket):  # type: ignore[no-untyped-def]
    """Sum a bucket of gradients over the ranks. DDP without a hook would divide by the number of ranks."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])
