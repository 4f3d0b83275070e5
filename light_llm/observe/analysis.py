"""The X-ray of a model at rest: curvature, gradient noise and landscape, as the plain values of analysis.json."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import check_range
from ..data import Batch
from ..errors import ConfigError
from ..model import LightLLM
from .curvature import (
    Hessian,
    adam_metric,
    adam_threshold,
    gradient_descent_threshold,
    hessian_of,
    lanczos,
    mean_and_error,
    precondition,
    quadratic_form,
    rademacher,
    spectral_density,
)
from .flat_params import flatten, mean_loss, trainable_parameters
from .gradient_noise import noise_scale, sequence_gradient
from .landscape import around, filter_normalised, loss_along, loss_over, plane_through
from .metrics import replace_nonfinite

Progress = Callable[[str, int, int], object]  # what is being computed, how much of it is done, of how much
FORMAT = 1
X = TypeVar("X")
Y = TypeVar("Y")


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """How much is computed; each product with the Hessian takes about as long as two passes forward and back."""

    batch_size: int = 4  # sequences of the batch that curvature and landscape are of
    k: int = 5  # largest eigenvalues that are reported
    steps: int = 18  # of a Lanczos iteration; each keeps a vector of all weights in memory
    spectra: int = 2  # iterations the density is a mean of
    sharpness_steps: int = 10  # of the iteration in Adam's metric, where the largest one stands far out
    signs: int = 12  # random sign vectors the trace is a mean of, those of the iterations included
    sequences: int = 24  # whose gradients the noise scale is from
    line: int = 21  # points along a random direction; odd, so that the weights themselves are one
    side: int = 9  # points along each side of a plane

    def __post_init__(self) -> None:
        check_range("batch_size", self.batch_size, low=1, integer=True)
        check_range("k", self.k, low=1, integer=True)
        if self.k > self.steps:
            raise ConfigError(
                f"k={self.k} eigenvalues cannot be had from steps={self.steps}; ask for at least {self.k}"
            )


@dataclass(frozen=True, kw_only=True)
class AdamState:
    """What is known of the optimizer at these weights."""

    lr: float | None = None  # of the next update
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    moments: Mapping[str, Tensor] | None = None  # as a step folder keeps them; None where there are none
    why_not: str = ""  # why there are none


@dataclass(frozen=True)
class CheckpointWeights:
    """The weights of one of the run's checkpoints."""

    step: int
    weights: Tensor  # (n,) on the CPU


