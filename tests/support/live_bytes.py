"""Count what torch really allocates while something runs, to compare with `plan/memory_model.py`."""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from light_llm.config import ModelConfig, TrainConfig
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.observe.step_metrics import StepMetrics
from light_llm.optim import build_optimizer
from light_llm.runtime import autocast


def allocations(run: Callable[[], object]) -> list[int]:
    """Return the bytes that torch allocated and, below 0, freed while a function ran, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def peak_of_a_step(model: ModelConfig, train: TrainConfig, T: int) -> int:
    """Return the peak of a real second step, without weights and moments, which exist before it."""
    lm = LightLLM(model).train()
    lm.checkpointing = train.checkpointing
    objective, optimizer = NextTokenLoss(lm, train.loss_chunk), build_optimizer(lm, train)
    tokens, targets = torch.randint(model.vocab_size, (2, train.batch_size, T))
    size = train.micro_batch or train.batch_size

    with StepMetrics(lm, optimizer) as meter:

        def step() -> None:
            for x, y in zip(tokens.split(size), targets.split(size), strict=True):
                with autocast("cpu", train.dtype):
                    loss = objective(x, y) / tokens.numel()
                loss.backward()
            meter.clip(1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step()
        return max(accumulate(allocations(step)), default=0)
