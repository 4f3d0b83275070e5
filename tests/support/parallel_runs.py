"""A few training steps by hand on the ranks of a world, and the same steps by one process: what they should equal."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from light_llm.config import ModelConfig, TrainConfig
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.observe.step_metrics import StepMetrics
from light_llm.optim import build_optimizer
from light_llm.parallel import Parallel, parallelize
from light_llm.runtime import World, autocast

# 515 rows divide among no number of ranks here.
GPT = ModelConfig(n_layer=2, n_embd=32, n_head=2, n_positions=16, vocab_size=515)
LLAMA = replace(GPT, n_kv_head=1, positions="rope", norm="rmsnorm", mlp="swiglu", bias=False, tied_head=False, n_head=4)
SHAPES = {"gpt": GPT, "llama": LLAMA}
CONFIG = TrainConfig(batch_size=12, lr=1e-2, warmup_steps=0, device="cpu", dtype="float32", compile="off")
STEPS = 4
Case = dict[str, Any]


def steps_of(
    world: World, shape: str, config: TrainConfig, shares: int, *, seed: int = 1
) -> Iterator[tuple[Parallel, dict[str, Tensor], dict[str, Tensor], list[float]]]:
    """Train for a few steps. Yields after each one: the whole gradients before clipping, the weights, and numbers.

    Args:
        shares: the number of ranks whose gradients one process computes apart and then adds up, as several ranks do.
    """
    model = LightLLM(SHAPES[shape], seed=seed).train()
    model.checkpointing = config.checkpointing
    parallel = parallelize(NextTokenLoss(model, 64), world, config)
    optimizer = build_optimizer(model, config, world.size)
    generator = torch.Generator().manual_seed(3)
    names = [name for name, _ in model.named_parameters()]
    with StepMetrics(model, optimizer, parallel) as metrics:
        for _ in range(STEPS):
            ids = torch.randint(0, model.config.vocab_size, (config.batch_size, 17), generator=generator)
            loss = torch.zeros(())
            sums: list[Tensor] = []
            for share in ids[parallel.rows(config.batch_size)].chunk(shares):
                loss += _accumulate(parallel, share, config)
                if shares > 1:
                    grads = [p.grad for p in model.parameters() if p.grad is not None]
                    sums = [a + b for a, b in zip(sums, grads, strict=True)] if sums else grads
                    model.zero_grad(set_to_none=True)
            for parameter, total in zip(model.parameters(), sums, strict=False):
                parameter.grad = total
            grads = [parallel.gather(p.grad).clone() for p in model.parameters() if p.grad is not None]
            numbers = [float(world.sum(loss)), float(metrics.clip(config.grad_clip))]
            optimizer.step()
            assert metrics.current is not None
            numbers += [*metrics.current.update_ratios().values(), float(metrics.current.weight_norm() or 0)]
            optimizer.zero_grad(set_to_none=True)
            weights = {name: parallel.gather(w).clone() for name, w in model.state_dict().items()}
            yield parallel, dict(zip(names, grads, strict=True)), weights, numbers


def _accumulate(parallel: Parallel, ids: Tensor, config: TrainConfig) -> Tensor:
    """Add the gradients of some rows, in micro-batches. Returns their part of the loss, ()."""
    loss = torch.zeros(())
    parts = ids.split(config.micro_batch or len(ids))
    for i, part in enumerate(parts):
        with parallel.micro_batch(last=i == len(parts) - 1):
            with autocast("cpu", config.dtype):
                nats = parallel.module(part[:, :-1], part[:, 1:]) / (config.batch_size * 16)
            nats.backward()
        loss += nats.detach()
    return loss


def differences(world: World, cases: list[Case]) -> list[dict[str, float]]:
    """Return the largest differences between the ranks of a world and one process, of each case, in any step.

    Of gradients relative to each tensor's largest element, of numbers relative, of weights absolute.
    """
    found = []
    for case in cases:
        settings = {name: value for name, value in case.items() if name != "shape"}
        config, shape = replace(CONFIG, **settings), case.get("shape", "gpt")
        own = list(steps_of(world, shape, config, 1, seed=1 + world.rank))
        alone = steps_of(World(), shape, replace(config, parallel="auto"), world.size)
        worst: dict[str, float] = {"gradients": 0.0, "weights": 0.0, "numbers": 0.0}
        for (_, grads, weights, numbers), (_, grads_1, weights_1, numbers_1) in zip(own, alone, strict=True):
            assert grads.keys() == grads_1.keys() and weights.keys() == weights_1.keys()
            errors = [(grads[n] - g).abs().max() / g.abs().max().clamp(min=1e-5) for n, g in grads_1.items()]
            relative = [abs(a - b) / abs(b) for a, b in zip(numbers, numbers_1, strict=True)]
            worst["gradients"] = max(worst["gradients"], *map(float, errors))
            worst["weights"] = max(
                worst["weights"], *(float((weights[n] - w).abs().max()) for n, w in weights_1.items())
            )
            worst["numbers"] = max(worst["numbers"], *relative)
            worst.setdefault("first gradients", worst["gradients"])
            worst.setdefault("first norm", relative[1])
        found.append(worst)
    return found
