"""Attention weights, asked for again from q and k while the model goes on as it always does; and what they say.

Queries that see only themselves have nothing to choose, so means are over the queries 1 ... T - 1.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import LightLLM, attention_weights
from .metrics import round_significant

EVEN, SHARP, ALIKE = 0.98, 0.02, 0.98  # beyond these a head, or a layer's heads, may say nothing about the text
NEXT_DOOR = 0.9  # weight on the previous token: such a head is sharp because it is useful


@contextmanager
def record_attention(model: LightLLM) -> Iterator[list[Tensor]]:
    """Inside the block, each forward pass leaves the (B, H, T, S) weights of every layer in the list, in order."""
    seen: list[Tensor] = []
    layers: list[Any] = [block.attn for block in model.h]
    quick = [layer.attend for layer in layers]

    def recording(fast: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
            with torch.autocast(q.device.type, enabled=False):  # the numbers are looked at in float32
                seen.append(attention_weights(q.detach().float(), k.detach().float(), mask))
            return fast(q, k, v, mask, dropout)

        return attend

    try:
        for layer, fast in zip(layers, quick, strict=True):
            layer.attend = recording(fast)
        yield seen
    finally:
        for layer, fast in zip(layers, quick, strict=True):
            layer.attend = fast


def entropy(weights: Tensor) -> Tensor:
    """-sum_j a_j log a_j of each query, in nats, 0 log 0 = 0: (..., T, S) -> (..., T). Shannon (1948)."""
    return torch.special.entr(weights).sum(dim=-1)


def relative_entropy(weights: Tensor, window: int = 0) -> Tensor:
    """Entropy over that of even attention, log of the positions a query sees: (..., T, T) -> (..., T - 1), 0 ... 1.

    A layer with a window sees no more than that; one that sees itself alone has nothing to choose: 0.
    """
    T = weights.size(-1)
    visible = torch.arange(2, T + 1, device=weights.device)  # of the queries 1 ... T - 1
    if window:
        visible = visible.clamp(max=max(2, window))
    return entropy(weights)[..., 1:] / visible.log()


def distance(weights: Tensor) -> Tensor:
    """sum_j a_j (i - j): how many tokens back a query i looks on average: (..., T, T) -> (..., T)."""
    at = torch.arange(weights.size(-1), device=weights.device, dtype=weights.dtype)
    return at - weights @ at


def overlap(weights: Tensor) -> Tensor:
    """How much the heads look at the same positions: 1 where all are alike, 0 where no two share one.

    The mean over pairs of heads of sum_j min(a_j, b_j), which is 1 minus their total variation distance:
    (B, H, T, T) -> (). One head alone has nothing to be like: 0.
    """
    H = weights.size(1)
    if H < 2:
        return weights.new_zeros(())
    pairs = torch.combinations(torch.arange(H, device=weights.device))
    shared = [torch.minimum(weights[:, a, 1:], weights[:, b, 1:]).sum(dim=-1).mean() for a, b in pairs.tolist()]
    return torch.stack(shared).mean()


def head_metrics(weights: Tensor, window: int = 0) -> dict[str, list[float]]:
    """What each head of a layer does, means over the batch and the queries: (B, H, T, T) -> lists of H numbers."""
    per_head = {
        "entropy": entropy(weights)[..., 1:],  # nats
        "relative": relative_entropy(weights, window),
        "first": weights[..., 1:, 0],
        "previous": weights.diagonal(offset=-1, dim1=-2, dim2=-1),
        "distance": distance(weights)[..., 1:],  # tokens
    }
    return {name: to_floats(values.mean(dim=(0, 2))) for name, values in per_head.items()}


def induction_score(weights: Tensor) -> Tensor:
    """On a sequence said twice, the weight on the token after the previous occurrence: (B, H, T, T) -> (H,).

    Query R + i has the same token as position i, and a head that copies looks at i + 1 (Olsson et al., 2022).
    """
    half = weights.size(-1) // 2
    return weights.diagonal(offset=1 - half, dim1=-2, dim2=-1)[..., 1:].mean(dim=(0, 2))


@dataclass(frozen=True)
class Alarm:
    """A head, or all heads of a layer, that no longer say anything about the text."""

    layer: int
    head: int | None
    what: str


def alarms(
    relative: Sequence[Sequence[float]],
    similarity: Sequence[float],
    previous: Sequence[Sequence[float]] | None = None,
) -> list[Alarm]:
    """Heads that look everywhere alike or at one position only, and layers whose heads are all the same.

    Args:
        relative: (L, H) relative entropies.
        similarity: (L,) overlap of the heads.
        previous: (L, H) weight on the previous token; a head that always looks there is no cause for alarm.

    >>> alarms([[0.5, 0.995], [0.4, 0.6]], [0.3, 0.99])
    [Alarm(layer=0, head=1, what='uniform'), Alarm(layer=1, head=None, what='all heads alike')]
    """
    found = []
    for layer, (heads, alike) in enumerate(zip(relative, similarity, strict=True)):
        for head, value in enumerate(heads):
            if value > EVEN:
                found.append(Alarm(layer, head, "uniform"))
            elif value < SHARP and not (previous and previous[layer][head] > NEXT_DOOR):
                found.append(Alarm(layer, head, "one position"))
        if alike > ALIKE:
            found.append(Alarm(layer, None, "all heads alike"))
    return found


def to_floats(values: Tensor) -> list[float]:
    """Numbers for a row, to four significant digits."""
    return [round_significant(value) for value in values.tolist()]
