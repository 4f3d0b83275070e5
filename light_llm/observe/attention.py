"""Record attention weights beside the fast attention kernel, and measure what each head does.

Query 0 sees only itself and has no choice, so means are over the queries 1 ... T - 1.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers.attention import attention_weights
from ..model import LightLLM
from .activations import to_floats
from .metric_names import describe_alarm

# Beyond these a head, or the heads of a layer, may carry no information about the text.
MAX_RELATIVE_ENTROPY, MIN_RELATIVE_ENTROPY, MAX_OVERLAP = 0.98, 0.02, 0.98
# A head with this weight on the previous token is sharp because that is its work.
PREVIOUS_TOKEN_HEAD = 0.9


@contextmanager
def record_attention(model: LightLLM) -> Iterator[list[Tensor]]:
    """Append the (B, H, T, S) attention weights of each layer, in order, to the yielded list at every forward pass.

    The fast kernels return no weights, so each layer's `attend` is wrapped by one that computes them from q and k too.
    """
    recorded: list[Tensor] = []
    originals: dict[Any, Callable[..., Tensor]] = {block.attn: block.attn.attend for block in model.h}  # type: ignore

    def recording(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(
            q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, scale: float = 0.0
        ) -> Tensor:
            # The metrics are computed in float32, whatever dtype the model runs in.
            with torch.autocast(q.device.type, enabled=False):
                weights = attention_weights(q.detach().float(), k.detach().float(), mask, scale)
                recorded.append(model.gather_units(weights, 1))
            return attend(q, k, v, mask, dropout, scale)

        return wrapper

    try:
        for layer, attend in originals.items():
            layer.attend = recording(attend)
        yield recorded
    finally:
        for layer, attend in originals.items():
            layer.attend = attend


def entropy(weights: Tensor) -> Tensor:
    """Return -sum_j a_j log a_j of each query in nats, with 0 log 0 = 0: (..., T, S) -> (..., T). Shannon (1948)."""
    return torch.special.entr(weights).sum(dim=-1)


def relative_entropy(weights: Tensor, window: int = 0) -> Tensor:
    """Return entropy over its maximum, the log of the positions a query sees: (..., T, T) -> (..., T - 1), 0 ... 1.

    Args:
        window: of sliding-window attention; 0 without one. A query that sees only itself counts as 0.
    """
    T = weights.size(-1)
    visible = torch.arange(2, T + 1, device=weights.device)  # of the queries 1 ... T - 1
    if window:
        visible = visible.clamp(max=max(2, window))
    return entropy(weights)[..., 1:] / visible.log()


def distance(weights: Tensor) -> Tensor:
    """Return sum_j a_j (i - j), how many tokens back query i looks on average: (..., T, T) -> (..., T)."""
    position = torch.arange(weights.size(-1), device=weights.device, dtype=weights.dtype)
    return position - weights @ position


def overlap(weights: Tensor) -> Tensor:
    """Return how similar the heads of a layer are: (B, H, T, T) -> (), 1 if all are equal, 0 if no two overlap.

    The mean over pairs of heads of sum_j min(a_j, b_j), which is 1 minus their total variation distance; 0 for a
    single head.
    """
    H = weights.size(1)
    if H < 2:
        return weights.new_zeros(())
    pairs = torch.combinations(torch.arange(H, device=weights.device))
    shared = [torch.minimum(weights[:, a, 1:], weights[:, b, 1:]).sum(dim=-1).mean() for a, b in pairs.tolist()]
    return torch.stack(shared).mean()


def head_metrics(weights: Tensor, window: int = 0) -> dict[str, list[float]]:
    """Return metrics of each head of a layer, means over batch and queries: (B, H, T, T) -> lists of H numbers."""
    per_query = {
        "entropy": entropy(weights)[..., 1:],  # nats
        "relative": relative_entropy(weights, window),
        "first": weights[..., 1:, 0],
        "previous": weights.diagonal(offset=-1, dim1=-2, dim2=-1),
        "distance": distance(weights)[..., 1:],  # tokens
    }
    return {name: to_floats(values.mean(dim=(0, 2))) for name, values in per_query.items()}


def induction_score(weights: Tensor) -> Tensor:
    """Return the weight on the token after the previous occurrence, on a repeated sequence: (B, H, T, T) -> (H,).

    Query R + i has the same token as position i, and a head that copies looks at i + 1 (Olsson et al., 2022).
    """
    half = weights.size(-1) // 2
    return weights.diagonal(offset=1 - half, dim1=-2, dim2=-1)[..., 1:].mean(dim=(0, 2))


@dataclass(frozen=True)
class Alarm:
    """A head, or all heads of a layer, whose attention no longer depends on the text.

    >>> str(Alarm(1, 3, "uniform"))
    'layer 1, head 3 attends uniformly'
    """

    layer: int
    head: int | None  # None: all heads of the layer
    what: str

    def __str__(self) -> str:
        return describe_alarm(self.layer, self.head, self.what)


def alarms(
    relative: Sequence[Sequence[float]], similarity: Sequence[float], previous: Sequence[Sequence[float]] | None = None
) -> list[Alarm]:
    """Return the heads with uniform or one-position attention, and the layers whose heads are all alike.

    Args:
        relative: (L, H) relative entropies.
        similarity: (L,) overlap of the heads.
        previous: (L, H) weight on the previous token; a head that always looks there raises no alarm.

    >>> alarms([[0.5, 0.995], [0.4, 0.6]], [0.3, 0.99])
    [Alarm(layer=0, head=1, what='uniform'), Alarm(layer=1, head=None, what='all heads alike')]
    """
    raised = []
    for layer, (heads, layer_similarity) in enumerate(zip(relative, similarity, strict=True)):
        for head, value in enumerate(heads):
            if value > MAX_RELATIVE_ENTROPY:
                raised.append(Alarm(layer, head, "uniform"))
            elif value < MIN_RELATIVE_ENTROPY and not (previous and previous[layer][head] > PREVIOUS_TOKEN_HEAD):
                raised.append(Alarm(layer, head, "one position"))
        if layer_similarity > MAX_OVERLAP:
            raised.append(Alarm(layer, None, "all heads alike"))
    return raised
