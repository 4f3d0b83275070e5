"""The second derivative of the loss: products with the Hessian, its largest eigenvalues, its spectrum and its trace.

The Hessian H of n parameters has n^2 numbers and is never written down. A product H v costs about two passes forward
and back (Pearlmutter, 1994); a few dozen of them say where the spectrum ends (Lanczos, 1950) and how it is spread
(Ubaru, Chen and Saad, 2017; Ghorbani, Krishnan and Xiao, 2019).
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
    """The loss of a batch around the weights of a model, to second order."""

    loss: float  # mean nats per token
    gradient: Tensor  # (n,)
    product: Product  # v -> H v


@dataclass(frozen=True)
class Ritz:
    """What `steps` products with a symmetric matrix say of its spectrum, as seen from one start vector. All (steps,).

    The values with their weights are also the nodes and weights of a quadrature: q^T f(H) q is the weighted sum of
    f(values), exactly so for polynomials of degree below 2 steps (Golub and Meurant, 2010, theorem 6.6).
    """

    values: Tensor  # estimates of eigenvalues, largest first
    weights: Tensor  # squared first components of their vectors: they add up to 1
    residuals: Tensor  # |H x - value x|: some eigenvalue is at most so far away


@dataclass(frozen=True)
class Density:
    """A spectral density: the share of eigenvalues per unit, at points of a line."""

    at: Tensor  # (points,)
    density: Tensor  # (points,), its integral is 1
    broadening: float  # standard deviation of the Gaussian that each eigenvalue is drawn as


def hessian_of(model: LightLLM, batch: Batch, dtype: torch.dtype = torch.float32) -> Hessian:
    """The Hessian of the mean loss over a batch, dropout off, by the formula twins of attention and loss.

    The gradient's graph is kept as long as the result, so a product is one backward pass through it. The model is left
    as it is, and may be trained on: the result has a copy of its weights.

    Raises:
        ConfigError: nothing in the model is trainable, or its loss or gradient is not finite.
    """
    weights = trainable_parameters(model)
    if not weights:
        raise ConfigError("no parameter of this model is trainable, so its loss has no curvature")
    at = flatten(weights.values()).to(dtype).requires_grad_(True)
    with torch.enable_grad():
        loss = mean_loss_by_formula(model, at, batch)
        (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
    if not math.isfinite(float(loss.detach()) + float(gradient.detach().norm())):
        raise ConfigError(
            f"the loss at these weights is {float(loss.detach()):g} and its gradient is not finite, so there is no "
            "curvature to measure; analyse an earlier checkpoint"
        )

    def product(v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(gradient, at, v.to(gradient.dtype), retain_graph=True)
        return found

    return Hessian(float(loss.detach()), gradient.detach(), product)


def rademacher(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """A vector (n,) of random signs, in the format and on the device of another; drawn on the CPU."""
    return (torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8) * 2 - 1).to(like)


def lanczos(product: Product, start: Tensor, steps: int) -> Ritz:
    """`steps` steps of the Lanczos iteration from a start vector (n,), each orthogonalised against all before.

    Without that the iteration forgets what it has found, and finds it again as a copy (Paige, 1971). It costs memory:
    steps * n numbers. Fewer steps are made where the vectors reachable from `start` are spanned before.

    Raises:
        ConfigError: no step is asked for, or a product is not finite.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps} cannot be used; the Lanczos iteration needs at least 1")
    n, steps = len(start), min(steps, len(start))
    basis = start.new_zeros(steps, n)
    diagonal: list[float] = []
    beside: list[float] = []
    q = start / start.norm()
    for j in range(steps):
        basis[j] = q
        w = product(q)
        diagonal.append(float(w @ q))
        if not math.isfinite(diagonal[j]):
            raise ConfigError("a product with the Hessian is not finite: its curvature is beyond the number format")
        w = w - diagonal[j] * q
        known = basis[: j + 1]
        for _ in range(2):  # once more, for what the first pass rounded away: twice is enough (Parlett, 1998, 6.9)
            w -= known.T @ (known @ w)
        beside.append(float(w.norm()))
        scale = max(abs(a) + b for a, b in zip(diagonal, beside, strict=True))
        if beside[j] <= 10 * torch.finfo(w.dtype).eps * scale:
            break
        q = w / beside[j]
    return _ritz(diagonal, beside)


def _ritz(diagonal: list[float], beside: list[float]) -> Ritz:
    """From the tridiagonal matrix; its last off-diagonal element leads out of it, and gives the residuals."""
    T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.tensor(beside[:-1], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(T + torch.diag(off, 1) + torch.diag(off, -1))
    values, vectors = values.flip(0), vectors.flip(1)
    return Ritz(values, vectors[0].square(), (beside[-1] * vectors[-1]).abs())


def quadratic_form(found: Ritz) -> float:
    """q^T H q of the unit vector q that the iteration started from."""
    return float(found.weights @ found.values)


def mean_and_error(forms: Sequence[float]) -> tuple[float, float | None]:
    """The mean of independent estimates, and its standard error; None for a single one.

    With v^T H v of random signs v this is the trace of H (Hutchinson, 1990).
    """
    p = len(forms)
    mean = math.fsum(forms) / p
    if p < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in forms) / (p - 1) / p)


def spectral_density(found: Sequence[Ritz], points: int = 401) -> Density:
    """The density of all n eigenvalues from iterations that started at random signs: stochastic Lanczos quadrature.

    Each node is drawn as a Gaussian, a hundredth of the spectrum wide, so a mean read off the grid is right and a
    variance too large by exactly `broadening` squared. (Ghorbani et al., 2019, algorithm 2.)
    """
    nodes = torch.cat([ritz.values for ritz in found])
    weights = torch.cat([ritz.weights for ritz in found]) / len(found)
    low, high = float(nodes.min()), float(nodes.max())
    sigma = (high - low) / 100 or max(abs(high), 1.0) / 100
    at = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64)
    bells = torch.exp(-((at[:, None] - nodes) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return Density(at, bells @ weights, sigma)


def adam_metric(moments: Mapping[str, Tensor], like: Mapping[str, Tensor], *, beta2: float, eps: float) -> Tensor:
    """P = sqrt(v_hat) + eps of each weight, (n,), float32: what Adam divides a gradient by (Kingma and Ba, 2015).

    Args:
        moments: the optimizer's tensors, `parameter/exp_avg_sq` and `parameter/step`.
        like: the parameters, in the order of the vector.

    Raises:
        KeyError: a parameter that has no such moment.
    """
    parts = []
    for name in like:
        v, steps = moments[f"{name}/exp_avg_sq"].float(), float(moments[f"{name}/step"])
        parts.append((v / (1 - beta2**steps)).sqrt() + eps)
    return flatten(parts)


def precondition(product: Product, metric: Tensor) -> Product:
    """P^-1/2 H P^-1/2 for P of diagonal `metric`, (n,): it has the eigenvalues of P^-1 H and is symmetric."""
    scale = metric.rsqrt()
    return lambda v: scale * product(scale * v)


def gradient_descent_threshold(lr: float) -> float:
    """2 / lr: a larger eigenvalue and a step of gradient descent overshoots by more than it was off."""
    return 2 / lr


def adam_threshold(lr: float, beta1: float) -> float:
    """(2 + 2 beta1) / ((1 - beta1) lr), 38 / lr at 0.9: the same for Adam, in its metric (Cohen et al., 2022)."""
    return (2 + 2 * beta1) / ((1 - beta1) * lr)
