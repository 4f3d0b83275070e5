"""The residual stream and the MLPs, seen by hooks: how large, how even, how many-sided, how alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..model import LightLLM
from .metrics import round_significant


@dataclass
class Activations:
    """What one forward pass left: the stream after the embeddings and after each block, and the MLPs inside."""

    stream: list[Tensor] = field(default_factory=list)  # L + 1 of (B, T, C)
    units: list[Tensor] = field(default_factory=list)  # L of (B, T, n_inner), after the activation


@contextmanager
def record_activations(model: LightLLM) -> Iterator[Activations]:
    """Inside the block, a forward pass leaves its activations; afterwards no hook is left."""
    seen = Activations()

    def into(shelf: list[Tensor]) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            shelf.append(output.detach())

        return hook

    hooks = [model.drop.register_forward_hook(into(seen.stream))]  # type: ignore[arg-type]
    for block in model.h:
        hooks.append(block.register_forward_hook(into(seen.stream)))  # type: ignore[arg-type]
        hooks.append(block.mlp.act.register_forward_hook(into(seen.units)))  # type: ignore
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def root_mean_square(x: Tensor) -> Tensor:
    """sqrt(mean(x^2)) over all elements: the size of an activation: any shape -> ()."""
    return x.float().square().mean().sqrt()


def kurtosis(x: Tensor) -> Tensor:
    """E[(x - mean)^4] / variance^2 over all elements, any shape -> (): 3 if normal, large where a few stand out."""
    centred = x.float() - x.float().mean()
    return centred.pow(4).mean() / centred.square().mean().square()


def effective_rank(x: Tensor) -> Tensor:
    """In how many directions the vectors differ: the participation ratio of their covariance, (..., C) -> (), 1 ... C.

    (sum of eigenvalues)^2 / sum of squared eigenvalues, which is tr(K)^2 / |K|^2 and so needs no eigenvalue: n for n
    equal ones, 1 where all vectors lie on a line.
    """
    rows = x.float().flatten(0, -2)  # (N, C)
    rows = rows - rows.mean(dim=0)
    small = rows @ rows.T if len(rows) < rows.size(1) else rows.T @ rows  # the same eigenvalues
    return small.trace().square() / small.square().sum()


def dead_share(units: Tensor) -> Tensor:
    """The share of MLP units whose GELU never comes out above 0, (B, T, units) -> (): they only ever say nearly 0."""
    return (units.flatten(0, -2).amax(dim=0) <= 0).float().mean()


def stream_metrics(stream: list[Tensor]) -> dict[str, list[float]]:
    """Size, peaks and many-sidedness of the residual stream, L + 1 numbers each."""
    measures = {
        "rms": root_mean_square,
        "kurtosis": kurtosis,
        "largest": lambda x: x.abs().amax(),
        "effective_rank": effective_rank,
    }
    return {name: to_floats([f(x) for x in stream]) for name, f in measures.items()}


def to_floats(values: list[Tensor]) -> list[float]:
    """One number each, to four significant digits."""
    return [round_significant(value) for value in torch.stack(values).tolist()]
