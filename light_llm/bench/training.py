"""Training speed: the step of the training loop, with nothing written or shown, on random tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import ModelConfig, TrainConfig
from ..model import LightLLM
from ..objective import NextTokenLoss, total_weight
from ..observe.meter import Meter
from ..optim import build_optimizer
from ..plan.plan import make_plan
from ..runtime import autocast
from .timing import Repeats, nothing, seconds_of, waiter

SETTLE = 2  # steps: the second one still moves memory around, for the moments that the first one left


def training_rates(
    config: ModelConfig,
    batch: tuple[int, int],
    *,
    device: str,
    dtype: str,
    repeats: Repeats,
    tick: Callable[[], None] = nothing,
) -> list[float]:
    """Tokens/s of optimizer steps of B x T tokens, one value a repetition.

    Objective in the format of the products, backward, clipping by the meter, optimizer: the trainer's own parts. A new
    model of random weights, the default recipe.

    Raises:
        ArithmeticError: the loss is not finite in the end; such steps say nothing.
    """
    B, T = batch
    recipe = TrainConfig()
    model = LightLLM(config).to(device).train()
    objective = NextTokenLoss(model, recipe.loss_chunk, recipe.z_loss)
    optimizer = build_optimizer(model, recipe)
    ids = torch.randint(config.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(0))
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    last = torch.zeros(())
    with Meter(model, optimizer) as meter:

        def step() -> None:
            nonlocal last
            last = one_step(objective, optimizer, meter, (tokens, targets), device=device, dtype=dtype)

        seconds = seconds_of(step, repeats, settle=SETTLE, wait=waiter(device), tick=tick)
    if not bool(torch.isfinite(last)):
        raise ArithmeticError("the loss is not a finite number")
    return [B * T / s for s in seconds]


def one_step(
    objective: NextTokenLoss,
    optimizer: torch.optim.Optimizer,
    meter: Meter,
    batch: tuple[Tensor, Tensor],
    *,
    device: str,
    dtype: str,
) -> Tensor:
    """One step as `Trainer.train` makes it, without guards and listeners. Returns the loss, mean nats per token, ()."""
    tokens, targets = batch
    with autocast(device, dtype):
        loss = objective(tokens.to(device), targets.to(device)) / total_weight(targets)
    loss.backward()
    meter.clip(TrainConfig().grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def training_bytes(config: ModelConfig, batch: tuple[int, int], dtype: str, device: str = "cpu") -> int:
    """What training takes beyond what the process has now, in bytes: as a plan foretells it."""
    B, T = batch
    train = TrainConfig(batch_size=B, dtype=dtype, device=device, compile="off")
    return make_plan(config, train, T, framework=0, timed=False).memory.total
