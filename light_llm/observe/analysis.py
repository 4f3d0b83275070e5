"""Analyse the weights of a model: curvature, gradient noise and loss landscape, as the values of analysis.json."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import check_range
from ..data import Batch
from ..errors import ConfigError
from ..model import LightLLM
from . import curvature
from .flat_params import flatten, mean_loss, trainable_parameters
from .gradient_noise import noise_scale, sequence_gradient
from .landscape import filter_normalised_direction, fit_plane, loss_on_line, loss_on_plane, spaced_values
from .metrics import replace_nonfinite

ProgressFn = Callable[[str, int, int], object]  # called with the stage, units done and units in total
FORMAT = 1
X = TypeVar("X")
Y = TypeVar("Y")


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """The amount of work. A product with the Hessian takes as long as two forward and backward passes."""

    batch_size: int = 4  # sequences of the batch for curvature and landscape
    k: int = 5  # largest eigenvalues to report
    steps: int = 18  # of a Lanczos iteration; each keeps a vector of all weights in memory
    spectra: int = 2  # iterations whose mean is the spectral density
    sharpness_steps: int = 10  # of the iteration in Adam's metric; few are needed, as its largest eigenvalue stands out
    signs: int = 12  # random sign vectors for the trace, those of the iterations included
    sequences: int = 24  # whose gradients give the noise scale
    line: int = 21  # points along a random direction; odd, so that one is at the weights themselves
    side: int = 9  # points along each side of a plane

    def __post_init__(self) -> None:
        check_range("batch_size", self.batch_size, low=1, integer=True)
        check_range("k", self.k, low=1, integer=True)
        if self.k > self.steps:
            raise ConfigError(f"k={self.k} eigenvalues need steps={self.k} or more, not steps={self.steps}")


@dataclass(frozen=True, kw_only=True)
class AdamState:
    """The known state of the optimizer at these weights."""

    lr: float | None = None  # of the next update
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    moments: Mapping[str, Tensor] | None = None  # optimizer tensors of a step folder; None without one
    why_not: str = ""  # the reason why `moments` is None


def analyze(
    model: LightLLM,
    windows: Batch,
    *,
    step: int,
    optimizer: AdamState,
    run: Mapping[int, Tensor] | None = None,
    config: AnalysisConfig | None = None,
    seed: int = 1337,
    progress: ProgressFn = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Return all results as plain JSON values, with None for NaN and infinity.

    Weights, gradients, training mode and attention of the model stay as they are.

    Args:
        windows: training text, (B, T). The first `batch_size` sequences are the batch for curvature and landscape, the
            first `sequences` those for the noise scale.
        step: of the weights.
        run: weights (n,) of the run's other checkpoints by step, on the CPU; a plane needs at least two.
        seed: of the random directions and signs.

    Raises:
        ConfigError: no parameter is trainable, or there are too few windows.
    """
    config = config or AnalysisConfig()
    needed = max(config.batch_size, config.sequences)
    if len(windows.tokens) < needed:
        raise ConfigError(f"{len(windows.tokens)} windows of text were given and {needed} are needed; give more")
    batch = Batch(windows.tokens[: config.batch_size], windows.targets[: config.batch_size])
    generator = torch.Generator().manual_seed(seed)
    hessian = curvature.hessian_of(model, batch)
    B, T = batch.tokens.shape
    eigen = spectrum(hessian, config, generator, progress)
    results: dict[str, Any] = {
        "format": FORMAT,
        "batch": {"sequences": B, "context": T, "tokens": B * T},
        "loss": hessian.loss,
        "gradient_norm": float(hessian.gradient.norm()),
        "hessian": eigen,
        "sharpness": sharpness(hessian, eigen["eigenvalues"][0], model, optimizer, config, generator, progress),
    }
    # Its graph takes many times the memory of the batch.
    del hessian
    results["noise"] = noise(model, windows, config.sequences, progress)
    results["landscape"] = landscape(model, batch, config, generator, progress)
    results["path"] = path(model, batch, step, run or {}, config.side, progress)
    plain: dict[str, Any] = replace_nonfinite(results)
    return plain


def spectrum(
    hessian: curvature.Hessian, config: AnalysisConfig, generator: torch.Generator, progress: ProgressFn
) -> dict[str, Any]:
    """Return the largest eigenvalues, the smallest, trace and density, from iterations that start at random signs."""
    n, extra_signs = len(hessian.gradient), max(0, config.signs - config.spectra)
    product = _with_progress(hessian.product, "curvature", config.spectra * config.steps + extra_signs, progress)

    def signs() -> Tensor:
        return curvature.rademacher(n, generator, hessian.gradient)

    iterations = [curvature.lanczos(product, signs(), config.steps) for _ in range(config.spectra)]
    forms = [n * curvature.quadratic_form(ritz) for ritz in iterations]
    for _ in range(extra_signs):
        v = signs()
        forms.append(float(v @ product(v)))
    # Report the iteration whose eigenvalues converged best: the smallest of the worst residuals.
    best = min(iterations, key=lambda ritz: float(ritz.residuals[: config.k].max()))
    trace, error = curvature.mean_and_error(forms)
    density = curvature.spectral_density(iterations)
    return {
        "eigenvalues": best.values[: config.k].tolist(),
        "residuals": best.residuals[: config.k].tolist(),
        "smallest": min(float(ritz.values[-1]) for ritz in iterations),
        "parameters": n,
        "trace": {"value": trace, "stderr": error, "probes": len(forms)},
        "density": {
            "at": density.at.tolist(),
            "density": density.density.tolist(),
            "broadening": density.broadening,
            "probes": len(iterations),
            "steps": max(len(ritz.values) for ritz in iterations),
        },
    }


