"""Steps of the optimizers as training builds them, against the equations of the papers in float64."""

import math
from collections.abc import Collection, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from ..config import ModelConfig, TrainConfig
from ..model import LightLLM
from ..optim import build_optimizer, group_parameters
from ..optim.groups import MATRIX, VECTOR
from .remedies import use_plain_update
from .subject import Subject, numbers, opinionated
from .tolerance import allowed, worst_error
from .values import ADAMW, MUON, PLAIN_ADAMW, Case, Measured

STEPS = 4
SHAPE = ModelConfig(vocab_size=5003, n_positions=33, n_embd=36, n_layer=1, n_head=2)  # nothing that 16 divides
CONFIG = TrainConfig(lr=0.01, weight_decay=0.1)
ROUNDINGS = 8  # of one update of AdamW: the chain from a gradient to a weight
NEWTON = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024): five steps of a x + b x^3 + c x^5
MOMENTUM = 0.95


def steps(subject: Subject, optimizer: str, *, plain: bool = False) -> Iterator[Measured]:
    """Some steps with a rate that moves, from given gradients: how far each weight went."""
    config = CONFIG.with_changes({"optimizer": optimizer})
    model = opinionated(SHAPE).to(subject.device)
    start = {name: p.detach().cpu().double() for name, p in model.named_parameters()}
    roles = group_parameters(model)
    ours = build_optimizer(model, config)
    if plain or subject.plain_update:
        use_plain_update(ours)
    right = Exact(start, {n for n in start if n in roles[MATRIX]}, {n for n in start if n in roles[VECTOR]}, config)
    for step in range(1, STEPS + 1):
        lr = config.lr * step / STEPS
        for group in ours.param_groups:
            group["lr"] = lr
        for i, (name, p) in enumerate(model.named_parameters()):
            gradient = _gradient(p.shape, seed=1000 * step + i)
            p.grad = gradient.to(subject.device)
            right.update(name, gradient.double(), step, lr)
        ours.step()
    yield from _moved(model, start, right, by_muon=roles[MATRIX].keys() if optimizer == "muon" else ())


def _gradient(shape: torch.Size, seed: int) -> Tensor:
    """Normal numbers; of a table every second row without a gradient, as of a word that was not there."""
    gradient = numbers(*shape, seed=seed, scale=0.1)
    if len(shape) == 2 and shape[0] > 1000:
        gradient[::2] = 0
    return gradient


def _moved(
    model: LightLLM, start: Mapping[str, Tensor], right: "Exact", by_muon: Collection[str]
) -> Iterator[Measured]:
    """The way each parameter went, relative to the longest way of one of its weights."""
    for name, p in model.named_parameters():
        way = right.weights[name] - start[name]
        found = p.detach().cpu().double() - start[name]
        # A weight is rounded to its own size at every step, however short the way.
        size = 1 + float(start[name].abs().max() / way.abs().max())
        limit = newton_limit(p.shape) if name in by_muon else allowed([ROUNDINGS] * STEPS) * size
        yield Measured(worst_error(found, way), limit, f"{name} after {STEPS} steps")


def newton_limit(shape: torch.Size) -> float:
    """Of a direction of Muon: five Newton-Schulz steps of three products each, in bfloat16 on every device.

    Several steps have no larger relative error than one: what each adds is as small beside its own way.
    """
    return allowed([min(shape)] * 15, torch.bfloat16)


class Exact:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) and Muon (Jordan et al., 2024) as written, in float64."""

    def __init__(self, start: dict[str, Tensor], matrices: set[str], vectors: set[str], config: TrainConfig) -> None:
        self.weights = {name: weight.clone() for name, weight in start.items()}
        self.first = {name: torch.zeros_like(weight) for name, weight in start.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in start.items()}
        self.matrices = matrices if config.optimizer == "muon" else set()
        self.vectors, self.config = vectors, config

    def update(self, name: str, g: Tensor, t: int, lr: float) -> None:
        """Step t of one parameter."""
        config, weight = self.config, self.weights[name]
        decay = 0.0 if name in self.vectors else config.weight_decay
        if name in self.matrices:
            self.first[name] = MOMENTUM * self.first[name] + (1 - MOMENTUM) * g
            ahead = MOMENTUM * self.first[name] + (1 - MOMENTUM) * g  # Nesterov's
            direction = 0.2 * math.sqrt(max(g.shape)) * orthogonal(ahead)  # Liu et al. (2025), equation 4
        else:
            self.first[name] = config.beta1 * self.first[name] + (1 - config.beta1) * g
            self.second[name] = config.beta2 * self.second[name] + (1 - config.beta2) * g**2
            m = self.first[name] / (1 - config.beta1**t)
            v = self.second[name] / (1 - config.beta2**t)
            direction = m / (v.sqrt() + config.eps)
        self.weights[name] = weight - lr * direction - lr * decay * weight


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V^T of U S V^T: five steps of Newton-Schulz, whose polynomial brings all singular values near 1."""
    a, b, c = NEWTON
    x = matrix / matrix.norm()
    x = x.T if x.size(0) > x.size(1) else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.size(0) > matrix.size(1) else x


CORE = (
    Case("AdamW", "the fused update of AdamW", partial(steps, optimizer="adamw"), part=ADAMW),
    Case("Muon", "the update of Muon", partial(steps, optimizer="muon"), part=MUON),
)
PLAIN = Case(
    "AdamW, plain",
    "the update of AdamW, operation by operation,",
    partial(steps, optimizer="adamw", plain=True),
    PLAIN_ADAMW,
)
