"""Checks of a whole model: forward pass, training step, optimizers, cache, greedy decoding and sampling.

The model is small but real, with the full vocabulary and with weights so large that attention, GELU and softmax are far
from linear: at its initial weights most faults would not show. The exact results are those of the same model in float64
on the CPU, with attention by its formula and the loss from all logits.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..config import ModelConfig, TrainConfig
from ..config.choices import OPTIMIZERS
from ..generate import sampling
from ..generate.cache import KVCache, visible
from ..generate.decode import decode, window_start
from ..generate.sampling import Sampling
from ..model import LightLLM, SelfAttention, attend_by_formula
from ..objective import NextTokenLoss
from ..optim import build_optimizer, group_parameters
from ..optim.adamw import MATRIX
from ..runtime import autocast
from .compare import SUM_BLOCK, forward_sums, numbers, relative_error, tolerance
from .diagnosis import Comparison
from .operations import V, shape_name, token_ids

SHAPE = ModelConfig(vocab_size=V, n_positions=1024, n_embd=64, n_layer=2, n_head=2)
SMALL = ModelConfig(vocab_size=257, n_positions=32, n_embd=64, n_layer=2, n_head=2)
ODD = ModelConfig(vocab_size=5003, n_positions=33, n_embd=36, n_layer=1, n_head=2)  # no size is a multiple of 16
STEPS, MORE_STEPS = ((9, 7), (1, 1024)), ((1, 1), (1, 7), (8, 7), (16, 7), (1, 1023), (2, 1024))
LOGIT_ROWS = 64  # of float64 logits at a time: 26 MB, where all of 16 x 1,024 would take 6.6 GB
UPDATES = 4
ADAMW_ROUNDINGS = 8  # of one update, from the gradient to the weight
PROMPTS = ([5, 17, 200], [31, 4, 99, 250, 7, 7, 120, 64, 3])
NEW_TOKENS = 40  # more than the window holds, so that it slides
BINS = 16


@cache
def make_model(config: ModelConfig) -> LightLLM:
    """Return the float32 model on the CPU. Draw nothing from the global generators."""
    with torch.random.fork_rng(devices=[]):
        model = LightLLM(config).eval()
    generator = Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = 0.25 if name.startswith("wte") else 0.1
            if parameter.ndim == 2 and name.startswith("h."):
                std = 1.5 / parameter.size(1) ** 0.5
            parameter.normal_(std=std, generator=generator)
            if parameter.ndim == 1 and ".ln_" in f".{name}" and name.endswith("weight"):
                parameter.add_(1)
    return model


def on_device(config: ModelConfig, device: str) -> LightLLM:
    """Return a copy of the model on a device."""
    return deepcopy(make_model(config)).to(device)


def exact_model(config: ModelConfig) -> LightLLM:
    """Return a copy of the model in float64 on the CPU, with attention by its formula."""
    model = deepcopy(make_model(config)).double()
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.attend = attend_by_formula
    return model


def training_step(
    device: str, shapes: Sequence[tuple[int, int]] = STEPS, dtype: str = "float32", compile: bool = False
) -> Iterator[Comparison]:
    """Check the logits of a forward pass, and the loss and every gradient of a training step."""
    model, exact, kind = on_device(SHAPE, device), exact_model(SHAPE), getattr(torch, dtype)
    objective = NextTokenLoss(model)
    if compile:
        objective.compile(dynamic=False)
    for B, T in shapes:
        tokens, targets = token_ids()[:B, :T], token_ids()[:B, 1 : T + 1]
        model.zero_grad(set_to_none=True)
        exact.zero_grad(set_to_none=True)
        where, forward = shape_name(B, T), forward_sums(SHAPE, T)
        # Two autocast regions: torch 2.10 would reuse the weights that the first one cast without gradients.
        with torch.no_grad(), autocast(device, dtype):
            logits = model(tokens.to(device)).flatten(0, 1)
        with autocast(device, dtype):
            loss = objective(tokens.to(device), targets.to(device))
        loss.backward()
        hidden, expected = exact_backward(exact, tokens, targets)
        # The last row too: a fault that concerns only the last position is a likely one.
        checked = torch.tensor([*range(0, B * T, max(1, B * T // LOGIT_ROWS)), B * T - 1])
        error = relative_error(logits[checked.to(device)], exact.logits(hidden[checked]))
        yield Comparison(error, tolerance(forward, kind), f"{where}, logits")
        loss_sums = [*forward, SUM_BLOCK]
        error = abs(float(loss.detach()) - expected) / expected
        yield Comparison(error, tolerance(loss_sums, kind), f"{where}, loss")
        # Forward, twice as many sums backward, and one over all positions.
        limit = tolerance([*loss_sums, *forward * 2, B * T], kind)
        in_batch = torch.zeros(V, dtype=torch.bool)
        in_batch[torch.cat([tokens, targets]).unique()] = True
        for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
            if p.grad is None or q.grad is None:
                yield Comparison(math.inf, limit, f"{where}, gradient of {name} missing")
                continue
            # The gradients of ids outside the batch are far smaller, and would be lost beside the others.
            by_id = {", ids of the batch": in_batch, ", other ids": ~in_batch}
            for part, rows in by_id.items() if name == "wte.weight" else [("", slice(None))]:
                error = relative_error(p.grad.cpu()[rows], q.grad[rows])
                yield Comparison(error, limit, f"{where}, gradient of {name}{part}")


def exact_backward(model: LightLLM, tokens: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Compute the gradients of the summed loss, a few rows of logits at a time. Return hidden states and loss."""
    # One sequence at a time, because attention by its formula holds (T, T) weights.
    hidden, total = torch.cat([model.hidden_states(row[None])[0] for row in tokens]), 0.0
    states = hidden.detach().requires_grad_()
    for h, y in zip(states.split(LOGIT_ROWS), targets.flatten().split(LOGIT_ROWS), strict=True):
        loss = F.cross_entropy(model.logits(h), y, reduction="sum")
        loss.backward()
        total += loss.item()
    hidden.backward(states.grad)
    return hidden.detach(), total


