"""Measure every step without waiting for the device: norms of gradients, weights and updates, by parameter group.

Hooks before and after the optimizer's step read a sample of the weights and change nothing. The gradient norm is the
one that clipping computes anyway.
"""

import math
from dataclasses import dataclass, field

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


@dataclass
class StepMetrics:
    """Measures the steps of an optimizer over a model, as a context manager.

    Args:
        model: its trainable parameters are measured, each in the group that `group_of` names.
        optimizer: gets two hooks, which are removed at the end of the context.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
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
        sizes = [(p.numel(), sample_elements(p).numel()) for p in self.parameters]
        # The squared norm of a sample of m of n elements is m / n of the whole in expectation.
        self.scale = torch.tensor([math.sqrt(n / sampled) for n, sampled in sizes], device=device)
        self.sample_sizes = [sampled for _, sampled in sizes]
        self.sample_before: Tensor | None = None
        self.hooks = (
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        )

    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradients to a global norm like `torch.nn.utils.clip_grad_norm_`, and return the norm before, ()."""
        with_grad = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        # torch's own clipping calls this private function: one kernel for all tensors on a GPU.
        norms = torch.stack(torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None]))
        total = torch.linalg.vector_norm(norms)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, max_norm, total)
        # Indexing with a list copies it to the device and waits, so skip it in the usual case.
        is_complete = len(with_grad) == len(self.parameters)
        group_index = self.group_index if is_complete else self.group_index[with_grad]
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
        weights, updates = torch.stack(torch._foreach_norm(parts)).chunk(2)
        self.current.weights = self._sum_by_group(weights * self.scale, self.group_index)
        self.current.updates = self._sum_by_group(updates * self.scale, self.group_index)
        self.sample_before = None

    def _sample(self) -> Tensor:
        samples = [sample_elements(p.detach()) for p in self.parameters]
        return torch.cat(
            [s + 1 if id(p) in self.around_1 else s for p, s in zip(self.parameters, samples, strict=True)]
        )

    def _sum_by_group(self, norms: Tensor, group_index: Tensor) -> Tensor:
        """Combine the norms of tensors (P,) into those of groups (G,): squares add up."""
        return norms.new_zeros(len(self.groups)).index_add_(0, group_index, norms.square()).sqrt()


def sample_elements(tensor: Tensor, limit: int = MAX_SAMPLE) -> Tensor:
    """Return every k-th element of a large tensor, at most `limit`; a small one whole: -> (n,)."""
    n = tensor.numel()
    step = -(-n // limit)
    # A step that shares a divisor with the row length would read the same columns in every row.
    while step > 1 and math.gcd(step, tensor.shape[-1]) > 1:
        step += 1
    return tensor.reshape(-1)[::step]


def _by_name(groups: tuple[str, ...], values: Tensor) -> dict[str, float]:
    return {name: round_significant(value) for name, value in zip(groups, values.tolist(), strict=True)}