def analyze(
    model: LightLLM,
    windows: Batch,
    *,
    step: int,
    optimizer: AdamState,
    run: Sequence[CheckpointWeights] = (),
    config: AnalysisConfig | None = None,
    seed: int = 1337,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Everything that is measured on demand, as plain JSON values; NaN and infinity are None.

    The model is left exactly as it was: weights, gradients, training mode, attention.

    Args:
        windows: text that the model was trained on, (B, T). The first `batch_size` sequences are the batch of curvature
            and landscape, the first `sequences` are those of the noise scale.
        step: of the weights.
        run: the run's other checkpoints; with at least two there is a plane through them and the model.
        seed: of the random directions and signs.

    Raises:
        ConfigError: nothing is trainable, or there are too few windows.
    """
    config = config or AnalysisConfig()
    _check_windows(windows, config)
    batch = Batch(windows.tokens[: config.batch_size], windows.targets[: config.batch_size])
    generator = torch.Generator().manual_seed(seed)
    hessian = hessian_of(model, batch)
    B, T = batch.tokens.shape
    found: dict[str, Any] = {
        "format": FORMAT,
        "batch": {"sequences": B, "context": T, "tokens": B * T},
        "loss": hessian.loss,
        "gradient_norm": float(hessian.gradient.norm()),
        "hessian": spectrum(hessian, config, generator, progress),
    }
    found["sharpness"] = sharpness(
        hessian, found["hessian"]["eigenvalues"][0], model, optimizer, config, generator, progress
    )
    del hessian  # its graph is many times the batch
    found["noise"] = noise(model, windows, config.sequences, progress)
    found["landscape"] = landscape(model, batch, config, generator, progress)
    found["path"] = path(
        model, batch, CheckpointWeights(step, flatten(trainable_parameters(model).values())), run, config.side, progress
    )
    result: dict[str, Any] = replace_nonfinite(found)
    return result


def spectrum(
    hessian: Hessian, config: AnalysisConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Any]:
    """Largest eigenvalues, the smallest, the trace and the density: from iterations that start at random signs."""
    n, more = len(hessian.gradient), max(0, config.signs - config.spectra)
    product = _counted(hessian.product, "curvature", config.spectra * config.steps + more, progress)

    def signs() -> Tensor:
        return rademacher(n, generator, hessian.gradient)

    found = [lanczos(product, signs(), config.steps) for _ in range(config.spectra)]
    forms = [n * quadratic_form(ritz) for ritz in found]
    for _ in range(more):
        v = signs()
        forms.append(float(v @ product(v)))
    best = min(found, key=lambda ritz: float(ritz.residuals[: config.k].max()))
    trace, error = mean_and_error(forms)
    density = spectral_density(found)
    return {
        "eigenvalues": best.values[: config.k].tolist(),
        "residuals": best.residuals[: config.k].tolist(),
        "smallest": min(float(ritz.values[-1]) for ritz in found),
        "parameters": n,
        "trace": {"value": trace, "stderr": error, "probes": len(forms)},
        "density": {
            "at": density.at.tolist(),
            "density": density.density.tolist(),
            "broadening": density.broadening,
            "probes": len(found),
            "steps": max(len(ritz.values) for ritz in found),
        },
    }


def sharpness(
    hessian: Hessian,
    largest: float,
    model: LightLLM,
    optimizer: AdamState,
    config: AnalysisConfig,
    generator: torch.Generator,
    progress: Progress,
) -> dict[str, Any]:
    """The largest eigenvalue, as it is and in Adam's metric, each beside the value from which its steps overshoot."""
    lr, weights = optimizer.lr, trainable_parameters(model)
    in_adams, why_not = None, optimizer.why_not
    if optimizer.moments is not None:
        try:
            metric = adam_metric(optimizer.moments, weights, beta2=optimizer.beta2, eps=optimizer.eps)
        except KeyError as missing:
            why_not = f"the optimizer keeps no {missing.args[0]}: Adam's metric is not that of all weights"
        else:
            product = _counted(hessian.product, "sharpness", config.sharpness_steps, progress)
            start = rademacher(len(metric), generator, hessian.gradient)
            in_adams = lanczos(precondition(product, metric.to(start)), start, config.sharpness_steps)
    return {
        "plain": largest,
        "plain_threshold": gradient_descent_threshold(lr) if lr else None,
        "preconditioned": float(in_adams.values[0]) if in_adams else None,
        "preconditioned_residual": float(in_adams.residuals[0]) if in_adams else None,
        "preconditioned_threshold": adam_threshold(lr, optimizer.beta1) if lr and in_adams else None,
        "lr": lr,
        "why_not": "" if in_adams else why_not,
    }


def noise(model: LightLLM, windows: Batch, n: int, progress: Progress) -> dict[str, Any]:
    """The gradient noise scale in sequences and in tokens."""
    gradient = _counted(partial(sequence_gradient, model, windows), "noise", 2 * n, progress)
    found, T = noise_scale(gradient, n), windows.tokens.size(1)
    return {
        "gradient_squared": found.gradient_squared,
        "trace": found.trace,
        "scale_sequences": found.scale,
        "scale_tokens": None if found.scale is None else found.scale * T,
        "stderr": found.stderr,
        "sequences": n,
    }


def landscape(
    model: LightLLM, batch: Batch, config: AnalysisConfig, generator: torch.Generator, progress: Progress
) -> dict[str, Any]:
    """The loss along one filter-normalised random direction, and over the plane of two. loss[i][j] is at a[j], b[i]."""
    weights = trainable_parameters(model)
    origin = flatten(weights.values())
    first, second = (filter_normalised(weights, generator) for _ in range(2))
    loss = _counted(_loss_at(model, batch), "landscape", config.line + config.side**2, progress)
    line, side = around((-1.0, 1.0), config.line, 0), around((-1.0, 1.0), config.side, 0)
    return {
        "line": {"at": line, "loss": loss_along(loss, origin, first, line)},
        "plane": {"a": side, "b": side, "loss": loss_over(loss, origin, first, second, side, side)},
    }


def path(
    model: LightLLM,
    batch: Batch,
    here: CheckpointWeights,
    run: Sequence[CheckpointWeights],
    side: int,
    progress: Progress,
) -> dict[str, Any] | None:
    """The plane through the run's checkpoints, their places, and the loss on it. loss[i][j] is at a[j], b[i].

    The loss of a point is that of its own weights, which lie off the plane by what the plane does not explain.
    """
    others = [CheckpointWeights(p.step, p.weights.to(here.weights)) for p in run if p.step != here.step]
    plane = plane_through(here.weights, [p.weights for p in others])
    if plane is None:
        return None
    loss = _counted(_loss_at(model, batch), "path", side**2 + len(others) + 1, progress)
    a, b = (around([0.0, *(place[i] for place in plane.places)], side) for i in range(2))
    places = [(0.0, 0.0), *plane.places]
    points = [
        {"step": p.step, "a": place[0], "b": place[1], "loss": loss(p.weights)}
        for p, place in zip([here, *others], places, strict=True)
    ]
    return {
        "explained": list(plane.explained),
        "points": sorted(points, key=lambda p: p["step"]),
        "a": a,
        "b": b,
        "loss": loss_over(loss, plane.origin, plane.first, plane.second, a, b),
    }


def _check_windows(windows: Batch, config: AnalysisConfig) -> None:
    needed = max(config.batch_size, config.sequences)
    if len(windows.tokens) < needed:
        raise ConfigError(f"{len(windows.tokens)} windows of text were given and {needed} are needed; give more")


def _loss_at(model: LightLLM, batch: Batch) -> Callable[[Tensor], float]:
    def loss(weights: Tensor) -> float:
        with torch.no_grad():
            return float(mean_loss(model, weights, batch))

    return loss


def _counted(function: Callable[[X], Y], what: str, total: int, progress: Progress) -> Callable[[X], Y]:
    """The function, which also says how often it was called."""
    calls = 0

    def counting(x: X) -> Y:
        nonlocal calls
        result = function(x)
        calls += 1
        progress(what, calls, total)
        return result

    return counting