def optimizer_steps(device: str, optimizer: str) -> Iterator[Comparison]:
    """Check the distance that each parameter moved in four updates with a changing learning rate."""
    config = TrainConfig(lr=0.01, weight_decay=0.1, optimizer=optimizer)
    model, exact = on_device(ODD, device), exact_model(ODD)
    optimizers = build_optimizer(model, config), build_optimizer(exact, config)
    for group in optimizers[1].param_groups:
        if group.get("fused"):  # the exact update goes by single operations
            group.update(fused=False, foreach=False)
    for step in range(1, UPDATES + 1):
        for i, (p, q) in enumerate(zip(model.parameters(), exact.parameters(), strict=True)):
            grad = numbers(*p.shape, seed=1000 * step + i, scale=0.1)
            if len(grad) == ODD.vocab_size:
                grad[::2] = 0  # as of words that are not in the batch
            p.grad, q.grad = grad.to(device), grad.double()
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = config.lr * step / UPDATES
            each.step()
    orthogonalized = group_parameters(model)[MATRIX] if OPTIMIZERS[optimizer].orthogonalizes else {}
    start = make_model(ODD).state_dict()
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        moved = q.detach() - start[name]
        error = relative_error(p.detach().cpu().double() - start[name], moved)
        # A weight is rounded to its own size at every update, however small the update.
        size = 1 + float(start[name].abs().max() / moved.abs().max())
        limit = tolerance([ADAMW_ROUNDINGS] * UPDATES) * size
        if name in orthogonalized:  # five Newton-Schulz iterations of three products each, in bfloat16 on every device
            limit = tolerance([min(p.shape)] * 15, torch.bfloat16)
        yield Comparison(error, limit, f"{name} after {UPDATES} updates")


