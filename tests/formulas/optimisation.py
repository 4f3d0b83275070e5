"""O: AdamW, Muon, clipping, schedules, and how large a step is."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from light_llm.config import TrainConfig
from light_llm.objective import NextTokenLoss
from light_llm.observe.step_metrics import StepMetrics, group_of
from light_llm.optim import build_optimizer, warmup_cosine, warmup_stable_decay
from tests.support.tools import gradients, some_tokens, tiny_model

from .tools import Array, agree, array, normal, tensor

LR, DECAY, BETA1, BETA2, EPS = 0.01, 0.1, 0.9, 0.95, 1e-3  # an eps large enough to be seen
GRADIENTS = [normal(3, 6, seed=s) for s in range(4)]


def _layer(**changes: Any) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).double()
    config = TrainConfig(**({"lr": LR, "weight_decay": DECAY, "beta1": BETA1, "beta2": BETA2, "eps": EPS} | changes))
    return layer, build_optimizer(layer, config)


def _step(layer: nn.Linear, optimizer: torch.optim.Optimizer, gradient: Array) -> tuple[Array, Array]:
    """The weights before and after an update with a gradient."""
    before = array(layer.weight).copy()
    layer.weight.grad = tensor(gradient)
    optimizer.step()
    return before, array(layer.weight).copy()


def O1_the_mean_of_gradients() -> None:
    layer, optimizer = _layer()
    m = np.zeros((3, 6))
    for g in GRADIENTS:
        _step(layer, optimizer, g)
        m = BETA1 * m + (1 - BETA1) * g
        agree(optimizer.state[layer.weight]["exp_avg"], m)


def O2_the_mean_of_their_squares() -> None:
    layer, optimizer = _layer()
    v = np.zeros((3, 6))
    for g in GRADIENTS:
        _step(layer, optimizer, g)
        v = BETA2 * v + (1 - BETA2) * g**2
        agree(optimizer.state[layer.weight]["exp_avg_sq"], v)


def O3_a_mean_that_began_at_zero_is_too_small() -> None:
    """With one gradient again and again, m is (1 - beta^t) g: divided by that it is g, at every step."""
    layer, optimizer = _layer()
    g = GRADIENTS[0]
    for t in range(1, 6):
        _step(layer, optimizer, g)
        agree(array(optimizer.state[layer.weight]["exp_avg"]) / (1 - BETA1**t), g)
        agree(array(optimizer.state[layer.weight]["exp_avg_sq"]) / (1 - BETA2**t), g**2)


def O4_the_update_of_adamw() -> None:
    layer, optimizer = _layer()
    m, v, w = np.zeros((3, 6)), np.zeros((3, 6)), array(layer.weight).copy()
    for t, g in enumerate(GRADIENTS, start=1):
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
        m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
        w = (1 - LR * DECAY) * w - LR * m_hat / (np.sqrt(v_hat) + EPS)
        agree(_step(layer, optimizer, g)[1], w)


def O5_decay_is_apart_from_the_gradient() -> None:
    """Without a gradient a weight shrinks by lr lambda and a bias stays; the rest of a step knows no lambda."""
    layer, optimizer = _layer()
    bias, layer.bias.grad = array(layer.bias).copy(), torch.zeros_like(layer.bias)
    before, after = _step(layer, optimizer, np.zeros((3, 6)))
    agree(after, (1 - LR * DECAY) * before)
    agree(layer.bias, bias)
    (b0, a0), (b1, a1) = (_step(*_layer(weight_decay=decay), GRADIENTS[0]) for decay in (0.0, 0.1))
    agree(a1 - (1 - LR * 0.1) * b1, a0 - b0)


def O6_the_first_step_is_nearly_the_sign() -> None:
    layer, optimizer = _layer(weight_decay=0.0)
    g = GRADIENTS[0]
    before, after = _step(layer, optimizer, g)
    agree(after - before, -LR * g / (np.abs(g) + EPS))


def O7_the_momentum_of_muon() -> None:
    layer, optimizer = _layer(optimizer="muon")
    B = np.zeros((3, 6))
    for g in GRADIENTS:
        _step(layer, optimizer, g)
        B = 0.95 * B + 0.05 * g
        agree(optimizer.state[layer.weight]["momentum_buffer"], B)


A_NS, B_NS, C_NS = 3.4445, -4.7750, 2.0315


def newton_schulz(G: Array) -> Array:
    """Five turns of X <- a X + (b X X^T + c (X X^T)^2) X, from G over its Frobenius norm."""
    X = G / np.sqrt((G**2).sum())
    for _ in range(5):
        A = X @ X.T
        X = A_NS * X + (B_NS * A + C_NS * A @ A) @ X
    return X


def _muon_direction(g: Array) -> Array:
    """What one step of Muon moves by, divided by lr and by its scale, without decay."""
    layer, optimizer = _layer(optimizer="muon", weight_decay=0.0)
    before, after = _step(layer, optimizer, g)
    return (before - after) / (LR * 0.2 * math.sqrt(6))


def O8_newton_schulz() -> None:
    """torch's turns are in bfloat16, so to about 1 in 100. The first update is Nesterov's: a multiple of g."""
    g = GRADIENTS[0]
    agree(_muon_direction(g), newton_schulz(0.05 * g + 0.95 * 0.05 * g), rtol=0, atol=0.03)
    tall = normal(6, 3, seed=9)
    torch.manual_seed(0)
    layer = nn.Linear(3, 6).double()
    optimizer = build_optimizer(layer, TrainConfig(lr=LR, weight_decay=0.0, optimizer="muon"))
    before, after = _step(layer, optimizer, tall)
    agree((before - after) / (LR * 0.2 * math.sqrt(6)), newton_schulz(tall.T).T, rtol=0, atol=0.03)


def phi(s: Array) -> Array:
    """What one turn makes of a singular value."""
    return A_NS * s + B_NS * s**3 + C_NS * s**5


def O9_a_turn_moves_singular_values_towards_one() -> None:
    g = GRADIENTS[0]
    U, s, Vt = np.linalg.svd(g, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(5):
        s = phi(s)
    agree(_muon_direction(g), U @ np.diag(s) @ Vt, rtol=0, atol=0.03)
    assert (np.abs(s - 1) < 0.35).all()


def O10_the_size_of_a_step_of_muon() -> None:
    """A matrix with all singular values 1 has an RMS of 1 / sqrt(larger side); the scale makes it 0.2."""
    Q = np.linalg.qr(normal(64, 16))[0]
    agree(np.sqrt((Q**2).mean()), 1 / math.sqrt(64))
    torch.manual_seed(0)
    layer = nn.Linear(16, 64).double()
    optimizer = build_optimizer(layer, TrainConfig(lr=LR, weight_decay=0.0, optimizer="muon"))
    before, after = _step(layer, optimizer, Q)
    moved = (before - after) / LR
    agree(np.sqrt((moved**2).mean()), 0.2 * abs(newton_schulz(Q.T)[0] @ Q.T[0]) / (Q.T[0] @ Q.T[0]), rtol=0.02)
    agree(np.sqrt((moved**2).mean()), 0.2, rtol=0.35)


def O11_the_update_of_muon() -> None:
    layer, optimizer = _layer(optimizer="muon")
    B, w = np.zeros((3, 6)), array(layer.weight).copy()
    for g in GRADIENTS:
        B = 0.95 * B + 0.05 * g
        O = newton_schulz(0.05 * g + 0.95 * B)  # noqa: E741
        w = (1 - LR * DECAY) * w - LR * 0.2 * math.sqrt(6) * O
        agree(_step(layer, optimizer, g)[1], w, rtol=0, atol=LR * 0.2 * math.sqrt(6) * 0.05)
        w = array(layer.weight).copy()


def _meter() -> tuple[StepMetrics, torch.optim.Optimizer, dict[str, Array]]:
    """A model with gradients of a norm far above 1, its optimizer, and the gradients."""
    model = tiny_model(scale=5)
    optimizer = build_optimizer(model, TrainConfig(lr=LR))
    NextTokenLoss(model)(some_tokens(), some_tokens(seed=6)).backward()
    return StepMetrics(model, optimizer), optimizer, {n: array(g) for n, g in gradients(model).items()}


def O12_clipping() -> None:
    meter, _, before = _meter()
    norm = math.sqrt(sum((g**2).sum() for g in before.values()))
    assert norm > 1
    agree(meter.clip(0.5), norm, rtol=1e-5)
    for name, g in gradients(meter.model).items():
        agree(g, before[name] * min(1.0, 0.5 / (norm + 1e-6)), rtol=1e-4, atol=1e-9)
    meter.clip(10.0)  # smaller than that already: left alone
    agree(gradients(meter.model)["wte.weight"], before["wte.weight"] * 0.5 / (norm + 1e-6), rtol=1e-4, atol=1e-9)


def O13_warm_up() -> None:
    for shape in (warmup_cosine, warmup_stable_decay):
        for s in range(10):
            agree(shape(s, warmup=10, horizon=100), (s + 1) / 10)


def O14_half_a_cosine() -> None:
    for s in (10, 11, 40, 99, 100, 400):
        u = min(1.0, (s - 10) / (100 - 10))
        f = 0.2 + (1 - 0.2) * (1 + math.cos(math.pi * u)) / 2
        agree(warmup_cosine(s, warmup=10, horizon=100, floor=0.2), f)


def O15_stable_then_down_in_a_line() -> None:
    for s in (10, 30, 59, 60, 61, 80, 100, 400):
        f = 0.2 + (1 - 0.2) * min(1.0, max(0.0, (100 - s) / (0.4 * 100)))
        agree(warmup_stable_decay(s, warmup=10, horizon=100, floor=0.2), f)


def O16_norms_of_groups() -> None:
    """Squares add up: over the parameters of a group, and over the groups to the whole."""
    meter, _, before = _meter()
    total = meter.clip(1.0)
    assert meter.current is not None
    found = meter.current.grad_norms()
    for group in ("wte", "wpe", "h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp", "ln_f"):
        agree(found[group], math.sqrt(sum((g**2).sum() for n, g in before.items() if group_of(n) == group)), rtol=1e-3)
    agree(math.sqrt(sum(x**2 for x in found.values())), total, rtol=1e-3)


def O17_an_update_as_a_share_of_the_weights() -> None:
    meter, optimizer, _ = _meter()
    old = {n: array(p).copy() for n, p in meter.model.named_parameters()}
    meter.clip(1.0)
    optimizer.step()
    assert meter.current is not None
    found = meter.current.update_ratios()
    for group in meter.groups:
        mine = [(old[n], array(p)) for n, p in meter.model.named_parameters() if group_of(n) == group]
        moved = math.sqrt(sum(((new - w) ** 2).sum() for w, new in mine))
        agree(found[group], moved / math.sqrt(sum((new**2).sum() for _, new in mine)), rtol=1e-3)
