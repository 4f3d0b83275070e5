"""Record the residual stream and the MLPs with hooks, and measure their size, outliers, rank and dead units."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..model import LightLLM
from .metrics import round_significant


@dataclass
class Activations:
    """The activations of one forward pass: the residual stream and the MLP units."""

    stream: list[Tensor] = field(default_factory=list)  # L + 1 of (B, T, C): after the embeddings and after each block
    mlp_units: list[Tensor] = field(default_factory=list)  # L of (B, T, n_inner), after the activation function


@contextmanager
def record_activations(model: LightLLM) -> Iterator[Activations]:
    """Record the activations of the forward passes inside the block; the hooks are removed at its end."""
    recorded = Activations()

    def record(module: nn.Module, outputs: list[Tensor]) -> RemovableHandle:
        return module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))

    def record_units(module: nn.Module) -> RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            recorded.mlp_units.append(model.gather_units(output.detach(), -1))

        return module.register_forward_hook(hook)

    hooks = [record(model.drop, recorded.stream)]
    for block in model.h:
        hooks += [record(block, recorded.stream), record_units(block.mlp.act)]  # type: ignore
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def root_mean_square(x: Tensor) -> Tensor:
    """Return sqrt(mean(x^2)) over all elements, the typical size of an activation: any shape -> ()."""
    return x.float().square().mean().sqrt()


def kurtosis(x: Tensor) -> Tensor:
    """Return E[(x - mean)^4] / variance^2 over all elements: any shape -> ().

    It is 3 for a normal distribution, and large where a few elements are far out.
    """
    centred = x.float() - x.float().mean()
    return centred.pow(4).mean() / centred.square().mean().square()


def effective_rank(x: Tensor) -> Tensor:
    """Return the participation ratio of the covariance of vectors: (..., C) -> (), from 1 (on one line) to C.

    (sum of eigenvalues)^2 / sum of squared eigenvalues is tr(K)^2 / |K|^2, which needs no eigenvalues; n equal
    eigenvalues give n.
    """
    rows = x.float().flatten(0, -2)  # (N, C)
    rows = rows - rows.mean(dim=0)
    # X X^T and X^T X have the same nonzero eigenvalues: use the smaller matrix.
    gram = rows @ rows.T if len(rows) < rows.size(1) else rows.T @ rows
    return gram.trace().square() / gram.square().sum()


def dead_share(units: Tensor) -> Tensor:
    """Return the share of MLP units that are never above 0 after the activation function: (B, T, n_inner) -> ()."""
    return (units.flatten(0, -2).amax(dim=0) <= 0).float().mean()


def stream_metrics(stream: list[Tensor]) -> dict[str, list[float]]:
    """Return size, outliers and rank of the residual stream, L + 1 numbers each."""
    measures = {
        "rms": root_mean_square,
        "kurtosis": kurtosis,
        "largest": lambda x: x.abs().amax(),
        "effective_rank": effective_rank,
    }
    return {name: to_floats(torch.stack([f(x) for x in stream])) for name, f in measures.items()}


def to_floats(values: Tensor) -> list[float]:
    """Return the numbers of a tensor (n,) with four significant digits, for a row."""
    return [round_significant(value) for value in values.tolist()]
