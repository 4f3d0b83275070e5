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
from torch.utils.checkpoint import checkpoint

from ..config import ModelConfig, TrainConfig
from ..config.choices import OPTIMIZERS
from ..generate import sampling
from ..generate.cache import KVCache, visible
from ..generate.sampling import Sampling
from ..layers.attention import attend_by_formula
from ..model import LightLLM, SelfAttention
from ..objective import NextTokenLoss
from ..optim import build_optimizer, group_parameters
from ..optim.adamw import MATRIX
from ..runtime import autocast
from .compare import SUM_BLOCK, Comparison, numbers, relative_error, tolerance
from .operations import V, token_ids

SHAPE = ModelConfig(vocab_size=V, n_positions=1024, n_embd=64, n_layer=2, n_head=2)
SMALL = ModelConfig(vocab_size=257, n_positions=32, n_embd=64, n_layer=2, n_head=2)
ODD = ModelConfig(vocab_size=5003, n_positions=33, n_embd=36, n_layer=1, n_head=2)  # no size is a multiple of 16
STEPS, MORE_STEPS = ((9, 7), (1, 1024)), ((1, 1), (1, 7), (8, 7), (16, 7), (1, 1023), (2, 1024))
LOGIT_ROWS = 64  # of float64 logits at a time: 26 MB, where all of 16 x 1,024 would take 6.6 GB
UPDATES = 4
ADAMW_ROUNDINGS = 8  # of one update, from the gradient to the weight
BINS = 16


@cache
def make_model(config: ModelConfig) -> LightLLM:
    """Return the float32 model on the CPU."""
    model = LightLLM(config, seed=1).eval()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            std = 1.5 / parameter.size(1) ** 0.5 if parameter.ndim == 2 else 0.1
            parameter.add_(numbers(*parameter.shape, seed=100 + i, scale=std))
    return model


def exact_model(config: ModelConfig) -> LightLLM:
    """Return the model in float64 on the CPU, with attention by its formula."""
    model = deepcopy(make_model(config)).double()
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.attend = attend_by_formula
    return model


def forward_sums(config: ModelConfig, T: int) -> list[int]:
    """Return the sums from tokens to logits: per layer two norms, four linear layers, attention; a norm; the head."""
    C, D = config.n_embd, config.head_size
    return [C, C, D, T, C, C, C, 4 * C] * config.n_layer + [C, C]


