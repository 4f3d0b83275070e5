"""A training step of a model divided over tensor groups, and the same step by one process."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from light_llm.atomic_io import Files, NullFiles
from light_llm.checkpoint import (
    StepState,
    load_model,
    model_meta,
    read_step,
    restore_optimizer,
    restore_weights,
    write_model_file,
    write_step,
)
from light_llm.config import ModelConfig, TrainConfig
from light_llm.generate.decode import decode
from light_llm.generate.sampling import Sampling
from light_llm.model import LightLLM, eval_mode
from light_llm.objective import NextTokenLoss, token_cross_entropy
from light_llm.observe.probe import ProbeBatch, probe_model
from light_llm.observe.step_metrics import StepMetrics
from light_llm.optim import build_optimizer
from light_llm.parallel import Parallel, parallelize
from light_llm.runtime import World

B, T = 4, 12
GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": T, "vocab_size": 131}
LLAMA = GPT | {"n_kv_head": 4, "n_head": 8, "positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
# Every option of a model that can be divided, in one shape or another.
SHAPES: dict[str, dict[str, Any]] = {
    "gpt": GPT,
    "llama": LLAMA | {"tied_head": False},
    "qk norm": LLAMA | {"qk_norm": True, "post_norms": True, "qkv_bias": "yes", "norm": "rmsnorm1p", "logit_cap": 5.0},
    "parallel": GPT | {"parallel_residual": True, "positions": "rope", "rotary_pct": 0.5, "mlp": "relu2"},
    "gemma": LLAMA
    | {"mlp": "geglu", "scale_embeddings": True, "attn_scale": 0.3, "window": 4, "window_layers": "0"}
    | {"rope_local_base": 100.0, "head_dim": 6, "rope_scaling": "linear", "rope_factor": 2.0},
    "exact gelu": GPT | {"activation": "gelu", "qk_norm": True, "qkv_bias": "no", "n_inner": 72},
}
CONFIG = TrainConfig(batch_size=B, lr=1e-2, warmup_steps=0, device="cpu", dtype="float32", compile="off")


def build(world: World, shape: str, config: TrainConfig, **changes: Any) -> tuple[LightLLM, Parallel]:
    """Return a model on the ranks of a world; before that each rank has other weights."""
    model = LightLLM(ModelConfig(**SHAPES[shape] | changes), seed=world.rank).train()
    with torch.no_grad():
        # Zeros and ones would hide a bias that is added twice, and a gain that is not the one of its heads.
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)), alpha=0.1)
    model.checkpointing = config.checkpointing
    return model, parallelize(NextTokenLoss(model, 16, config.z_loss), world, config)


def batch() -> tuple[Tensor, Tensor]:
    """Return tokens and targets, (B, T), of which some are not counted."""
    ids = torch.randint(0, GPT["vocab_size"], (B, T + 1), generator=torch.Generator().manual_seed(3))
    targets = ids[:, 1:].clone()
    targets[:, ::5] = -100
    return ids[:, :-1], targets


def step_of(world: World, shape: str, config: TrainConfig, **changes: Any) -> dict[str, Tensor]:
    """Make a step. Returns the whole gradients and new weights, the loss, norms, and what an evaluation computes."""
    model, parallel = build(world, shape, config, **changes)
    tokens, targets = batch()
    optimizer = build_optimizer(model, config)
    with torch.no_grad(), eval_mode(model):
        found = {"logits": model(tokens), "nats": token_cross_entropy(model, tokens, targets, 16)}
        prompts = [tokens[0, :5].tolist(), tokens[1, :3].tolist()]
        texts = list(decode(model, prompts, sampling=Sampling(), seeds=[1, 2], max_new_tokens=10))
        probe = probe_model(model, ProbeBatch(*batch(), tokens.repeat(1, 2)[:, :T]))
    found["samples"] = torch.tensor(texts)
    found |= {f"probes {name}": torch.tensor(values) for name, values in probe.row["attention"].items()}
    found["probes dead units"] = torch.tensor(probe.row["dead_units"])
    found["probes lens"] = torch.tensor(probe.row["lens"])
    parallel.finish_evaluation()
    rows = parallel.rows(B)
    # The seed of a rank's dropout is that of its rows: alike within a tensor group.
    torch.manual_seed(7 + parallel.data_rank)
    loss = torch.zeros(())
    size = config.micro_batch or B // parallel.data_size
    parts = list(zip(tokens[rows].split(size), targets[rows].split(size), strict=True))
    with StepMetrics(model, optimizer, parallel) as metrics:
        for i, part in enumerate(parts):
            with parallel.micro_batch(last=i == len(parts) - 1):
                nats = parallel.module(*part) / (B * T)
                nats.backward()
            loss += nats.detach()
        found |= {
            f"gradient of {name}": parallel.gather(parallel.stand_in(name, p.grad)).clone()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
        found["loss"] = parallel.data_world.sum(loss)
        found["norm"] = metrics.clip(1e9)
        assert metrics.current is not None
        found["norms of groups"] = metrics.current.gradients
        optimizer.step()
        found["updates"] = torch.tensor(list(metrics.current.update_ratios().values()))
    for name, weight in model.state_dict().items():
        found[f"weight {name}"] = parallel.gather(parallel.stand_in(name, weight)).clone()
    return found


def largest_differences(world: World, cases: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the largest relative differences from one process, by kind of number, of each case.

    A case names a shape; its other entries are settings of the model or of training.
    """
    results = []
    for case in cases:
        settings = {name: value for name, value in case.items() if hasattr(CONFIG, name)}
        changes = {name: value for name, value in case.items() if name not in settings and name != "shape"}
        config = replace(CONFIG, **settings)
        found = step_of(world, case["shape"], config, **changes)
        alone = step_of(World(), case["shape"], replace(config, tensor=1), **changes)
        assert found.keys() == alone.keys()
        worst: dict[str, float] = {}
        # Gradients of the biases of keys are 0 in theory, and rounding errors in fact.
        smallest = 3e-2 * max(float(value.abs().max()) for name, value in alone.items() if "gradient" in name)
        for name, value in alone.items():
            kind = name.split()[0]
            error = float((found[name] - value).abs().max() / value.abs().max().clamp(min=smallest))
            worst[kind] = max(worst.get(kind, 0.0), error)
        results.append(worst)
    return results


