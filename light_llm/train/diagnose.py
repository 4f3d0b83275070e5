"""Where a step stopped being finite: the first place in the order of the computation."""

from typing import Any

import torch
from torch import Tensor, nn

from ..objective import NextTokenLoss
from ..runtime import autocast, rng_state, set_rng_state

NOTHING = "nothing"


def first_nonfinite(objective: NextTokenLoss, tokens: Tensor, targets: Tensor, *, device: str, dtype: str) -> str:
    """Repeat a step, look at every layer's output, then at every gradient, and say what is not finite first.

    Makes one forward and one backward pass of its own, uncompiled. Weights and generators are as before afterwards, and
    there are no gradients.

    Args:
        tokens, targets: (B, T), the batch or the part of it that fits into memory.
    """
    model = objective.model
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights of {name}, before the step"
    seen: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not seen and isinstance(output, Tensor) and not output.isfinite().all():
                seen.append(name)

        return hook

    generators = rng_state(device)
    hooks = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if name]
    try:
        model.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            loss = objective.forward(tokens.to(device), targets.to(device))
        if seen:
            return f"the output of {seen[0]}"
        if not loss.isfinite():
            return "the loss: the logits are too large for their sum of exponentials, or not finite"
        loss.backward()
        return _first_gradient(model)
    finally:
        for handle in hooks:
            handle.remove()
        model.zero_grad(set_to_none=True)
        set_rng_state(generators, device)


def _first_gradient(model: nn.Module) -> str:
    """The backward pass goes from the last layer to the first."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, gradient in reversed(named):
        if not gradient.isfinite().all():
            return f"the gradient of {name}"
    if not torch.stack([gradient.norm() for _, gradient in named]).norm().isfinite():
        return "the norm of the gradient: each part of it is finite, and too large"
    return f"{NOTHING} when the step is made again: the numbers differ from one time to the next on this device"
