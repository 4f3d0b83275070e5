"""Losses, samples and probes of a sharded model, between steps of training, beside those of the whole one."""

from dataclasses import replace
from typing import Any

import torch

from light_llm.config import TrainConfig
from light_llm.generate import Sampling, decode
from light_llm.model import LightLLM, eval_mode
from light_llm.objective import NextTokenLoss, token_cross_entropy
from light_llm.observe.nonfinite import NOT_REPRODUCED, first_nonfinite
from light_llm.observe.probe import ProbeBatch, probe_model
from light_llm.parallel import parallelize
from light_llm.runtime import World, autocast
from tests.support.parallel_runs import CONFIG, SHAPES


def look_inside(model: LightLLM, config: TrainConfig) -> dict[str, Any]:
    """Losses, a sample and a probe of a model."""
    ids = torch.randint(0, model.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(7))
    tokens, targets = ids[:, :-1], ids[:, 1:]
    with eval_mode(model):
        with autocast("cpu", config.dtype):
            nats = token_cross_entropy(model, tokens, targets)
        how: dict[str, Any] = {"sampling": Sampling(temperature=0.8, top_k=40), "seeds": [1], "context": 16}
        text = list(decode(model, [[1, 2, 3]], max_new_tokens=20, **how))
    batch = ProbeBatch(tokens, targets, torch.cat([ids[:, :7], ids[:, :7]], dim=1))
    return {"nats": nats.tolist(), "text": text, "probe": probe_model(model, batch, dtype=config.dtype).row}


def train_and_look(world: World, shape: str, dtype: str) -> list[dict[str, Any]]:
    """What is inside before and after a step. The gradients of the step are those of rows that all ranks have."""
    config = replace(CONFIG, parallel="fsdp", dtype=dtype)
    model = LightLLM(SHAPES[shape], seed=1).train()
    objective = NextTokenLoss(model, 64)
    parallel = parallelize(objective, world, config)
    ids = torch.randint(0, model.config.vocab_size, (4, 17), generator=torch.Generator().manual_seed(8))
    found = [look_inside(model, config)]
    for _ in range(2):
        parallel.finish_evaluation()
        with autocast("cpu", dtype):
            (parallel.module(ids[:, :-1], ids[:, 1:]) / world.size).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parallel.local(parameter).sub_(parallel.local(parameter.grad), alpha=1e-4)
        model.zero_grad(set_to_none=True)
        place = first_nonfinite(objective, ids[:, :-1], ids[:, 1:], device="cpu", dtype=dtype)
        found.append(look_inside(model, config) | {"repeated": place.startswith(NOT_REPRODUCED)})
    return found


def equal_looks(world: World) -> list[list[bool]]:
    """Whether everything is equal to one process's, by case and time."""
    cases = ("gpt", "float32"), ("llama", "float32"), ("gpt", "bfloat16")
    # Samples are made without autocast, where a bfloat16 run has its matrices in 16 bits and one process has not.
    keys = {"float32": ("nats", "text", "probe", "repeated"), "bfloat16": ("nats", "probe", "repeated")}
    pairs = [(train_and_look(world, *case), train_and_look(World(), *case), keys[case[1]]) for case in cases]
    return [
        [all(str(a.get(key)) == str(b.get(key)) for key in names) for a, b in zip(own, alone, strict=True)]
        for own, alone, names in pairs
    ]
