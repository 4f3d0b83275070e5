"""The cross-entropy of a large vocabulary without its logits, and its gradient in the same pass.

With logits z = h W^T, their log-sum-exp l and nats n = l - z[y], the gradient is dn/dz = softmax(z) - onehot(y). The
vocabulary is gone through in blocks that fit a cache. A block keeps e = exp(z - m) with m its own maximum in each row;
once l is known, softmax(z) = e exp(m - l), so that both gradients are products with e and a factor a row:

    dh = w (sum over blocks of exp(m - l) (e W) - W[y])        dW = e^T (w exp(m - l) h) - (w h at the rows y)

No pass goes over (N, V) but the one that makes e, and z itself never leaves the cache.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .formats import as_given, product_format

ROWS, COLUMNS = 1024, 2048  # of a tile of logits: 4 MB in bfloat16, which a CPU's cache holds


def nats_sum(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, *, rows: int, z_loss: float = 0.0, cap: float = 0.0
) -> Tensor:
    """sum_i weights_i * -log softmax(z_i)[targets_i] with z = hidden head^T: (N, C), (V, C), (N,), (N,) -> ().

    Args:
        targets: ids; where the weight is 0, any number.
        rows: rows whose exponentials are held at once, (rows, V) in the format of the products.
        z_loss: the gradient, and not the value, is that of nats + z_loss l^2 (Chowdhery et al., 2022, section 5).
        cap: logits are cap tanh(z / cap) (Gemma Team, 2024); 0: as they are.
    """
    dtype = product_format(hidden)
    return cast(Tensor, _Nats.apply(hidden, head, targets.clamp(0, len(head) - 1), weights, dtype, rows, z_loss, cap))


@torch.no_grad()
def nats(hidden: Tensor, head: Tensor, targets: Tensor, *, rows: int, cap: float = 0.0) -> Tensor:
    """-log softmax(z_i)[targets_i], without gradients: (N, C), (V, C), (N,) -> (N,) float32."""
    dtype = product_format(hidden)
    return _nats(hidden.to(dtype), head.to(dtype), targets.clamp(0, len(head) - 1), rows, cap)


@as_given
def _nats(states: Tensor, table: Tensor, targets: Tensor, rows: int, cap: float) -> Tensor:
    vocabulary = blocks(table)
    memory = states.new_empty(min(rows, len(states)) * len(vocabulary[0].table))  # one block's: only the sums are kept
    adding = memory_of_sums(states, rows, len(vocabulary[0].table))
    parts = []
    for h, y in zip(states.split(rows), targets.split(rows), strict=True):
        pieces = [softmax_piece(h, block, cap, memory, adding) for block in vocabulary]
        parts.append(log_sum_exp(pieces) - target_logits(h, table, y, cap))
    return torch.cat(parts)


@dataclass(frozen=True)
class Block:
    """A part of the vocabulary."""

    table: Tensor  # (S, C), rows of zeros at its end included
    start: int  # its first id
    n_ids: int  # how many of its rows are ids


@dataclass(frozen=True)
class Piece:
    """What n rows have in one block of S ids."""

    exps: Tensor  # (n, S) exp(z - top), in the format of the products; with a cap, times dz / d(h W^T)
    top: Tensor  # (n,) largest logit
    total: Tensor  # (n,) sum of exp(z - top)


def memory_of_sums(states: Tensor, rows: int, S: int) -> Tensor | None:
    """Room for a tile in float32, in which one in a shorter format is summed on a CPU.

    torch would ask for such room at each sum; the small tensors made in between then cut up what was freed, and the
    heap of every second run grew by 0.4 GB (docs/log.md).
    """
    if states.element_size() >= 4 or states.device.type != "cpu":
        return None
    return states.new_empty(min(rows, len(states), ROWS) * S, dtype=torch.float32)


def softmax_piece(hidden: Tensor, block: Block, cap: float, memory: Tensor, adding: Tensor | None) -> Piece:
    """(n, C), (S, C) -> the block's part of the softmax of n rows, made in the memory given: fresh pages cost time."""
    n, S = len(hidden), len(block.table)
    exps, top, total = memory[: n * S].view(n, S), hidden.new_empty(n, 1), hidden.new_empty(n, dtype=torch.float32)
    for rows in _chunks(n, ROWS if hidden.device.type == "cpu" else n):
        z = torch.mm(hidden[rows], block.table.T, out=exps[rows])
        if cap:
            z.div_(cap).tanh_()
            slope = 1 - z.square()
            z.mul_(cap)
        z[:, block.n_ids :] = -math.inf
        torch.amax(z, dim=-1, keepdim=True, out=top[rows])
        z.sub_(top[rows]).exp_()
        terms = z if adding is None else adding[: z.numel()].view(z.shape).copy_(z)
        torch.sum(terms, dim=-1, dtype=torch.float32, out=total[rows])
        if cap:
            z.mul_(slope)
    return Piece(exps, top.squeeze(-1).float(), total)


