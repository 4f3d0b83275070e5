"""The memory that a plan predicts for one of several ranks is what torch allocates on it.

One process is enough: it is rank 0 of a group whose messages go nowhere (FSDP), or of a group of its own (DDP, whose
memory does not depend on the number of ranks).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.parallel import parallelize
from light_llm.plan.memory_model import StepShape, step_memory
from light_llm.runtime import World, autocast
from tests.support.live_bytes import allocations

CPU = TrainConfig(device="cpu", dtype="float32", compile="off")
WIDE = ModelConfig(n_embd=256, n_head=4, n_layer=4, vocab_size=1000, n_positions=32)  # its blocks decide
TABLES = ModelConfig(n_embd=128, n_head=2, n_layer=2, vocab_size=20_000, n_positions=32)  # its token table decides
T, W = 32, 4


@contextmanager
def group(kind: str) -> Iterator[None]:
    """Join a group of which this process is rank 0."""
    if kind == "fsdp":
        dist.init_process_group("fake", rank=0, world_size=W, store=FakeStore())
    else:
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def peak_of_a_rank(model: ModelConfig, train: TrainConfig) -> int:
    """Return the peak of a third step, without what exists before it."""
    lm = LightLLM(model).train()
    lm.checkpointing = train.checkpointing
    parallel = parallelize(NextTokenLoss(lm, train.loss_chunk), World(size=W, local_size=W), train)
    optimizer = build_optimizer(lm, train)
    rows = train.batch_size // W
    size = train.micro_batch or rows
    tokens, targets = torch.randint(model.vocab_size, (2, rows, T))

    def step() -> None:
        parts = list(zip(tokens.split(size), targets.split(size), strict=True))
        for i, (x, y) in enumerate(parts, 1):
            with parallel.micro_batch(last=i == len(parts)):
                with autocast("cpu", train.dtype):
                    loss = parallel.module(x, y) / tokens.numel()
                loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    step()
    return max(accumulate(allocations(step)))


@pytest.mark.parametrize(
    ("kind", "model", "change"),
    [
        ("fsdp", WIDE, {}),
        ("fsdp", WIDE, {"dtype": "bfloat16"}),
        ("fsdp", WIDE, {"micro_batch": 1}),
        ("fsdp", TABLES, {}),
        ("ddp", WIDE, {"micro_batch": 1}),
        ("ddp", TABLES, {"dtype": "bfloat16"}),
    ],
)
def test_the_peak_of_a_rank_is_what_torch_allocates(kind: str, model: ModelConfig, change: dict[str, Any]) -> None:
    train = replace(CPU, batch_size=2 * W, parallel=kind, **change)
    shape = StepShape.of(model, train, T, ranks=W, shards=W if kind == "fsdp" else 1)
    predicted, weights = step_memory(shape), 4 * get_model_size(model)
    # Before the step: shards and moments, or with DDP everything and the buckets.
    before = shape.shard(weights) + predicted.optimizer + (weights if kind == "ddp" else 0)
    with group(kind):
        measured = before + peak_of_a_rank(model, train)
    assert 0.97 * measured < predicted.total < 1.1 * measured
