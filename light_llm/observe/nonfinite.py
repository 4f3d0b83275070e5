"""Find the first tensor of a training step that is not finite."""

from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..data import Batch
from ..objective import NextTokenLoss
from ..runtime import World, autocast, rng_state, set_rng_state

NOT_REPRODUCED = "nothing"  # how the description begins if repeating the step gives finite numbers


def find_nonfinite(objective: NextTokenLoss, batch: Batch, config: TrainConfig, world: World = World()) -> str:
    """Repeat a step, one micro-batch at a time, and describe the first tensor that is not finite.

    Each rank repeats its own rows, and all ranks make the same passes; the lowest rank that finds a tensor names it.
    """
    size = config.micro_batch or len(batch.tokens)
    parts = zip(*(part.split(size) for part in batch), strict=True)
    how = {"device": config.device, "dtype": config.dtype}
    # Not only up to the first bad one: with shards each pass is one of all ranks.
    places = [first_nonfinite(objective, tokens, targets, **how) for tokens, targets in parts]
    by_rank = world.gather(next(filter(_is_reproduced, places), places[-1]))
    found = [f"{p} (rank {r})" if world.size > 1 else p for r, p in enumerate(by_rank) if _is_reproduced(p)]
    return found[0] if found else str(by_rank[0])


def _is_reproduced(place: str) -> bool:
    return not place.startswith(NOT_REPRODUCED)


def first_nonfinite(objective: NextTokenLoss, tokens: Tensor, targets: Tensor, *, device: str, dtype: str) -> str:
    """Describe the first tensor that is not finite: weights, then outputs in forward order, loss, gradients.

    Runs an uncompiled forward and backward pass. Restores the random generators and leaves no gradients.

    Args:
        tokens, targets: (B, T), the batch or a part that fits into memory.
    """
    model = objective.model
    weights = next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)
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
        loss.backward()
        if weights:
            return f"the weights of {weights}, before the step"
        if bad_outputs:
            return f"the output of {bad_outputs[0]}"
        if not loss.isfinite():
            return "the loss: the logits are not finite, or so large that their sum of exponentials is not"
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