def log_sum_exp(pieces: list[Piece]) -> Tensor:
    """log sum exp over the whole vocabulary: (n,) float32."""
    return torch.stack([piece.total.log() + piece.top for piece in pieces]).logsumexp(dim=0)


def target_logits(hidden: Tensor, table: Tensor, targets: Tensor, cap: float) -> Tensor:
    """The logit of each row's target, rounded as the products are, so that no probability comes out above 1: (n,)."""
    z = (hidden.float() * table[targets].float()).sum(dim=-1).to(table.dtype).float()
    return cap * torch.tanh(z / cap) if cap else z


def blocks(table: Tensor) -> list[Block]:
    """The vocabulary in blocks of rows: of a cache's size on a CPU; elsewhere whole, and padded to suit products."""
    V = len(table)
    missing = -V % multiple_of_rows(table.device)
    padded = F.pad(table, (0, 0, 0, missing)) if missing else table  # padding by nothing would copy it
    size = COLUMNS if table.device.type == "cpu" else len(padded)
    return [Block(part, i * size, min(size, V - i * size)) for i, part in enumerate(padded.split(size))]


def multiple_of_rows(device: torch.device) -> int:
    """A GPU's quick kernels want sizes that 64 divides, and 50,257 is odd. The padding never leaves this file."""
    return 1 if device.type == "cpu" else 64


class _Nats(torch.autograd.Function):
    """Value and gradients together; the backward pass only multiplies by what comes from above."""

    @staticmethod
    @as_given
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        rows: int,
        z_loss: float,
        cap: float,
    ) -> Tensor:
        table, states = head.to(dtype), hidden.to(dtype)
        wanted = any(ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(states, dtype=torch.float32) if wanted else None
        d_head = torch.empty_like(head, dtype=torch.float32) if wanted else None
        most = min(rows, len(states))
        vocabulary = blocks(table)
        memory = [states.new_empty(most * len(block.table)) for block in vocabulary[: None if wanted else 1]]
        adding = memory_of_sums(states, rows, len(vocabulary[0].table))
        value = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for chunk in _chunks(len(states), rows):
            h, y, w = states[chunk], targets[chunk], weights[chunk].float()
            of_blocks = zip(vocabulary, cycle(memory), strict=False)
            pieces = [softmax_piece(h, block, cap, m, adding) for block, m in of_blocks]
            lse, chosen = log_sum_exp(pieces), target_logits(h, table, y, cap)
            value += (lse - chosen) @ w
            if d_hidden is None or d_head is None:
                continue
            slope = w * (1 - (chosen / cap).square()) if cap else w
            d_hidden[chunk] = -slope[:, None] * table[y].float()
            factor = w * (1 + 2 * z_loss * lse)
            _add_products(pieces, vocabulary, factor, lse, h, d_hidden[chunk], d_head, first=chunk.start == 0)
            d_head.index_add_(0, y, h.float() * -slope[:, None])
        ctx.save_for_backward(d_hidden, d_head)
        ctx.dtypes = hidden.dtype, head.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors  # overwritten: a second backward pass is refused by autograd itself
        for_hidden, for_head = ctx.dtypes
        return (d_hidden.mul_(d_value).to(for_hidden), d_head.mul_(d_value).to(for_head), *[None] * 6)


def _add_products(
    pieces: list[Piece],
    vocabulary: list[Block],
    factor: Tensor,
    lse: Tensor,
    hidden: Tensor,
    d_hidden: Tensor,
    d_head: Tensor,
    *,
    first: bool,
) -> None:
    """The softmax's part of both gradients of n rows; d_head is begun by the first rows and added to by the others."""
    for piece, block in zip(pieces, vocabulary, strict=True):
        scale = (factor * (piece.top - lse).exp())[:, None]  # (n, 1)
        d_hidden.addcmul_(piece.exps @ block.table, scale)
        of_block = (piece.exps.T @ (hidden * scale).to(hidden.dtype))[: block.n_ids]
        place = d_head[block.start : block.start + block.n_ids]
        place.copy_(of_block) if first else place.add_(of_block)


def _chunks(n: int, size: int) -> Iterator[slice]:
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))
