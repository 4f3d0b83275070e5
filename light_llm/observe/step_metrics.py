"""What every step is measured by, without waiting for the device: norms of gradients, weights and updates, by group.

It watches from outside: hooks before and after the optimizer's step look at a sample of the weights, and nothing of the
run is changed. The gradients' norm is the one that clipping needs anyway.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .metrics import round_significant

MOST = 1 << 14  # elements of one tensor that are looked at; smaller tensors are looked at whole


def group_of(name: str) -> str:
    """The part of the model that a parameter belongs to: a norm belongs to the branch it feeds.

    >>> [group_of(n) for n in ("wte.weight", "h.3.ln_1.bias", "h.3.attn.c_proj.weight", "h.3.ln_2.weight")]
    ['wte', 'h.3.attn', 'h.3.attn', 'h.3.mlp']
    """
    parts = name.split(".")
    if parts[0] != "h":
        return parts[0]
    return f"h.{parts[1]}.{ {'ln_1': 'attn', 'ln_2': 'mlp'}.get(parts[2], parts[2]) }"


@dataclass
class StepNorms:
    """The norms of one step, on the device; those of the update are filled in when it is made."""

    groups: tuple[str, ...]
    gradients: Tensor  # (G,) before clipping
    weights: Tensor | None = None  # (G,) after the update, from a sample of each large tensor
    updates: Tensor | None = None  # (G,) of the change; None where no update was made

    def grad_norms(self) -> dict[str, float]:
        """The norm of each group's gradient."""
        return _named(self.groups, self.gradients)

    def update_ratios(self) -> dict[str, float]:
        """Each group's update as a share of its weights: |w' - w| / |w'|. Empty where no update was made."""
        if self.weights is None or self.updates is None:
            return {}
        return _named(self.groups, self.updates / self.weights)

    def weight_norm(self) -> float | None:
        """The norm of all weights after the update."""
        return None if self.weights is None else float(torch.linalg.vector_norm(self.weights))


@dataclass
class StepMetrics:
    """Measures the steps of an optimizer over a model.

    Args:
        model: its trainable parameters are measured, each in the group that `group_of` names.
        optimizer: gets two hooks, which leaving the context takes away.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    current: StepNorms | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        names = [group_of(name) for name, _ in named]
        self.groups = tuple(dict.fromkeys(names))
        device = self.parameters[0].device
        self.home = torch.tensor([self.groups.index(name) for name in names], device=device)
        counts = [(p.numel(), sample_elements(p).numel()) for p in self.parameters]
        self.scale = torch.tensor([math.sqrt(n / seen) for n, seen in counts], device=device)
        self.sizes = [seen for _, seen in counts]
        self.before: Tensor | None = None
        self.hooks = (
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        )

    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradients to a global norm, as `torch.nn.utils.clip_grad_norm_` does. Returns that before, ()."""
        there = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        # What torch's own clipping calls: one kernel for all tensors on a GPU.
        norms = torch.stack(torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None]))
        total = torch.linalg.vector_norm(norms)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, max_norm, total)
        home = self.home if len(there) == len(self.parameters) else self.home[there]  # an index would be waited for
        self.current = StepNorms(self.groups, self._by_group(norms, home))
        return total

    def __enter__(self) -> "StepMetrics":
        return self

    def __exit__(self, *error: object) -> None:
        """Take the hooks away."""
        for hook in self.hooks:
            hook.remove()

    def _before(self, *_: object) -> None:
        self.before = self._sample()

    def _after(self, *_: object) -> None:
        if self.current is None or self.before is None:
            return
        after = self._sample()
        parts = [*after.split(self.sizes), *(after - self.before).split(self.sizes)]
        weights, updates = torch.stack(torch._foreach_norm(parts)).chunk(2)
        self.current.weights = self._by_group(weights * self.scale, self.home)
        self.current.updates = self._by_group(updates * self.scale, self.home)
        self.before = None

    def _sample(self) -> Tensor:
        return torch.cat([sample_elements(p.detach()) for p in self.parameters])

    def _by_group(self, norms: Tensor, home: Tensor) -> Tensor:
        """Norms of tensors (P,) -> norms of groups (G,): squares add up."""
        return norms.new_zeros(len(self.groups)).index_add_(0, home, norms.square()).sqrt()


def sample_elements(tensor: Tensor, most: int = MOST) -> Tensor:
    """Every k-th element of a large tensor, evenly over its rows and columns; a small one whole: -> (n,).

    k has no divisor in common with the length of a row, so that no column is passed over.
    """
    n = tensor.numel()
    step = -(-n // most)
    while step > 1 and math.gcd(step, tensor.shape[-1]) > 1:
        step += 1
    return tensor.reshape(-1)[::step]


def _named(groups: tuple[str, ...], values: Tensor) -> dict[str, float]:
    return {name: round_significant(value) for name, value in zip(groups, values.tolist(), strict=True)}
