"""Find the first tensor of a training step that is not finite."""

from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..data import Batch
from ..objective import NextTokenLoss
from ..runtime import autocast, rng_state, set_rng_state

NOT_REPRODUCED = "nothing"  # how the description begins if repeating the step gives finite numbers


def find_nonfinite(objective: NextTokenLoss, batch: Batch, config: TrainConfig) -> str:
    """Repeat a step, one micro-batch at a time, and describe the first tensor that is not finite."""
    size = config.micro_batch or len(batch.tokens)
    for tokens, targets in zip(*(part.split(size) for part in batch), strict=True):
        place = first_nonfinite(objective, tokens, targets, device=config.device, dtype=config.dtype)
        if not place.startswith(NOT_REPRODUCED):
            break
    return place


def first_nonfinite(objective: NextTokenLoss, tokens: Tensor, targets: Tensor, *, device: str, dtype: str) -> str:
    """Describe the first tensor that is not finite: weights, then outputs in forward order, loss, gradients.

    Runs an uncompiled forward and backward pass. Restores the random generators and leaves no gradients.

    Args:
        tokens, targets: (B, T), the batch or a part that fits into memory.
    """
    model = objective.model
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights of {name}, before the step"
    bad_outputs: list[str] = []

    def check_output(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not bad_outputs and isinstance(output, Tensor) and not output.isfinite().all():
                bad_outputs.append(name)

        return hook

    rng = rng_state(device)
    # The root module is left out: its output is the last layer's, which has the better name.
    hooks = [m.register_forward_hook(check_output(name)) for name, m in model.named_modules() if name]
    try:
        model.zero_grad(set_to_none=True)
        # `forward` and not a call, because hooks do not run inside a compiled graph.
        with autocast(device, dtype):
            loss = objective.forward(tokens.to(device), targets.to(device))
        if bad_outputs:
            return f"the output of {bad_outputs[0]}"
        if not loss.isfinite():
            return "the loss: the logits are not finite, or so large that their sum of exponentials is not"
        loss.backward()
        return _first_nonfinite_gradient(model)
    finally:
        for handle in hooks:
            handle.remove()
        model.zero_grad(set_to_none=True)
        set_rng_state(rng, device)


def _first_nonfinite_gradient(model: nn.Module) -> str:
    """Describe the first gradient that is not finite, in the order of the backward pass."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, gradient in reversed(named):
        if not gradient.isfinite().all():
            return f"the gradient of {name}"
    if not torch.stack([gradient.norm() for _, gradient in named]).norm().isfinite():
        return "the norm of the gradient: each element is finite, but they are too large"
    return f"{NOT_REPRODUCED} when the step is repeated: this device gives different numbers each time"
