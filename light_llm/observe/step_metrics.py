"""Measure every step without waiting for the device: norms of gradients, weights and updates, by parameter group.

Hooks before and after the optimizer's step read a sample of the weights and change nothing. The gradient norm is the
one that clipping computes anyway. Where parameters are sharded, each rank measures its slices, and the squares are
added up over the ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..layers.norms import RMSNorm1p
from .metrics import round_significant

MAX_SAMPLE = 1 << 14  # elements of a tensor that are read; smaller tensors are read whole
_BRANCH_OF_NORM = {"ln_1": "attn", "ln_1_post": "attn", "ln_2": "mlp", "ln_2_post": "mlp"}


def group_of(name: str) -> str:
    """Return the group of a parameter: a part of the model. A norm belongs to the branch that it feeds, or ends.

    >>> [group_of(n) for n in ("wte.weight", "h.3.ln_1.bias", "h.3.attn.c_proj.weight", "h.3.ln_2_post.weight")]
    ['wte', 'h.3.attn', 'h.3.attn', 'h.3.mlp']
    """
    parts = name.split(".")
    if parts[0] != "h":
        return parts[0]
    return f"h.{parts[1]}.{_BRANCH_OF_NORM.get(parts[2], parts[2])}"


@dataclass
class StepNorms:
    """The norms of one step by group, on the device. Those of the update are set when it is made."""

    groups: tuple[str, ...]
    gradients: Tensor  # (G,) before clipping
    weights: Tensor | None = None  # (G,) after the update, estimated from a sample of each large tensor
    updates: Tensor | None = None  # (G,) of the change, estimated likewise; None without an update

    def grad_norms(self) -> dict[str, float]:
        """Return the norm of each group's gradient."""
        return _by_name(self.groups, self.gradients)

    def update_ratios(self) -> dict[str, float]:
        """Return |w' - w| / |w'| of each group; empty without an update."""
        if self.weights is None or self.updates is None:
            return {}
        return _by_name(self.groups, self.updates / self.weights)

    def weight_norm(self) -> float | None:
        """Return the norm of all weights after the update; None without an update."""
        return None if self.weights is None else float(torch.linalg.vector_norm(self.weights))


class Shards(Protocol):
    """The slices of tensors that this rank has (`parallel.Parallel`)."""

    def local(self, tensor: Tensor) -> Tensor:
        """Return this rank's slice of a parameter or gradient: consecutive elements of the whole."""

    def offset(self, parameter: Tensor) -> int:
        """Return the number of elements of the whole before this rank's slice."""

    def replicas(self, parameter: Tensor) -> int:
        """Return how many ranks have the same slice."""

    def combine_norms(self, norms: Tensor, replicas: Tensor) -> Tensor:
        """Combine the norms of the slices of P parameters, and their replicas, into those of the whole: (..., P)."""


class WholeTensors:
    """The tensors of a run without shards: each slice is the whole."""

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def offset(self, parameter: Tensor) -> int:
        return 0

    def replicas(self, parameter: Tensor) -> int:
        return 1

    def combine_norms(self, norms: Tensor, replicas: Tensor) -> Tensor:
        return norms


@dataclass
class StepMetrics:
    """Measures the steps of an optimizer over a model, as a context manager.

    Args:
        model: its trainable parameters are measured, each in the group that `group_of` names.
        optimizer: gets two hooks, which are removed at the end of the context.
        shards: this rank's slices of the parameters; by default the whole of them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    shards: Shards = field(default_factory=WholeTensors)
    current: StepNorms | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        # Weights that start at 0 and differ from a gain by 1: the gain is what an update is compared with.
        self.around_1 = {id(norm.weight) for norm in self.model.modules() if isinstance(norm, RMSNorm1p)}
        names = [group_of(name) for name, _ in named]
        self.groups = tuple(dict.fromkeys(names))
        device = self.parameters[0].device
        self.group_index = torch.tensor([self.groups.index(name) for name in names], device=device)
        self.replicas = torch.tensor([self.shards.replicas(p) for p in self.parameters], device=device)
        strides = [sample_stride(p.shape) for p in self.parameters]
        # The squared norm of a sample of m of n elements is m / n of the whole in expectation.
        scale = [math.sqrt(p.numel() / -(-p.numel() // k)) for p, k in zip(self.parameters, strides, strict=True)]
        self.scale = torch.tensor(scale, device=device)
        # A slice has the elements of the whole's sample that are in it, so that all ranks together sample the same.
        self.sampled = [
            slice(-self.shards.offset(p) % k, None, k) for p, k in zip(self.parameters, strides, strict=True)
        ]
        self.sample_sizes = [len(sample) for sample in self._samples()]
        self.sample_before: Tensor | None = None
        self.hooks = (
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        )

    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradients to a global norm like `torch.nn.utils.clip_grad_norm_`, and return the norm before, ()."""
        with_grad = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        gradients = [self.shards.local(p.grad) for p in self.parameters if p.grad is not None]
        # Indexing with a list copies it to the device and waits, so skip it in the usual case.
        is_complete = len(with_grad) == len(self.parameters)
        group_index = self.group_index if is_complete else self.group_index[with_grad]
        replicas = self.replicas if is_complete else self.replicas[with_grad]
        # As in torch's own clipping, private functions: one kernel for all tensors on a GPU.
        norms = self.shards.combine_norms(torch.stack(torch._foreach_norm(gradients)), replicas)
        total = torch.linalg.vector_norm(norms)
        torch._foreach_mul_(gradients, (max_norm / (total + 1e-6)).clamp(max=1.0))
        self.current = StepNorms(self.groups, self._sum_by_group(norms, group_index))
        return total

    def __enter__(self) -> "StepMetrics":
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _before_step(self, *_: object) -> None:
        self.sample_before = self._sample()

    def _after_step(self, *_: object) -> None:
        if self.current is None or self.sample_before is None:
            return
        after = self._sample()
        parts = [*after.split(self.sample_sizes), *(after - self.sample_before).split(self.sample_sizes)]
        norms = torch.stack(torch._foreach_norm(parts)).view(2, -1)
        weights, updates = self.shards.combine_norms(norms, self.replicas)
        self.current.weights = self._sum_by_group(weights * self.scale, self.group_index)
        self.current.updates = self._sum_by_group(updates * self.scale, self.group_index)
        self.sample_before = None

    def _sample(self) -> Tensor:
        return torch.cat(
            [s + 1 if id(p) in self.around_1 else s for p, s in zip(self.parameters, self._samples(), strict=True)]
        )

    def _samples(self) -> list[Tensor]:
        """Return the sampled elements of each parameter that are in this rank's slice."""
        slices = zip(self.parameters, self.sampled, strict=True)
        return [self.shards.local(p).reshape(-1)[sampled] for p, sampled in slices]

    def _sum_by_group(self, norms: Tensor, group_index: Tensor) -> Tensor:
        """Combine the norms of tensors (P,) into those of groups (G,): squares add up."""
        return norms.new_zeros(len(self.groups)).index_add_(0, group_index, norms.square()).sqrt()


def sample_stride(shape: Sequence[int], limit: int = MAX_SAMPLE) -> int:
    """Return the k for which every k-th element of a tensor is a sample: at most `limit` elements, or all of them."""
    stride = -(-math.prod(shape) // limit)
    # A stride that shares a divisor with the row length would read the same columns in every row.
    while stride > 1 and math.gcd(stride, shape[-1]) > 1:
        stride += 1
    return stride


def _by_name(groups: tuple[str, ...], values: Tensor) -> dict[str, float]:
    return {name: round_significant(value) for name, value in zip(groups, values.tolist(), strict=True)}