def sharpness(
    hessian: curvature.Hessian,
    largest: float,
    model: LightLLM,
    optimizer: AdamState,
    config: AnalysisConfig,
    generator: torch.Generator,
    progress: ProgressFn,
) -> dict[str, Any]:
    """Return the largest eigenvalue, plain and in Adam's metric, each with the threshold above which steps diverge."""
    lr, weights = optimizer.lr, trainable_parameters(model)
    ritz, why_not = None, optimizer.why_not
    if optimizer.moments is not None:
        try:
            metric = curvature.adam_metric(optimizer.moments, weights, beta2=optimizer.beta2, eps=optimizer.eps)
        # Muon keeps no second moments for matrices.
        except KeyError as missing:
            why_not = f"the optimizer keeps no {missing.args[0]}: Adam's metric is not that of all weights"
        else:
            product = _with_progress(hessian.product, "sharpness", config.sharpness_steps, progress)
            start = curvature.rademacher(len(metric), generator, hessian.gradient)
            preconditioned = curvature.precondition(product, metric.to(start))
            ritz = curvature.lanczos(preconditioned, start, config.sharpness_steps)
    return {
        "plain": largest,
        "plain_threshold": curvature.gradient_descent_threshold(lr) if lr else None,
        "preconditioned": float(ritz.values[0]) if ritz else None,
        "preconditioned_residual": float(ritz.residuals[0]) if ritz else None,
        "preconditioned_threshold": curvature.adam_threshold(lr, optimizer.beta1) if lr and ritz else None,
        "lr": lr,
        "why_not": "" if ritz else why_not,
    }


def noise(model: LightLLM, windows: Batch, n: int, progress: ProgressFn) -> dict[str, Any]:
    """Return the gradient noise scale in sequences and in tokens."""
    gradient = _with_progress(partial(sequence_gradient, model, windows), "noise", 2 * n, progress)
    estimate = asdict(noise_scale(gradient, n))
    scale = estimate.pop("scale")
    return estimate | {"scale_sequences": scale, "scale_tokens": scale and scale * windows.tokens.size(1)}


def landscape(
    model: LightLLM, batch: Batch, config: AnalysisConfig, generator: torch.Generator, progress: ProgressFn
) -> dict[str, Any]:
    """Return the loss along a filter-normalised random direction and on the plane of two: loss[i][j] at a[j], b[i]."""
    weights = trainable_parameters(model)
    origin = flatten(weights.values())
    first, second = (filter_normalised_direction(weights, generator) for _ in range(2))
    loss = _with_progress(_loss_at(model, batch), "landscape", config.line + config.side**2, progress)
    line, side = spaced_values((-1.0, 1.0), config.line, 0), spaced_values((-1.0, 1.0), config.side, 0)
    return {
        "line": {"at": line, "loss": loss_on_line(loss, origin, first, line)},
        "plane": {"a": side, "b": side, "loss": loss_on_plane(loss, origin, first, second, side, side)},
    }


def path(
    model: LightLLM, batch: Batch, step: int, run: Mapping[int, Tensor], side: int, progress: ProgressFn
) -> dict[str, Any] | None:
    """Return the plane through the run's checkpoints, their coordinates and the loss on it: loss[i][j] at a[j], b[i].

    The loss of a checkpoint is that of its own weights, which lie off the plane by the unexplained distance.
    """
    weights = flatten(trainable_parameters(model).values())
    earlier = {s: w.to(weights) for s, w in run.items() if s != step}
    plane = fit_plane(weights, list(earlier.values()))
    if plane is None:
        return None
    loss = _with_progress(_loss_at(model, batch), "path", side**2 + len(earlier) + 1, progress)
    a, b = (spaced_values([0.0, *(point[i] for point in plane.coordinates)], side) for i in range(2))
    points = [
        {"step": s, "a": point[0], "b": point[1], "loss": loss(w)}
        for (s, w), point in zip([(step, weights), *earlier.items()], [(0.0, 0.0), *plane.coordinates], strict=True)
    ]
    return {
        "explained": list(plane.explained),
        "points": sorted(points, key=lambda p: p["step"]),
        "a": a,
        "b": b,
        "loss": loss_on_plane(loss, plane.origin, plane.first, plane.second, a, b),
    }


def _loss_at(model: LightLLM, batch: Batch) -> Callable[[Tensor], float]:
    def loss(weights: Tensor) -> float:
        with torch.no_grad():
            return float(mean_loss(model, weights, batch))

    return loss


def _with_progress(function: Callable[[X], Y], stage: str, total: int, progress: ProgressFn) -> Callable[[X], Y]:
    """Return the function with a progress report after each call."""
    calls = 0

    def counting(x: X) -> Y:
        nonlocal calls
        result = function(x)
        calls += 1
        progress(stage, calls, total)
        return result

    return counting
