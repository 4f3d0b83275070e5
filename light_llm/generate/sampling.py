"""Sampling of the next token. Each rule is a pure function from logits to logits, over the last dimension (V)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ..config import Sampling as Sampling

# Ties with the k-th likeliest that `topk_with_ties` looks for at first; more of them cost a second search.
EXPECTED_TIES = 8


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep only the k most likely tokens (Fan et al., 2018); ties with the k-th stay.

    >>> apply_top_k(torch.tensor([0.5, 0.3, 0.2]).log(), 2).softmax(-1)
    tensor([0.6250, 0.3750, 0.0000])
    """
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of tokens whose probabilities reach p, never empty: the nucleus (Holtzman et al., 2020).

    >>> apply_top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.7).softmax(-1)
    tensor([0.6250, 0.3750, 0.0000])
    """
    probabilities, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(dim=-1) - probabilities  # the mass of the more likely tokens: 0 for the first
    drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(drop, -math.inf)


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep only tokens that are at least p times as likely as the likeliest one.

    >>> apply_min_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.5).softmax(-1)
    tensor([0.6250, 0.3750, 0.0000])
    """
    top = logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill(logits < top + math.log(p), -math.inf)


def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Make tokens that were already used less likely (Keskar et al., 2019), as Hugging Face defines it.

    A positive logit is divided by the penalty, a negative one multiplied, once for any number of occurrences.

    >>> penalise_repetition(torch.tensor([2.0, -1.0, 3.0]), [0, 1, 1], 2.0)
    tensor([ 1., -2.,  3.])
    """
    ids = torch.tensor(sorted(set(seen)), dtype=torch.long, device=logits.device)
    used = logits[..., ids]
    return logits.index_copy(-1, ids, torch.where(used > 0, used / penalty, used * penalty))


def apply_filters(logits: Tensor, seen: Sequence[int], sampling: Sampling) -> Tensor:
    """Apply all rules in turn: (V,) -> (V,), minus infinity for excluded tokens."""
    # Hugging Face's order, except that top-k comes before the temperature, which does not change the order of tokens:
    # `sample_batch` needs it first.
    if sampling.repetition_penalty != 1.0 and seen:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return logits
    if sampling.top_k:
        logits = apply_top_k(logits, sampling.top_k)
    return _after_top_k(logits, sampling)


def _after_top_k(logits: Tensor, sampling: Sampling) -> Tensor:
    """Apply temperature, top-p and min-p: (..., V) -> (..., V) in float64."""
    # The likeliest token is moved to 0 first, in float64, so that not even a tiny temperature can overflow.
    logits = (logits - logits.amax(dim=-1, keepdim=True)).double() / sampling.temperature
    if sampling.top_p < 1.0:
        logits = apply_top_p(logits, sampling.top_p)
    if sampling.min_p > 0.0:
        logits = apply_min_p(logits, sampling.min_p)
    return logits


def inverse_cdf(logits: Tensor, generator: Generator) -> int:
    """Sample one token by inverting the cumulative distribution at one uniform number, on the CPU: (V,) -> id."""
    # One number per token and one generator per row, independent of the rest of the batch, so that a seed repeats a
    # text; torch.multinomial would draw a number for every id.
    cdf = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (V,)
    u = torch.rand((), generator=generator, dtype=torch.float64) * cdf[-1]
    # The first token whose cumulative mass is above u. A token without mass can never be it.
    return int(torch.searchsorted(cdf, u, right=True).clamp_max(int(cdf.argmax())))


def sample(logits: Tensor, seen: Sequence[int], sampling: Sampling, generator: Generator) -> int:
    """Sample the next token of one row: (V,) logits on the CPU -> id."""
    logits = apply_filters(logits.float(), seen, sampling)
    return int(logits.argmax()) if sampling.temperature == 0.0 else inverse_cdf(logits, generator)


def sample_batch(
    logits: Tensor, seen: Sequence[Sequence[int]], sampling: Sampling, generators: Sequence[Generator]
) -> list[int]:
    """Sample the next token of each row, the same as `sample` on each alone: (B, V) logits on the CPU -> ids.

    With top-k only the k kept tokens are exponentiated, and the rules are applied to all rows together.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        rows = zip(logits, seen, strict=True)
        logits = torch.stack([penalise_repetition(z, ids, sampling.repetition_penalty) for z, ids in rows])
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1).tolist()
    if not 0 < sampling.top_k < logits.size(-1):
        rest = replace(sampling, repetition_penalty=1.0)  # applied above
        return [sample(z, (), rest, g) for z, g in zip(logits, generators, strict=True)]
    ids, kept = topk_with_ties(logits, sampling.top_k)
    cdf = _after_top_k(kept, sampling).softmax(dim=-1).cumsum(dim=-1)  # (B, K)
    u = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])[:, None] * cdf[:, -1:]
    columns = torch.searchsorted(cdf, u, right=True).clamp_max(cdf.argmax(dim=-1, keepdim=True))
    return ids.gather(-1, columns)[:, 0].tolist()


def topk_with_ties(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return ids and logits of each row's k likeliest tokens and of ties with the k-th, by id: (B, V) -> twice (B, K).

    Rows with fewer ties are filled up with other tokens at minus infinity.

    >>> ids, kept = topk_with_ties(torch.tensor([[4.0, 0.0, 5.0, 4.0, 3.0]]), 2)
    >>> ids[kept > -math.inf], kept[kept > -math.inf]
    (tensor([0, 2, 3]), tensor([4., 5., 4.]))
    """
    values, ids = logits.topk(min(k + EXPECTED_TIES, logits.size(-1)), dim=-1)
    kth = values[:, k - 1 : k]
    if (values[:, -1:] == kth).any():  # there may be more ties
        values, ids = logits.topk(int((logits >= kth).sum(dim=-1).max()), dim=-1)
    ids, order = ids.sort(dim=-1)
    kept = values.gather(-1, order)
    return ids, kept.masked_fill(kept < kth, -math.inf)
