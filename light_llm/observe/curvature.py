"""Compute the curvature of the loss: products with the Hessian, its largest eigenvalues, spectral density and trace.

The Hessian H of n parameters has n^2 numbers and is never stored. A product H v costs about two forward and backward
passes (Pearlmutter, 1994); a few dozen give the ends of the spectrum (Lanczos, 1950) and its density (Ubaru, Chen and
Saad, 2017; Ghorbani, Krishnan and Xiao, 2019).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Batch
from ..errors import ConfigError
from ..model import LightLLM
from .flat_params import flatten, mean_loss_by_formula, trainable_parameters

Product = Callable[[Tensor], Tensor]  # (n,) -> (n,), linear and symmetric


@dataclass(frozen=True)
class Hessian:
    """The loss of a batch to second order around the weights of a model."""

    loss: float  # mean nats per token
    gradient: Tensor  # (n,)
    product: Product  # v -> H v


@dataclass(frozen=True)
class Ritz:
    """Ritz values of a symmetric matrix from one start vector q, with their weights and residuals. All (steps,).

    Values and weights are also the nodes and weights of a Gauss quadrature: q^T f(H) q is the weighted sum of
    f(values), exactly for polynomials of degree below 2 steps (Golub and Meurant, 2010, theorem 6.6).
    """

    values: Tensor  # estimates of eigenvalues, largest first
    weights: Tensor  # squared first components of their eigenvectors; their sum is 1
    residuals: Tensor  # |H x - value x|: an eigenvalue lies within this distance


@dataclass(frozen=True)
class Density:
    """A spectral density: the share of eigenvalues per unit."""

    at: Tensor  # (points,)
    density: Tensor  # (points,), its integral is 1
    broadening: float  # standard deviation of the Gaussian that replaces each eigenvalue


def hessian_of(model: LightLLM, batch: Batch, dtype: torch.dtype = torch.float32) -> Hessian:
    """Return the Hessian of the mean loss over a batch, without dropout, through attention and loss as written.

    The result holds the graph of the gradient, so that a product is one backward pass through it, and a copy of the
    weights, so that the model may be trained meanwhile.

    Raises:
        ConfigError: no parameter is trainable, or the loss or its gradient is not finite.
    """
    weights = trainable_parameters(model)
    if not weights:
        raise ConfigError("no parameter of this model is trainable, so its loss has no curvature")
    vector = flatten(weights.values()).to(dtype).requires_grad_(True)
    with torch.enable_grad():
        loss = mean_loss_by_formula(model, vector, batch)
        (gradient,) = torch.autograd.grad(loss, vector, create_graph=True)
    if not math.isfinite(float(loss.detach()) + float(gradient.detach().norm())):
        raise ConfigError(
            f"the loss at these weights is {float(loss.detach()):g} and its gradient is not finite, so there is no "
            "curvature to measure; analyse an earlier checkpoint"
        )

    def product(v: Tensor) -> Tensor:
        (hv,) = torch.autograd.grad(gradient, vector, v.to(gradient.dtype), retain_graph=True)
        return hv

    return Hessian(float(loss.detach()), gradient.detach(), product)


def rademacher(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return a vector (n,) of random signs, drawn on the CPU, in the dtype and on the device of `like`."""
    return (torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8) * 2 - 1).to(like)