@torch.no_grad()
def cached_forward(device: str) -> Iterator[Comparison]:
    """Check logits of a text read in pieces on a cache, and then of rows with different lengths."""
    model, limit = on_device(SMALL, device), tolerance(forward_sums(SMALL, SMALL.n_positions))
    ids = token_ids()[:3, :24] % SMALL.vocab_size
    expected = exact_model(SMALL)(ids)  # (3, 24, V)
    cache = KVCache(SMALL, 3, 24, torch.device(device), torch.float32)
    for start, end in ((0, 7), (7, 8), (8, 9), (9, 16)):
        positions = torch.arange(start, end, device=device)
        logits = model.logits(model.hidden_states(ids[:, start:end].to(device), positions, None, cache))
        yield Comparison(relative_error(logits, expected[:, start:end]), limit, f"tokens {start + 1} to {end}")
    for step in range(3):
        positions = torch.tensor([[16], [9], [12]]) + step  # (B, 1): two rows continue from an earlier token
        tokens, exact = (
            ids.gather(1, positions),
            expected.gather(1, positions[..., None].expand(-1, -1, SMALL.vocab_size)),
        )
        positions = positions.to(device)
        hidden = model.hidden_states(tokens.to(device), positions, visible(positions), cache)
        yield Comparison(relative_error(model.logits(hidden), exact), limit, "rows of different lengths")


@torch.no_grad()
def greedy(device: str) -> Iterator[Comparison]:
    """Check that each greedy token has the largest exact logit, on a cache and without one."""
    model, exact, limit = on_device(SMALL, device), exact_model(SMALL), tolerance(forward_sums(SMALL, 32))
    for use_cache in (True, False):
        rows, rules = [list(prompt) for prompt in PROMPTS], Sampling(temperature=0.0)
        steps = decode(model, PROMPTS, sampling=rules, seeds=[0, 0], max_new_tokens=NEW_TOKENS, use_cache=use_cache)
        for step in steps:
            for row, token in zip(rows, step, strict=True):
                where = f"token {len(row) + 1}, {'with' if use_cache else 'without'} cache: id {token}"
                if token is None or not 0 <= token < SMALL.vocab_size:
                    yield Comparison(math.inf, limit, where)
                    return
                window = torch.tensor([row[window_start(len(row), SMALL.n_positions) :]])
                logits = exact(window)[0, -1]
                yield Comparison(float((logits.max() - logits[token]) / logits.abs().max()), limit, where)
                row.append(token)


def sampled(device: str) -> Iterator[Comparison]:
    """Check by chi-square that ids are drawn with their probabilities, and none outside the top k."""
    logits = torch.linspace(0, 3, BINS).sin().mul(2).to(device).float().cpu()
    for draws, top_k in ((10_000, BINS), (100_000, 9)):
        rules, where = Sampling(temperature=0.8, top_k=top_k), f"{draws:,} draws, top-k {top_k}"
        p = (logits.double() / 0.8).softmax(0)
        p = torch.where(p >= p.topk(top_k).values[-1], p, 0.0) / p.topk(top_k).values.sum()
        generator, counts = Generator().manual_seed(51), torch.zeros(BINS)
        for _ in range(draws // 2000):
            ids = sampling.sample_batch(logits.expand(2000, BINS), [()] * 2000, rules, [generator] * 2000)
            if bad := [i for i in ids if not 0 <= i < BINS or p[i] == 0]:
                yield Comparison(math.inf, 0.0, f"{where}: id {bad[0]:,} of {BINS}")
                return
            counts += torch.tensor(ids).bincount(minlength=BINS)
        mean = draws * p[p > 0]
        freedom = len(mean) - 1
        # The mean of a chi-square statistic and 6 standard deviations.
        limit = freedom + 6 * math.sqrt(2 * freedom)
        yield Comparison(float(((counts[p > 0] - mean) ** 2 / mean).sum()), limit, where)
