"""H: the second derivative of the loss, the shape of the loss around the weights, the noise of the gradient."""

import math
from functools import cache

import numpy as np
import torch

from light_llm.config import TrainConfig
from light_llm.data import Batch
from light_llm.objective import NextTokenLoss
from light_llm.observe.curvature import (
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
from light_llm.observe.flat_params import flatten, mean_loss, mean_loss_by_formula, trainable_parameters
from light_llm.observe.gradient_noise import noise_scale, sequence_gradient
from light_llm.observe.landscape import filter_normalised_direction, fit_plane, loss_on_line, loss_on_plane
from light_llm.optim import build_optimizer
from tests.support.tools import gradients, some_tokens, tiny_model

from .tools import Array, agree, array, normal, tensor

N = 40
EIGENVALUES = np.concatenate([[9.0, 5.0, 2.5], np.linspace(-0.5, 1, N - 3)])


@cache
def _matrix() -> Array:
    """A symmetric matrix with known eigenvalues."""
    Q = np.linalg.qr(normal(N, N))[0]
    return Q @ np.diag(EIGENVALUES) @ Q.T


def _product(v: torch.Tensor) -> torch.Tensor:
    return tensor(_matrix() @ array(v))


def _batch(B: int = 2) -> Batch:
    return Batch(some_tokens(B, 6, V=11), some_tokens(B, 6, V=11, seed=6))


SMALL = {"vocab_size": 11, "n_positions": 6, "n_embd": 4, "n_layer": 1, "n_head": 2, "scale": 5}


def H1_a_product_with_the_hessian_is_a_slope_of_the_gradient() -> None:
    model, batch = tiny_model(**SMALL), _batch()
    hessian = hessian_of(model, batch, torch.float64)
    at = flatten(trainable_parameters(model).values()).double()
    v = tensor(normal(len(at)))
    v /= v.norm()

    def gradient(eps: float) -> Array:
        w = (at + eps * v).requires_grad_()
        (g,) = torch.autograd.grad(mean_loss_by_formula(model, w, batch), w)
        return array(g)

    agree(hessian.product(v), (gradient(1e-5) - gradient(-1e-5)) / 2e-5, rtol=1e-4, atol=1e-7)
    agree(hessian.gradient, gradient(0))


def H2_lanczos() -> None:
    """The recursion by hand: alpha, beta and q; its tridiagonal matrix has the values that the code gives."""
    steps, q = 12, normal(N, seed=3)
    q, old, beta = q / np.sqrt(q @ q), np.zeros(N), 0.0
    T, basis = np.zeros((steps, steps)), []
    for j in range(steps):
        basis.append(q)
        w = _matrix() @ q - beta * old
        T[j, j] = w @ q
        w = w - T[j, j] * q
        for known in basis:
            w = w - (w @ known) * known
        beta = np.sqrt(w @ w)
        if j + 1 < steps:
            T[j, j + 1] = T[j + 1, j] = beta
        old, q = q, w / beta
    found = lanczos(_product, tensor(normal(N, seed=3)), steps)
    values, vectors = np.linalg.eigh(T)
    agree(found.values, values[::-1], rtol=1e-8)
    agree(found.weights, vectors[0, ::-1] ** 2, atol=1e-9)
    agree(found.residuals, beta * np.abs(vectors[-1, ::-1]), atol=1e-9)


def H3_an_eigenvalue_is_no_farther_than_the_residual() -> None:
    found = lanczos(_product, tensor(normal(N, seed=3)), 12)
    for value, residual in zip(array(found.values), array(found.residuals), strict=True):
        assert np.abs(EIGENVALUES - value).min() <= residual + 1e-10
    agree(found.values[0], 9.0, rtol=1e-3)


def H4_lanczos_is_a_quadrature() -> None:
    """Exact for polynomials of degree below 2 m."""
    q = normal(N, seed=3)
    q /= np.sqrt(q @ q)
    found = lanczos(_product, tensor(q), 4)
    for degree in range(8):
        exact = q @ np.linalg.matrix_power(_matrix(), degree) @ q
        agree((array(found.weights) * array(found.values) ** degree).sum(), exact, rtol=1e-8)
    agree(quadratic_form(found), q @ _matrix() @ q)


def H5_the_trace_from_random_signs() -> None:
    """E[v^T A v] over all sign vectors is the trace, exactly; here over all 2^6 of a small matrix."""
    A = _matrix()[:6, :6]
    signs = np.array([[1 - 2 * (i >> b & 1) for b in range(6)] for i in range(64)], dtype=float)
    forms = np.einsum("ni,ij,nj->n", signs, A, signs)
    agree(mean_and_error(forms.tolist())[0], np.trace(A))
    v = array(rademacher(6000, torch.Generator().manual_seed(0), tensor([0.0])))
    assert set(v) == {-1.0, 1.0} and abs(v.mean()) < 0.05


def H6_its_standard_error() -> None:
    forms = normal(7).tolist()
    mean = sum(forms) / 7
    stderr = math.sqrt(sum((x - mean) ** 2 for x in forms) / (7 - 1)) / math.sqrt(7)
    agree(mean_and_error(forms), (mean, stderr))


def _integral(y: Array, t: Array) -> float:
    """By trapezoids."""
    return float(((y[1:] + y[:-1]) / 2 * np.diff(t)).sum())


def H7_a_spectral_density() -> None:
    runs = [lanczos(_product, rademacher(N, torch.Generator().manual_seed(s), tensor([0.0])), 10) for s in range(3)]
    found = spectral_density(runs)
    t, sigma = array(found.at), found.broadening
    density = np.zeros_like(t)
    for run in runs:
        for value, weight in zip(array(run.values), array(run.weights), strict=True):
            bell = np.exp(-((t - value) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            density += weight / len(runs) * bell
    agree(found.density, density)
    agree(_integral(density, t), 1.0, rtol=1e-4)
    every_start = [lanczos(_product, tensor(unit), N) for unit in np.eye(N)]  # an average over a basis is exact
    exact = spectral_density(every_start)
    agree(_integral(array(exact.density) * array(exact.at), array(exact.at)), EIGENVALUES.mean(), rtol=1e-3)


def H8_gradient_descent_overshoots_beyond_its_threshold() -> None:
    """On lambda x^2 / 2 a step multiplies x by 1 - lr lambda: larger than 1 in size from lambda = 2 / lr on."""
    lr = 0.1
    edge = gradient_descent_threshold(lr)
    for curvature, grows in ((0.99 * edge, False), (1.01 * edge, True)):
        x = 1.0
        for _ in range(500):
            x -= lr * curvature * x
        assert (abs(x) > 1) == grows


def H9_the_threshold_of_adam() -> None:
    """On lambda x^2 / 2 with a mean of gradients, beta1 = 0.9: stable just below 38 / lr, and not just above."""
    lr, beta1 = 0.1, 0.9
    edge = adam_threshold(lr, beta1)
    agree(edge, 38 / lr)
    for curvature, grows in ((0.99 * edge, False), (1.01 * edge, True)):
        x, m = 1.0, 0.0
        for _ in range(4000):
            m = beta1 * m + (1 - beta1) * curvature * x
            x -= lr * m
        assert (abs(x) > 1) == grows


def H10_the_metric_of_adam() -> None:
    """P from the optimizer's own moments; the symmetric form has the eigenvalues of P^-1 H."""
    model = tiny_model()
    optimizer, squares = build_optimizer(model, TrainConfig(beta2=0.95, eps=1e-6)), {}
    for step in range(3):
        NextTokenLoss(model)(some_tokens(seed=step), some_tokens(seed=step + 9)).backward()
        for name, g in gradients(model).items():
            squares[name] = 0.95 * squares.get(name, 0.0) + 0.05 * array(g) ** 2
        optimizer.step()
        optimizer.zero_grad()
    moments = {
        f"{name}/{key}": optimizer.state[p][key]
        for name, p in trainable_parameters(model).items()
        for key in ("exp_avg_sq", "step")
    }
    P = np.concatenate([(np.sqrt(squares[n] / (1 - 0.95**3)) + 1e-6).ravel() for n in trainable_parameters(model)])
    agree(adam_metric(moments, trainable_parameters(model), beta2=0.95, eps=1e-6), P, rtol=1e-3)
    scale = np.exp(normal(N))
    product = precondition(_product, tensor(scale))
    symmetric = np.stack([array(product(tensor(unit))) for unit in np.eye(N)])
    agree(symmetric, symmetric.T, atol=1e-12)
    values = np.linalg.eigvals(_matrix() / scale[:, None])
    agree(np.linalg.eigvalsh(symmetric), np.sort(values.real), rtol=1e-6, atol=1e-9)


def H11_a_direction_as_long_as_the_weights_row_by_row() -> None:
    model = tiny_model()
    direction = filter_normalised_direction(trainable_parameters(model), torch.Generator().manual_seed(0))
    parts = direction.split([p.numel() for p in trainable_parameters(model).values()])
    for (_, p), part in zip(trainable_parameters(model).items(), parts, strict=True):
        if p.ndim == 1:
            assert not part.any()
            continue
        agree(np.sqrt((array(part).reshape(p.shape) ** 2).sum(-1)), np.sqrt((array(p) ** 2).sum(-1)), rtol=1e-5)


def H12_the_loss_along_directions() -> None:
    """On a quadratic loss, whose values on a line and a plane are known."""
    A, o, a, b = _matrix(), normal(N), normal(N, seed=1), normal(N, seed=2)

    def loss(w: torch.Tensor) -> float:
        return float(array(w) @ A @ array(w)) / 2

    line = [(o + x * a) @ A @ (o + x * a) / 2 for x in (-1.0, 0.0, 0.5)]
    agree(loss_on_line(loss, tensor(o), tensor(a), (-1.0, 0.0, 0.5)), line)
    plane = [[(o + x * a + y * b) @ A @ (o + x * a + y * b) / 2 for x in (0.0, 1.0)] for y in (-1.0, 0.0, 2.0)]
    agree(loss_on_plane(loss, tensor(o), tensor(a), tensor(b), (0.0, 1.0), (-1.0, 0.0, 2.0)), plane)


def H13_the_plane_of_a_path() -> None:
    """Its two directions are the first right singular vectors of the points' distances to the origin."""
    origin, points = normal(N), normal(5, N, seed=1) * np.array([5.0, 3.0, 1.0, 0.5, 0.1])[:, None]
    found = fit_plane(tensor(origin), [tensor(origin + p) for p in points])
    assert found is not None
    _, s, Vt = np.linalg.svd(points, full_matrices=False)
    agree(found.explained, s[:2] ** 2 / (s**2).sum(), rtol=1e-7)
    for direction, v in ((found.first, Vt[0]), (found.second, Vt[1])):
        agree(abs(array(direction) @ v), 1.0, rtol=1e-7)
        along = points @ array(direction)
        assert along[np.abs(along).argmax()] > 0
    agree(found.coordinates, np.stack([points @ array(found.first), points @ array(found.second)], axis=-1), rtol=1e-6)


def _sequence_gradients(n: int = 6) -> Array:
    return normal(n, 9) + 0.9


def H14_size_of_the_true_gradient() -> None:
    """The mean of g_i . g_j over i != j, which the noise of neither can raise."""
    g = _sequence_gradients()
    pairs = [g[i] @ g[j] for i in range(6) for j in range(6) if i != j]
    agree(noise_scale(lambda i: tensor(g[i]), 6).gradient_squared, np.mean(pairs))


def H15_variance_of_a_gradient() -> None:
    g = _sequence_gradients()
    agree(noise_scale(lambda i: tensor(g[i]), 6).trace, np.cov(g.T, ddof=1).trace())


def H16_the_noise_scale() -> None:
    g = _sequence_gradients()

    def scale(g: Array) -> float:
        n = len(g)
        squared = (np.sum(g.sum(axis=0) ** 2) - np.sum(g**2)) / (n * (n - 1))
        return float(np.cov(g.T, ddof=1).trace() / squared)

    found = noise_scale(lambda i: tensor(g[i]), 6)
    agree(found.scale, scale(g))
    without = np.array([scale(np.delete(g, i, axis=0)) for i in range(6)])
    agree(found.stderr, math.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum()))


def H17_the_gradient_of_a_batch_is_the_mean_of_its_sequences() -> None:
    model, batch = tiny_model(scale=3), Batch(some_tokens(4, 8), some_tokens(4, 8, seed=6))
    at = flatten(trainable_parameters(model).values()).requires_grad_()
    (whole,) = torch.autograd.grad(mean_loss(model, at, batch), at)
    parts = np.mean([array(sequence_gradient(model, batch, i)) for i in range(4)], axis=0)
    agree(whole, parts, rtol=1e-4, atol=1e-6)
