"""P: what the probes of a run measure."""

import numpy as np
import torch

from light_llm.objective import token_cross_entropy_reference
from light_llm.observe.activations import dead_share, effective_rank, kurtosis, record_activations, root_mean_square
from light_llm.observe.attention import (
    distance,
    entropy,
    head_metrics,
    induction_score,
    overlap,
    record_attention,
    relative_entropy,
)
from light_llm.observe.predictions import calibration, copying_gain, logit_lens, predict, repeated_sequence
from tests.support.tools import some_tokens, tiny_model

from . import tools
from .tools import Array, agree, array, layer_norm, normal, softmax, tensor

A = tools.attention_weights(2 * normal(2, 3, 9, 4, seed=1), normal(2, 3, 9, 4, seed=2))  # (B, H, T, T)


def _entropy(p: Array) -> float:
    return -sum(x * np.log(x) for x in p if x > 0)


def P1_attention_entropy() -> None:
    agree(entropy(tensor(A)), np.apply_along_axis(_entropy, -1, A), rtol=1e-7)
    even = np.tril(np.ones((9, 9))) / np.arange(1, 10)[:, None]
    agree(entropy(tensor(even)), np.log(np.arange(1, 10)))
    agree(head_metrics(tensor(A))["entropy"], array(entropy(tensor(A)))[..., 1:].mean(axis=(0, 2)), rtol=1e-3)


def P2_relative_entropy() -> None:
    H = np.apply_along_axis(_entropy, -1, A)
    share = np.stack([H[..., i] / np.log(i + 1) for i in range(1, 9)], axis=-1)
    agree(relative_entropy(tensor(A)), share, rtol=1e-6)
    agree(head_metrics(tensor(A))["relative"], share.mean(axis=(0, 2)), rtol=1e-3)


def P3_weight_on_the_first_and_on_the_previous_token() -> None:
    facts = head_metrics(tensor(A))
    agree(facts["first"], np.mean([A[:, :, i, 0] for i in range(1, 9)], axis=(0, 1)), rtol=1e-3)
    agree(facts["previous"], np.mean([A[:, :, i, i - 1] for i in range(1, 9)], axis=(0, 1)), rtol=1e-3)


def P4_mean_distance() -> None:
    far = np.zeros(A.shape[:3])
    for i in range(9):
        for j in range(i + 1):
            far[:, :, i] += A[:, :, i, j] * (i - j)
    agree(distance(tensor(A)), far, atol=1e-9)
    agree(head_metrics(tensor(A))["distance"], far[..., 1:].mean(axis=(0, 2)), rtol=1e-3)


def P5_overlap_of_heads() -> None:
    """1 minus the total variation distance, over pairs of heads."""
    shared = []
    for a in range(3):
        for b in range(a):
            apart = 0.5 * np.abs(A[:, a, 1:] - A[:, b, 1:]).sum(axis=-1)
            shared.append(1 - apart.mean())
    agree(overlap(tensor(A)), np.mean(shared))
    agree(overlap(tensor(A[:, :1])), 0.0)


X = normal(4, 9, 24) * np.linspace(0.1, 3, 24)


def P6_size_of_the_stream() -> None:
    agree(root_mean_square(tensor(X)), np.sqrt((X**2).sum() / X.size), rtol=1e-5)


def P7_kurtosis() -> None:
    c = X - X.mean()
    agree(kurtosis(tensor(X)), (c**4).mean() / (c**2).mean() ** 2, rtol=1e-5)
    agree(kurtosis(tensor(normal(400_000))), 3.0, rtol=0.02)


def P8_effective_rank() -> None:
    """More vectors than dimensions, and fewer."""
    for x in (X + 1, X[0] + 1):
        eigenvalues = np.linalg.eigvalsh(np.cov(x.reshape(-1, 24).T))
        agree(effective_rank(tensor(x)), eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rtol=1e-4)


def P9_dead_units() -> None:
    model, ids = tiny_model(scale=3), some_tokens(1, 3)
    with record_activations(model) as seen:
        model(ids)
    for units in seen.mlp_units:
        share = np.mean([(array(units)[..., i] <= 0).all() for i in range(96)])
        assert 0 < share < 1
        agree(dead_share(units), share, rtol=1e-6)


def P10_entropy_of_a_guess() -> None:
    model, x, y = tiny_model(scale=5), some_tokens(2, 9), some_tokens(2, 9, seed=6)
    p = softmax(array(model(x))).reshape(18, -1)
    found = predict(model, model.hidden_states(x).flatten(0, 1), y.flatten(), rows=7)
    agree(found.entropy, [_entropy(row) for row in p], rtol=1e-4)
    agree(found.confidence, p.max(axis=-1), rtol=1e-4)
    agree(found.right, p.argmax(axis=-1) == y.flatten().numpy())


def P11_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(500)
    chance = np.where(confidence < 0.5, confidence**2, confidence**0.5)  # too sure below a half, too modest above
    right = (rng.random(500) < chance).astype(float)
    error = 0.0
    for b in range(10):
        mine = (confidence >= b / 10) & (confidence < (b + 1) / 10)
        error += mine.sum() / 500 * abs(confidence[mine].mean() - right[mine].mean())
    agree(calibration(tensor(confidence), tensor(right))[0], error)


def P12_the_logit_lens() -> None:
    model, x, y = tiny_model(scale=3), some_tokens(2, 9), some_tokens(2, 9, seed=6)
    with record_activations(model) as seen:
        model(x)
    losses = []
    for stream in seen.stream:
        z = layer_norm(array(stream), array(model.ln_f.weight), array(model.ln_f.bias)) @ array(model.wte.weight).T
        losses.append((tools.log_sum_exp(z) - np.take_along_axis(z, y.numpy()[..., None], -1)[..., 0]).mean())
    agree(logit_lens(model, seen.stream, y), losses, rtol=1e-4)
    agree(losses[-1], token_cross_entropy_reference(model, x, y).mean(), rtol=1e-4)


def P13_induction_score() -> None:
    twice = tools.attention_weights(normal(2, 3, 12, 4), normal(2, 3, 12, 4, seed=1))
    R = 6
    score = np.mean([twice[:, :, R + i, i + 1] for i in range(R)], axis=(0, 1))
    agree(induction_score(tensor(twice)), score)


def P14_what_copying_gains() -> None:
    model, ids = tiny_model(scale=5), repeated_sequence(61, B=3, half=8)
    assert torch.equal(ids[:, :8], ids[:, 8:]) and torch.equal(ids, repeated_sequence(61, B=3, half=8))
    n = array(token_cross_entropy_reference(model, ids[:, :-1], ids[:, 1:]))  # of the targets at 1 ... 15
    agree(copying_gain(model, ids), n[:, :7].mean() - n[:, 8:].mean(), rtol=1e-4)


def P15_the_weights_that_are_recorded_are_the_models() -> None:
    """The first layer's, from its own queries and keys."""
    model, x = tiny_model(scale=3).double(), some_tokens(1, 9)
    with record_attention(model) as seen:
        model(x)
    p = tools.parameters(model)
    stream = p["wte.weight"][x[0]] + p["wpe.weight"][:9]
    normed = layer_norm(stream, p["h.0.ln_1.weight"], p["h.0.ln_1.bias"])
    qkv = (normed @ p["h.0.attn.c_attn.weight"].T + p["h.0.attn.c_attn.bias"]).reshape(9, 3, 3, 8)
    q, k = qkv[:, 0].transpose(1, 0, 2), qkv[:, 1].transpose(1, 0, 2)
    agree(seen[0][0], tools.attention_weights(q, k), rtol=1e-4, atol=1e-6)
