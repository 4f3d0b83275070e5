"""S: from logits to a token. The rules of `generate/sampling.py`, applied to probabilities."""

import numpy as np
import torch

from light_llm.generate.sampling import (
    Sampling,
    apply_filters,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    inverse_cdf,
    penalise_repetition,
    sample,
    sample_batch,
)

from .tools import Array, agree, array, normal, softmax, tensor

Z = 2 * normal(30)
P = softmax(Z)


def _probabilities(logits: torch.Tensor) -> Array:
    return softmax(array(logits))


def _only(p: Array, kept: Array) -> Array:
    """The distribution given that it is one of the kept."""
    p = np.where(kept, p, 0.0)
    return p / p.sum()


def S1_temperature() -> None:
    for T in (0.5, 0.8, 2.0):
        p = P ** (1 / T) / (P ** (1 / T)).sum()
        agree(_probabilities(apply_filters(tensor(Z), (), Sampling(temperature=T))), p)
        agree(softmax(Z / T), p)


def S2_no_temperature() -> None:
    assert sample(tensor(Z), (), Sampling(temperature=0.0), torch.Generator()) == Z.argmax()
    cold = _probabilities(apply_filters(tensor(Z), (), Sampling(temperature=0.002)))
    agree(cold, np.eye(30)[Z.argmax()], atol=1e-9)


def S3_top_k() -> None:
    for k in (1, 5, 30, 99):
        kept = np.sort(P)[::-1][min(k, 30) - 1] <= P
        agree(_probabilities(apply_top_k(tensor(Z), k)), _only(P, kept))


def S4_top_p() -> None:
    """A token stays while those likelier than it have less than p."""
    for p in (0.1, 0.5, 0.9, 1.0):
        before = np.array([P[P > own].sum() for own in P])
        agree(_probabilities(apply_top_p(tensor(Z), p)), _only(P, before < p))


def S5_min_p() -> None:
    for p in (0.02, 0.2, 1.0):
        agree(_probabilities(apply_min_p(tensor(Z), p)), _only(P, P.max() * p <= P * (1 + 1e-12)))


def S6_repetition_penalty() -> None:
    seen, rho = [3, 3, 7, 11, 20], 1.3
    z = Z.copy()
    for i in set(seen):
        z[i] = z[i] / rho if z[i] > 0 else z[i] * rho
    assert {bool(Z[i] > 0) for i in seen} == {True, False}
    agree(penalise_repetition(tensor(Z), seen, rho), z)


def S7_a_draw_by_the_inverse_of_the_cumulative_distribution() -> None:
    cumulative = np.cumsum(P)
    for seed in range(50):
        u = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()
        token = int(np.argmax(cumulative > u * cumulative[-1]))
        assert inverse_cdf(tensor(Z), torch.Generator().manual_seed(seed)) == token


def S8_the_rules_in_turn() -> None:
    sampling = Sampling(temperature=0.8, top_k=12, top_p=0.9, min_p=0.05, repetition_penalty=1.2)
    z = Z.copy()
    for i in (2, 5):
        z[i] = z[i] / 1.2 if z[i] > 0 else z[i] * 1.2
    p = _only(softmax(z), z >= np.sort(z)[-12])
    p = p**1.25 / (p**1.25).sum()
    p = _only(p, np.array([p[p > own].sum() for own in p]) < 0.9)
    p = _only(p, p >= 0.05 * p.max())
    agree(_probabilities(apply_filters(tensor(Z), (2, 5), sampling)), p)
    cumulative = np.cumsum(p)
    for seed in range(20):
        one, same = (torch.Generator().manual_seed(seed) for _ in range(2))
        u = torch.rand((), generator=one, dtype=torch.float64).item() * cumulative[-1]
        assert sample_batch(tensor(Z)[None], [(2, 5)], sampling, [same]) == [int(np.argmax(cumulative > u))]
