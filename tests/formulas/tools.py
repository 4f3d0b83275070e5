"""What the chapters share: arrays, agreement, and the parts of the model as the page writes them, in NumPy float64."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
LN_EPS = 1e-5  # torch's own, which the model leaves as it is
C_TANH = math.sqrt(2 / math.pi)
erf = np.vectorize(math.erf, otypes=[float])


def array(x: Any) -> Array:
    """A tensor, a list or a number in float64."""
    return np.asarray(x.detach().double().numpy() if isinstance(x, torch.Tensor) else x, dtype=np.float64)


def tensor(x: Any, *, grad: bool = False) -> torch.Tensor:
    """The same numbers for torch, float64."""
    return torch.tensor(np.asarray(x), dtype=torch.float64, requires_grad=grad)


def agree(code: Any, formula: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """What the code gives is what the formula gives."""
    np.testing.assert_allclose(array(code), array(formula), rtol=rtol, atol=atol)


def normal(*shape: int, seed: int = 0) -> Array:
    """Numbers of N(0, 1)."""
    return np.random.default_rng(seed).standard_normal(shape)


def softmax(s: Array) -> Array:
    """exp(s) / sum exp(s) over the last axis."""
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(z: Array) -> Array:
    """log of the sum of exp(z) over the last axis."""
    m = z.max(axis=-1, keepdims=True)
    return np.log(np.exp(z - m).sum(axis=-1)) + m[..., 0]


def causal(T: int, S: int) -> Array:
    """0 where j <= i + S - T, minus infinity elsewhere: (T, S)."""
    i, j = np.arange(T)[:, None], np.arange(S)[None, :]
    return np.where(j <= i + S - T, 0.0, -np.inf)


def attention_weights(q: Array, k: Array) -> Array:
    """softmax(q k^T / sqrt(D) + M)."""
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    return softmax(scores + causal(q.shape[-2], k.shape[-2]))


def layer_norm(x: Array, gain: Array, bias: Array) -> Array:
    """gain (x - mean) / sqrt(variance + eps) + bias."""
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return gain * (x - mean) / np.sqrt(variance + LN_EPS) + bias


def gelu_tanh(x: Array) -> Array:
    """x / 2 (1 + tanh(c (x + 0.044715 x^3)))."""
    return 0.5 * x * (1 + np.tanh(C_TANH * (x + 0.044715 * x**3)))


def gelu_tanh_slope(x: Array) -> Array:
    """Its derivative."""
    t = np.tanh(C_TANH * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * C_TANH * (1 + 3 * 0.044715 * x**2)


def gelu(x: Array) -> Array:
    """x Phi(x)."""
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def parameters(module: torch.nn.Module) -> dict[str, Array]:
    """Each parameter by name, in float64."""
    return {name: array(p) for name, p in module.named_parameters()}
