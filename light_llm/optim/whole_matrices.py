"""Muon on several ranks: each matrix is orthogonalized by one rank, its owner, and all ranks have the result.

An orthogonalization needs the whole matrix. By products of shards, each of which is a message, `torch.optim.Muon` would
take five times as long and give other results. Here a matrix is sent once, in the 16 bits in which Muon iterates, so
the update is that of one process to the bit.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


class WholeMatrices(torch.optim.Muon):
    """`torch.optim.Muon`, with its settings and state, for parameters that are sharded by rows or replicated.

    The i-th largest matrix belongs to rank i mod W. A sharded one is gathered there and scattered afterwards; of a
    replicated one, only the update is sent. Nothing changes before all messages of a step have arrived.
    """

    waiting = False  # for those messages

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters. All ranks call it together."""
        self.waiting = True
        updates = [(group, self._updates(group)) for group in self.param_groups]
        self.waiting = False
        for group, of_group in updates:
            for matrix, update in of_group:
                self._apply(matrix, update, group)

    def _updates(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters of a group and the updates of this rank's rows."""
        # By size, so that the matrices of consecutive owners take the same time.
        matrices = sorted((p for p in group["params"] if p.grad is not None), key=Tensor.numel, reverse=True)
        if not matrices:
            return []
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix.grad)
        share = self._updates_of_shards if isinstance(matrices[0], DTensor) else self._updates_of_replicas
        return list(zip(matrices, share(matrices, group), strict=True))

    def _mix(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the gradient of this rank's rows mixed with its momentum after this step, in 16 bits: (rows, n)."""
        gradient, momentum = local(matrix.grad), local(self.state[matrix]["momentum_buffer"])
        momentum = momentum.lerp(gradient, 1 - group["momentum"])
        mixed = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        return mixed.bfloat16()

    def _apply(self, matrix: Tensor, update: Tensor, group: dict[str, Any]) -> None:
        """Change this rank's rows of a matrix and of its momentum."""
        assert group["adjust_lr_fn"] == "match_rms_adamw", "no other one is used here"
        local(self.state[matrix]["momentum_buffer"]).lerp_(local(matrix.grad), 1 - group["momentum"])
        weights, lr = local(matrix), float(group["lr"])
        weights.mul_(1 - lr * group["weight_decay"])
        weights.add_(update, alpha=-lr * (0.2 * math.sqrt(max(matrix.shape))))

    def _updates_of_replicas(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Return the updates of whole matrices: (m, n) each. Each owner sends its own to all."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        updates: list[Tensor] = [matrix.new_empty(matrix.shape, dtype=torch.bfloat16) for matrix in matrices]
        for i in range(rank, len(matrices), ranks):
            updates[i].copy_(orthogonalize(self._mix(matrices[i], group), group))
        # As bytes, because gloo does not send 16-bit numbers everywhere.
        sent = [dist.broadcast(u.view(torch.uint8), i % ranks, async_op=True) for i, u in enumerate(updates)]
        for message in filter(None, sent):
            message.wait()
        return updates

    def _updates_of_shards(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Return the updates of this rank's rows of sharded matrices: (rows, n) each."""
        ranks, rank, process_group = shard_group(matrices[0])
        updates: list[Tensor] = []
        for first in range(0, len(matrices), ranks):
            round_ = matrices[first : first + ranks]
            parts = [self._mix(matrix, group) for matrix in round_]
            # Of the matrix that this rank owns: the elements of each rank, in the order of the rows.
            own = shard_sizes(round_[rank].shape, ranks) if rank < len(round_) else [0] * ranks
            sizes = [part.numel() for part in parts] + [0] * (ranks - len(parts))
            whole = exchange(torch.cat([part.flatten() for part in parts]), sizes, own, process_group)
            if rank < len(round_):
                whole = orthogonalize(whole.view(round_[rank].shape), group).flatten()
            received = exchange(whole, own, sizes, process_group)
            updates += [flat.view(part.shape) for flat, part in zip(received.split(sizes), parts, strict=False)]
        return updates


def orthogonalize(matrix: Tensor, group: dict[str, Any]) -> Tensor:
    """Return U V^T of a matrix U S V^T, nearly: Newton-Schulz iteration in 16 bits (Jordan et al., 2024).

    X <- a X + (b A + c A^2) X with A = X X^T, from X = G / |G|. In the order of operations of `torch.optim.Muon`, so
    that the results are equal to the bit.

    Args:
        matrix: (m, n), bfloat16; it may be overwritten.
    """
    a, b, c = group["ns_coefficients"]
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if is_tall else matrix
    x = x.div_(x.norm().clamp(min=group["eps"]))
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if is_tall else x


def exchange(elements: Tensor, sizes: Sequence[int], received: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """Send the first `sizes[0]` elements to rank 0 of a group, the next ones to rank 1, ...

    Returns what the ranks have sent here, in their order: `received[r]` elements of rank r.
    """
    result = elements.new_empty(sum(received))
    # As bytes, as above.
    width = elements.element_size()
    dist.all_to_all_single(
        result.view(torch.uint8),
        elements.contiguous().view(torch.uint8),
        [n * width for n in received],
        [n * width for n in sizes],
        group=group,
    )
    return result


def local(tensor: Tensor | None) -> Tensor:
    """Return this rank's rows of a parameter or of its state, without a copy."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_group(matrix: Tensor) -> tuple[int, int, dist.ProcessGroup]:
    """Return the number of ranks that have the rows of a sharded matrix, this one's place among them, and the group."""
    assert isinstance(matrix, DTensor)
    dim = next(dim for dim, placement in enumerate(matrix.placements) if isinstance(placement, Shard))
    mesh = matrix.device_mesh
    return mesh.size(dim), mesh.get_local_rank(dim), mesh.get_group(dim)


def shard_sizes(shape: torch.Size, ranks: int) -> list[int]:
    """Return the elements of a matrix that each rank has: `torch.chunk` gives ceil(m / ranks) rows, or the rest."""
    rows, columns = shape
    each = -(-rows // ranks)
    return [(min((r + 1) * each, rows) - min(r * each, rows)) * columns for r in range(ranks)]