def checkpoint_is_whole(world: World, folder: str) -> dict[str, bool]:
    """Save a model that is divided, as a step folder and as a model file, and restore it on this number of ranks."""
    config = replace(CONFIG, tensor=2)
    files = Files() if world.is_first else NullFiles()
    step, file = Path(folder, "step-000001"), Path(folder, "best_model.pt")
    model, optimizer, parallel = _after_one_step(world, config, seed=0)
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None)
    write_step(
        step,
        model=model,
        optimizer=optimizer,
        rng={},
        state=StepState(1, 1, 1, 1),
        meta=meta,
        run={},
        disk=files,
        gather=parallel.gather,
        stand_in=parallel.stand_in,
    )
    weights = {name: parallel.stand_in(name, weight) for name, weight in model.state_dict().items()}
    write_model_file(file, weights, meta, files, gather=parallel.gather)
    world.barrier()
    # One process makes the same step, and opens the folder as any other.
    alone, alone_optimizer, _ = _after_one_step(World(), replace(config, tensor=1), seed=0)
    tensors, moments, *_ = read_step(step)
    expected = dict(alone.state_dict())
    again, again_optimizer, again_parallel = _after_one_step(world, config, seed=9)
    restore_weights(again, dict(tensors), again_parallel.shard)
    restore_optimizer(again, again_optimizer, dict(moments), again_parallel.shard)
    pairs = list(zip(model.parameters(), again.parameters(), strict=True))
    state = [(optimizer.state[a], again_optimizer.state[b]) for a, b in pairs]
    moments_alone = {
        f"{name}/{entry}": value
        for name, p in alone.named_parameters()
        for entry, value in alone_optimizer.state[p].items()
    }
    return {
        "weights": tensors.keys() == expected.keys() and all(_close(tensors[n], w) for n, w in expected.items()),
        "moments": moments.keys() == moments_alone.keys()
        and all(_close(moments[n], m) for n, m in moments_alone.items()),
        "model file": all(torch.equal(w, tensors[n]) for n, w in load_model(file).model.state_dict().items()),
        "restored weights": all(torch.equal(a, b) for a, b in pairs),
        "restored moments": all(torch.equal(a[name], b[name]) for a, b in state for name in a),
    }


def _after_one_step(world: World, config: TrainConfig, *, seed: int) -> tuple[LightLLM, Optimizer, Parallel]:
    model = LightLLM(ModelConfig(**SHAPES["llama"]), seed=seed).train()
    parallel = parallelize(NextTokenLoss(model, 16), world, config)
    optimizer = build_optimizer(model, config)
    with parallel.micro_batch(last=True):
        parallel.module(*batch()).backward()
    optimizer.step()
    return model, optimizer, parallel


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def checks(world: World, cases: list[dict[str, Any]], folder: str) -> Any:
    """Make all checks that need two ranks in one start."""
    return [largest_differences(world, cases), checkpoint_is_whole(world, folder)]