def training_step(
    device: str, shapes: Sequence[tuple[int, int]] = STEPS, dtype: str = "float32", compile: bool = False
) -> Iterator[Comparison]:
    """Check the logits of a forward pass, and the loss and every gradient of a training step."""
    kind = getattr(torch, dtype)
    for B, T in shapes:
        model, (exact, hidden, expected) = deepcopy(make_model(SHAPE)).to(device), exact_step(B, T)
        tokens, targets = token_ids()[:B, :T], token_ids()[:B, 1 : T + 1]
        objective = NextTokenLoss(model)
        if compile:
            objective.compile(dynamic=False)
        # Two autocast regions: torch 2.10 would reuse the weights that the first one cast without gradients.
        with torch.no_grad(), autocast(device, dtype):
            logits = model(tokens.to(device)).flatten(0, 1)
        with autocast(device, dtype):
            loss = objective(tokens.to(device), targets.to(device))
        loss.backward()

        where, forward = f"batch {B} x {T:,} tokens", forward_sums(SHAPE, T)
        loss_sums = [*forward, SUM_BLOCK]
        # The last row too: a fault that concerns only the last position is a likely one.
        rows = torch.tensor([*range(0, B * T, max(1, B * T // LOGIT_ROWS)), B * T - 1])
        error = relative_error(logits[rows.to(device)], exact.logits(hidden[rows]))
        yield Comparison(error, tolerance(forward, kind), f"{where}, logits")
        yield Comparison(relative_error(loss, expected), tolerance(loss_sums, kind), f"{where}, loss")
        # Forward, twice as many sums backward, and one over all positions.
        limit = tolerance([*loss_sums, *forward * 2, B * T], kind)
        in_batch = torch.zeros(V, dtype=torch.bool)
        in_batch[torch.cat([tokens, targets]).unique()] = True
        for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            # The gradients of ids outside the batch are far smaller, and would be lost beside the others.
            parts = {" of the batch": in_batch, " of other ids": ~in_batch} if len(p) == V else {"": slice(None)}
            for part, ids in parts.items():
                error = relative_error(p.grad.cpu()[ids], q.grad[ids])
                yield Comparison(error, limit, f"{where}, gradient of {name}{part}")


def exact_step(B: int, T: int) -> tuple[LightLLM, Tensor, Tensor]:
    """Return the exact model with the gradients of a training step, its hidden states (B T, C), and the summed loss."""
    model, tokens, targets = exact_model(SHAPE), token_ids()[:B, :T], token_ids()[:B, 1 : T + 1]

    def loss_of_rows(h: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model.logits(h), y, reduction="sum")

    # One sequence at a time, because attention by its formula holds (T, T) weights; and a few rows of logits.
    hidden = torch.cat([model.hidden_states(row[None])[0] for row in tokens])
    rows = zip(hidden.split(LOGIT_ROWS), targets.flatten().split(LOGIT_ROWS), strict=True)
    loss = torch.stack([checkpoint(loss_of_rows, h, y, use_reentrant=False) for h, y in rows]).sum()
    loss.backward()
    return model, hidden.detach(), loss.detach()


def optimizer_steps(device: str, optimizer: str) -> Iterator[Comparison]:
    """Check the distance that each parameter moved in four updates with a changing learning rate."""
    config = TrainConfig(lr=0.01, weight_decay=0.1, optimizer=optimizer)
    model, exact = deepcopy(make_model(ODD)).to(device), exact_model(ODD)
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
    model = deepcopy(make_model(SMALL)).to(device)
    ids, rows = token_ids()[:3, :24] % SMALL.vocab_size, torch.arange(3)[:, None]
    expected, limit = exact_model(SMALL)(ids), tolerance(forward_sums(SMALL, SMALL.n_positions))  # (3, 24, V)
    cache = KVCache(SMALL, 3, 24, torch.device(device), torch.float32)
    pieces = [torch.arange(start, end) for start, end in ((0, 7), (7, 8), (8, 9), (9, 16))]  # (T,)
    pieces += [torch.tensor([[16], [9], [12]]) + step for step in range(3)]  # (B, 1): two rows go back
    for positions in pieces:
        at, placed = positions.expand(3, -1), positions.to(device)
        mask = visible(placed) if placed.ndim == 2 else None
        logits = model.logits(model.hidden_states(ids[rows, at].to(device), placed, mask, cache))
        yield Comparison(relative_error(logits, expected[rows, at]), limit, f"positions {positions.tolist()}")


@torch.no_grad()
def sampled(device: str) -> Iterator[Comparison]:
    """Check by chi-square that ids are drawn with their probabilities, none outside the top k; and the greedy id."""
    logits = torch.linspace(0, 3, BINS).sin().mul(2).to(device).float().cpu()
    generator = Generator().manual_seed(51)
    (greedy,) = sampling.sample_batch(logits[None], [()], Sampling(temperature=0.0), [generator])
    yield Comparison(float(logits.max() - logits[greedy]), 0.0, f"greedy: id {greedy} of {BINS}")
    for n, top_k in ((10_000, BINS), (100_000, 9)):
        rules = Sampling(temperature=0.8, top_k=top_k)
        ids = sampling.sample_batch(logits.expand(n, BINS), [()] * n, rules, [generator] * n)
        p = (logits.double() / 0.8).softmax(0)
        p = p.where(p >= p.topk(top_k).values[-1], 0.0)
        mean, where = n * p / p.sum(), f"{n:,} draws, top-k {top_k}"
        if bad := [i for i in ids if not 0 <= i < BINS or p[i] == 0]:
            yield Comparison(math.inf, 0.0, f"{where}: id {bad[0]:,} of {BINS}")
            return
        chi_square = ((torch.tensor(ids).bincount(minlength=BINS) - mean) ** 2 / mean)[p > 0].sum()
        # The mean of a chi-square statistic and 6 standard deviations.
        yield Comparison(float(chi_square), top_k - 1 + 6 * math.sqrt(2 * (top_k - 1)), where)
