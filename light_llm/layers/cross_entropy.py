"""Cross-entropy of a linear head over a large vocabulary, without its logits; the gradient is made in the same pass.

With logits z = h W^T, their log-sum-exp l and nats n = l - z[y], the gradient is dn/dz = softmax(z) - onehot(y). The
vocabulary is processed in blocks that fit a cache. A block keeps e = exp(z - m) with m its own maximum in each row;
once l is known, softmax(z) = e exp(m - l), so that both gradients are products with e and a factor per row:

    dh = w (sum over blocks of exp(m - l) (e W) - W[y])        dW = e^T (w exp(m - l) h) - (w h at the rows y)

Only one pass, which makes e, reads and writes (N, V) numbers, and z itself never leaves the cache.
"""

import math
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tiling import autocast_dtype, row_ranges, without_autocast

# The size of a tile of logits: 4 MB in bfloat16, which a CPU's cache holds.
TILE_ROWS, TILE_COLUMNS = 1024, 2048


class SplitHead(Protocol):
    """A head whose rows are split over ranks: each computes the logits of its own ids (`vocab_parallel.py`)."""

    @property
    def table(self) -> Tensor:
        """The rows of this rank, (V_r, C)."""

    def __len__(self) -> int:
        """Return V."""

    def own_targets(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return which targets are ids of this rank, and their rows in `table`: (n,) each."""

    def combine(self, lse: Tensor, of_target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-sum-exps over all ids and the logits of the targets, from those of this rank: (n,) each."""

    def sum_gradients(self, d_hidden: Tensor) -> None:
        """Add up the gradients of the hidden states over the ranks, in place."""


def linear_cross_entropy_sum(
    hidden: Tensor,
    head: Tensor | SplitHead,
    targets: Tensor,
    weights: Tensor,
    *,
    rows: int,
    z_loss: float = 0.0,
    cap: float = 0.0,
) -> Tensor:
    """Sum weights_i * -log softmax(z_i)[targets_i] over i, with z = hidden head^T: (N, C), (V, C), (N,), (N,) -> ().

    Args:
        targets: ids; where the weight is 0, any number.
        rows: rows whose exponentials are held at once, (rows, V) in the format of the products.
        z_loss: the gradient, and not the value, is that of nats + z_loss l^2 (Chowdhery et al., 2022, section 5).
        cap: logits are cap tanh(z / cap) (Gemma Team, 2024); 0 for no cap.
    """
    table, split = (head, None) if isinstance(head, Tensor) else (head.table, head)
    targets, dtype = targets.clamp(0, len(head) - 1), autocast_dtype(hidden)
    return cast(Tensor, _LinearCrossEntropy.apply(hidden, table, targets, weights, dtype, rows, z_loss, cap, split))


@torch.no_grad()
def linear_cross_entropy(
    hidden: Tensor, head: Tensor | SplitHead, targets: Tensor, *, rows: int, cap: float = 0.0
) -> Tensor:
    """Return -log softmax(z_i)[targets_i], without gradients: (N, C), (V, C), (N,) -> (N,) float32."""
    table, split = (head, None) if isinstance(head, Tensor) else (head.table.detach(), head)
    dtype = autocast_dtype(hidden)
    return _per_row(hidden.to(dtype), table.to(dtype), targets.clamp(0, len(head) - 1), rows, cap, split)


@without_autocast
def _per_row(states: Tensor, table: Tensor, targets: Tensor, rows: int, cap: float, split: SplitHead | None) -> Tensor:
    vocabulary = vocab_blocks(table)
    # One buffer for all blocks, each overwrites the last: without gradients only the sums are needed.
    buffer = states.new_empty(min(rows, len(states)) * len(vocabulary[0].table))
    scratch = fp32_scratch(states, rows, len(vocabulary[0].table))
    parts = []
    for h, y in zip(states.split(rows), targets.split(rows), strict=True):
        softmaxes = [block_softmax(h, block, cap, buffer, scratch) for block in vocabulary]
        lse, of_target, *_ = _normalise(softmaxes, h, table, y, cap, split)
        parts.append(lse - of_target)
    return torch.cat(parts)


@dataclass(frozen=True)
class VocabBlock:
    """Consecutive rows of the head."""

    table: Tensor  # (S, C), padding rows of zeros included
    start: int  # the first id
    n_ids: int  # rows that are ids, the others are padding


@dataclass(frozen=True)
class BlockSoftmax:
    """The part of the softmax of n rows that falls into one block of S ids."""

    exps: Tensor  # (n, S) exp(z - top), in the format of the products; with a cap, times dz / d(h W^T)
    top: Tensor  # (n,) largest logit
    total: Tensor  # (n,) sum of exp(z - top)


def fp32_scratch(states: Tensor, rows: int, S: int) -> Tensor | None:
    """Allocate a float32 tile, in which tiles of a 16-bit format are summed on a CPU; None where it is not needed."""
    # torch would allocate such a tile at each sum. The small tensors made in between then fragment the freed memory,
    # and the heap of every second run grew by 0.4 GB (docs/log.md).
    if states.element_size() >= 4 or states.device.type != "cpu":
        return None
    return states.new_empty(min(rows, len(states), TILE_ROWS) * S, dtype=torch.float32)


def block_softmax(
    hidden: Tensor, block: VocabBlock, cap: float, buffer: Tensor, scratch: Tensor | None
) -> BlockSoftmax:
    """Compute a block's part of the softmax of n rows, (n, C), (S, C) -> (n, S), in the memory of `buffer`."""
    # A buffer that is used again, because the first touch of fresh pages costs more than the arithmetic.
    n, S = len(hidden), len(block.table)
    exps, top, total = buffer[: n * S].view(n, S), hidden.new_empty(n, 1), hidden.new_empty(n, dtype=torch.float32)
    for rows in row_ranges(n, TILE_ROWS if hidden.device.type == "cpu" else n):
        z = torch.mm(hidden[rows], block.table.T, out=exps[rows])
        if cap:
            z.div_(cap).tanh_()
            slope = 1 - z.square()
            z.mul_(cap)
        z[:, block.n_ids :] = -math.inf
        torch.amax(z, dim=-1, keepdim=True, out=top[rows])
        z.sub_(top[rows]).exp_()
        terms = z if scratch is None else scratch[: z.numel()].view(z.shape).copy_(z)
        torch.sum(terms, dim=-1, dtype=torch.float32, out=total[rows])
        if cap:
            z.mul_(slope)
    return BlockSoftmax(exps, top.squeeze(-1).float(), total)


def log_sum_exp(softmaxes: list[BlockSoftmax]) -> Tensor:
    """Return log sum exp over the whole vocabulary: (n,) float32."""
    return torch.stack([part.total.log() + part.top for part in softmaxes]).logsumexp(dim=0)


def target_logits(hidden: Tensor, table: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Return the logit of each row's target: (n,) float32."""
    # Rounded to the format of the products, as the log-sum-exp is: otherwise a probability could exceed 1.
    z = (hidden.float() * table[targets].float()).sum(dim=-1).to(table.dtype).float()
    return cap * torch.tanh(z / cap) if cap else z


def _normalise(
    softmaxes: list[BlockSoftmax], h: Tensor, table: Tensor, targets: Tensor, cap: float, split: SplitHead | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return log-sum-exps and logits of the targets over the whole vocabulary, (n,) float32 each.

    Also the rows of the targets in `table`, and for a split head which of them are this rank's, (n,) each.
    """
    if split is None:
        return log_sum_exp(softmaxes), target_logits(h, table, targets, cap), targets, None
    own, local = split.own_targets(targets)
    of_target = target_logits(h, table, local, cap).masked_fill_(~own, 0.0)
    return *split.combine(log_sum_exp(softmaxes), of_target), local, own


def vocab_blocks(table: Tensor) -> list[VocabBlock]:
    """Split the head's rows into blocks that fit a CPU's cache; elsewhere one block, padded to suit the products."""
    V = len(table)
    missing = -V % row_multiple(table.device)
    padded = F.pad(table, (0, 0, 0, missing)) if missing else table  # F.pad copies, even by 0 rows
    size = TILE_COLUMNS if table.device.type == "cpu" else len(padded)
    return [VocabBlock(part, i * size, min(size, V - i * size)) for i, part in enumerate(padded.split(size))]


def row_multiple(device: torch.device) -> int:
    """Return the number that the rows of a head are padded to a multiple of."""
    # A GPU's fast kernels need sizes that 64 divides, and 50,257 is odd.
    return 1 if device.type == "cpu" else 64


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes both gradients in the forward pass; the backward pass only multiplies them by the incoming gradient."""

    @staticmethod
    @without_autocast
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
        split: SplitHead | None,
    ) -> Tensor:
        table, states = head.to(dtype), hidden.to(dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(states, dtype=torch.float32) if needs_grad else None
        d_head = torch.empty_like(head, dtype=torch.float32) if needs_grad else None
        max_rows = min(rows, len(states))
        vocabulary = vocab_blocks(table)
        # The gradients need the exponentials of all blocks; the value alone can reuse one buffer.
        buffers = [states.new_empty(max_rows * len(block.table)) for block in vocabulary[: None if needs_grad else 1]]
        scratch = fp32_scratch(states, rows, len(vocabulary[0].table))
        value = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for chunk in row_ranges(len(states), rows):
            h, w = states[chunk], weights[chunk].float()
            blocks = zip(vocabulary, cycle(buffers), strict=False)
            softmaxes = [block_softmax(h, block, cap, buffer, scratch) for block, buffer in blocks]
            lse, of_target, y, own = _normalise(softmaxes, h, table, targets[chunk], cap, split)
            value += (lse - of_target) @ w
            if d_hidden is None or d_head is None:
                continue
            slope = w * (1 - (of_target / cap).square()) if cap else w
            # Only the owner of a target has its row of the head, and the gradient through it.
            slope = slope if own is None else slope * own
            d_hidden[chunk] = -slope[:, None] * table[y].float()
            factor = w * (1 + 2 * z_loss * lse)
            add_softmax_gradients(
                softmaxes, vocabulary, factor, lse, h, d_hidden[chunk], d_head, first=chunk.start == 0
            )
            d_head.index_add_(0, y, h.float() * -slope[:, None])
        if split is not None and d_hidden is not None:
            split.sum_gradients(d_hidden)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.dtypes = hidden.dtype, head.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        # Overwritten in place: autograd itself refuses a second backward pass.
        d_hidden, d_head = ctx.saved_tensors
        hidden_dtype, head_dtype = ctx.dtypes
        return (d_hidden.mul_(d_value).to(hidden_dtype), d_head.mul_(d_value).to(head_dtype), *[None] * 7)


def add_softmax_gradients(
    softmaxes: list[BlockSoftmax],
    vocabulary: list[VocabBlock],
    factor: Tensor,
    lse: Tensor,
    hidden: Tensor,
    d_hidden: Tensor,
    d_head: Tensor,
    *,
    first: bool,
) -> None:
    """Add the softmax's part of the gradients of n rows, in place; the first rows of a call overwrite d_head."""
    for part, block in zip(softmaxes, vocabulary, strict=True):
        scale = (factor * (part.top - lse).exp())[:, None]  # (n, 1)
        d_hidden.addcmul_(part.exps @ block.table, scale)
        d_block = (part.exps.T @ (hidden * scale).to(hidden.dtype))[: block.n_ids]
        total = d_head[block.start : block.start + block.n_ids]
        total.copy_(d_block) if first else total.add_(d_block)