def lanczos(product: Product, start: Tensor, steps: int) -> Ritz:
    """Run `steps` steps of the Lanczos iteration from a start vector (n,), with full reorthogonalisation.

    Needs memory for steps * n numbers. Stops earlier when the Krylov space of `start` is exhausted.

    Raises:
        ConfigError: steps is below 1, or a product is not finite.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps} cannot be used; the Lanczos iteration needs at least 1")
    n, steps = len(start), min(steps, len(start))
    basis = start.new_zeros(steps, n)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    q = start / start.norm()
    for j in range(steps):
        basis[j] = q
        w = product(q)
        diagonal.append(float(w @ q))
        if not math.isfinite(diagonal[j]):
            raise ConfigError("a product with the Hessian is not finite: its curvature is beyond the number format")
        w = w - diagonal[j] * q
        # Without this, rounding lets found eigenvectors return, and each eigenvalue appears as copies (Paige, 1971).
        # The second pass removes the rounding of the first; twice is enough (Parlett, 1998, 6.9).
        previous = basis[: j + 1]
        for _ in range(2):
            w -= previous.T @ (previous @ w)
        off_diagonal.append(float(w.norm()))
        scale = max(abs(a) + b for a, b in zip(diagonal, off_diagonal, strict=True))
        if off_diagonal[j] <= 10 * torch.finfo(w.dtype).eps * scale:
            break
        q = w / off_diagonal[j]
    T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    # The last off-diagonal element lies outside the matrix and only gives the residuals.
    off = torch.tensor(off_diagonal[:-1], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(T + torch.diag(off, 1) + torch.diag(off, -1))
    values, vectors = values.flip(0), vectors.flip(1)
    return Ritz(values, vectors[0].square(), (off_diagonal[-1] * vectors[-1]).abs())


def quadratic_form(ritz: Ritz) -> float:
    """Return q^T H q of the unit vector q that the iteration started from."""
    return float(ritz.weights @ ritz.values)


def mean_and_error(forms: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of independent estimates and its standard error, None for a single estimate.

    With v^T H v of random signs v this is the trace of H (Hutchinson, 1990).
    """
    n = len(forms)
    mean = math.fsum(forms) / n
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in forms) / (n - 1) / n) if n > 1 else None


def spectral_density(iterations: Sequence[Ritz], points: int = 401) -> Density:
    """Return the density of all n eigenvalues by stochastic Lanczos quadrature (Ghorbani et al., 2019, algorithm 2).

    Each node becomes a Gaussian with a width of a hundredth of the spectrum: the mean of the density is exact, its
    variance too large by `broadening` squared.

    Args:
        iterations: started from random signs.
    """
    nodes = torch.cat([ritz.values for ritz in iterations])
    weights = torch.cat([ritz.weights for ritz in iterations]) / len(iterations)
    low, high = float(nodes.min()), float(nodes.max())
    sigma = (high - low) / 100 or max(abs(high), 1.0) / 100
    at = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64)
    bells = torch.exp(-((at[:, None] - nodes) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return Density(at, bells @ weights, sigma)


def adam_metric(moments: Mapping[str, Tensor], like: Mapping[str, Tensor], *, beta2: float, eps: float) -> Tensor:
    """Return P = sqrt(v_hat) + eps of each weight, (n,), float32: the divisor of Adam (Kingma and Ba, 2015).

    Args:
        moments: the optimizer's tensors, `parameter/exp_avg_sq` and `parameter/step`.
        like: the parameters, in the order of the vector.

    Raises:
        KeyError: a parameter has no such moment.
    """
    parts = []
    for name in like:
        v, steps = moments[f"{name}/exp_avg_sq"].float(), float(moments[f"{name}/step"])
        parts.append((v / (1 - beta2**steps)).sqrt() + eps)
    return flatten(parts)


def precondition(product: Product, metric: Tensor) -> Product:
    """Return the product with P^-1/2 H P^-1/2, P = diag(metric): it has the eigenvalues of P^-1 H and is symmetric."""
    scale = metric.rsqrt()
    return lambda v: scale * product(scale * v)


def gradient_descent_threshold(lr: float) -> float:
    """Return 2 / lr: above this eigenvalue, steps of gradient descent diverge."""
    return 2 / lr


def adam_threshold(lr: float, beta1: float) -> float:
    """Return (2 + 2 beta1) / ((1 - beta1) lr), that of Adam in its metric: 38 / lr at 0.9 (Cohen et al., 2022)."""
    return (2 + 2 * beta1) / ((1 - beta1) * lr)
