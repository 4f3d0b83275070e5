"""Divide a model over a tensor group: heads, hidden units and the vocabulary (Megatron-LM; Shoeybi et al., 2019).

A branch of a block takes the whole residual stream, computes with its own heads or hidden units, and its last matrix
gives a summand of the result. So a branch needs one all-reduce of (B, T, C) in the forward pass, after its last matrix,
and one in the backward pass, of the gradient of its input. The residual stream, norms and dropout are the same on all
ranks of the group.

The all-reduces are written out, and the parameters are plain tensors. DTensor's own styles of tensor parallelism would
cut the packed rows of c_attn across heads, and DDP and the fused AdamW do not take a model with some DTensors in it.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.vocab_parallel import VocabShard
from ..model import LightLLM, soft_cap
from .groups import TensorGroup
from .tensor_layout import first_row, layouts


class _SumOverGroup(torch.autograd.Function):
    """Sum in the forward pass, identity in the backward pass: after the last matrix of a branch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: TensorGroup) -> Tensor:
        ctx.mark_dirty(x)
        return group.sum(x)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None]:
        return d_y, None


class _CopyToGroup(torch.autograd.Function):
    """Identity in the forward pass, sum in the backward pass: before the first matrix of a branch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None]:
        # A copy, because autograd may give the same tensor to others.
        return ctx.group.sum(d_y.clone(memory_format=torch.contiguous_format)), None


class _GatherVocabulary(torch.autograd.Function):
    """Joins the logits of all ranks, (..., V_r) -> (..., V). Their gradient is the same on all ranks."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sizes: list[int], group: TensorGroup) -> Tensor:
        ctx.sizes, ctx.rank = sizes, group.rank
        return torch.cat(group.all_gather(logits, sizes, logits.ndim - 1), dim=-1)

    @staticmethod
    def backward(ctx: Any, d_logits: Tensor) -> tuple[Tensor, None, None]:
        return d_logits.split(ctx.sizes, dim=-1)[ctx.rank], None, None


# torch.compile leaves its graph for a message, and continues after it.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def sum_over_group(x: Tensor, group: TensorGroup) -> Tensor:
    """Return the sum over the ranks; x is overwritten. The gradient of each summand is that of the sum."""
    return cast(Tensor, _SumOverGroup.apply(x, group))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def copy_to_group(x: Tensor, group: TensorGroup) -> Tensor:
    """Return x, which is the same on all ranks; its gradient is the sum of those that the ranks compute."""
    return cast(Tensor, _CopyToGroup.apply(x, group))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def gather_vocabulary(logits: Tensor, sizes: list[int], group: TensorGroup) -> Tensor:
    """Return the logits of all ids, (..., V), from those of each rank."""
    return cast(Tensor, _GatherVocabulary.apply(logits, sizes, group))


class RowParallelLinear(nn.Linear):
    """x W^T + b with the columns of W divided: each rank has its part of x (..., in / N), and all get (..., out)."""

    group: TensorGroup

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in / N) -> (..., out)."""
        y = sum_over_group(F.linear(x, self.weight), self.group)
        # After the sum, so that the bias is added once.
        return y if self.bias is None else y + self.bias.to(y.dtype)


class VocabParallelEmbedding(nn.Embedding):
    """A table with its rows divided: a rank looks up its own ids, and the sum has a row from one rank for each id."""

    group: TensorGroup
    first: int  # the id of its first row
    vocab_size: int  # of all ranks

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up ids, (B, T) -> (B, T, C). Raises IndexError, on the CPU, for an id that no rank has."""
        if tokens.device.type == "cpu" and bool(((tokens < 0) | (tokens >= self.vocab_size)).any()):
            raise IndexError("index out of range")
        rows = tokens - self.first
        is_own = (rows >= 0) & (rows < len(self.weight))
        x = F.embedding(rows.clamp(0, len(self.weight) - 1), self.weight)
        return sum_over_group(x.masked_fill(~is_own[..., None], 0.0), self.group)


class TensorParallelLightLLM(LightLLM):
    """A LightLLM of which each rank has some heads, hidden units and ids. All ranks call it together."""

    group: TensorGroup

    @property
    def head_weight(self) -> VocabShard:  # type: ignore[override]
        """The rows of the head on this rank, with the cross-entropy over those of all."""
        table: Any = self.wte if self.lm_head is None else self.lm_head
        return VocabShard(table.weight, table.first, table.vocab_size, self.group)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head, and the soft cap if there is one: (..., C) -> (..., V) on all ranks."""
        own = F.linear(copy_to_group(hidden, self.group), self.head_weight.table)
        sizes = layouts(self.config)["wte.weight"].sizes(self.group.size)
        return soft_cap(gather_vocabulary(own, sizes, self.group), self.logit_cap)

    def gather_units(self, x: Tensor, dim: int) -> Tensor:
        """Return the heads or hidden units of all ranks."""
        return torch.cat(self.group.all_gather(x.contiguous(), [x.size(dim)] * self.group.size, dim % x.ndim), dim)


@torch.no_grad()
def divide_model(model: LightLLM, group: TensorGroup) -> None:
    """Divide a model in place: each rank keeps its part of every parameter of `layouts`.

    The weights must be the same on all ranks. Modules keep their names and hooks.
    """
    config, n, rank = model.config, group.size, group.rank
    parameters = dict(model.named_parameters())
    for name, layout in layouts(config).items():
        module_name, _, own_name = name.rpartition(".")
        part = layout.part(parameters[name], rank, n)
        setattr(model.get_submodule(module_name), own_name, nn.Parameter(part, parameters[name].requires_grad))

    def before_branch(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (copy_to_group(inputs[0], group), *inputs[1:])

    for block in list[Any](model.h):
        block.attn.heads = tuple(heads // n for heads in block.attn.heads)
        for branch in (block.attn, block.mlp):
            branch.register_forward_pre_hook(before_branch)
            branch.c_proj.__class__ = RowParallelLinear
            branch.c_proj.group = group
    for table in (model.wte, model.lm_head):
        if table is not None:
            table.__class__ = VocabParallelEmbedding
            divided = cast(VocabParallelEmbedding, table)
            divided.group, divided.vocab_size = group, config.vocab_size
            divided.first = first_row(config.vocab_size, rank, n)
    # As `fully_shard` does: the object that callbacks and the caller have stays the same.
    model.__class__ = TensorParallelLightLLM
    cast(TensorParallelLightLLM, model).group = group
    for linear in (module for module in model.modules() if isinstance(module, nn.Linear)):
        linear.out_features, linear.in_features = linear.weight.shape
