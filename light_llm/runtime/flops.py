"""How much a training step computes, and how fast this machine's products are: what a speed is a share of."""

import torch

from ..config import ModelConfig, matrix_parameters
from .machine_cache import cached_measurement, machine_key
from .timing import time_calls


def training_flops(config: ModelConfig, T: int) -> float:
    """Floating-point operations a token costs in training, in windows of T: the products, forward and backward.

    A weight is multiplied and added once forward and twice backward, 6 operations a token: 12 L C^2 of them in GPT-2's
    blocks and V C in the head. Causal attention looks at T / 2 tokens on average, fewer in a layer with a window, in
    two products of H D: 12 H D times the tokens seen, or 6 L C T in all. What is no product (norms, softmax, GELU) is
    left out, as usual (Kaplan et al., 2020, section 2.1; Chowdhery et al., 2022, appendix B, where the whole square is
    counted).

    >>> round(training_flops(ModelConfig.micro(), 1024) * 4096 / 1e12, 2)
    0.79
    """
    products = matrix_parameters(config) + config.vocab_size * config.n_embd
    seen = sum(attended_tokens(T, config.window_size(layer)) for layer in range(config.n_layer))
    return 6.0 * products + 12.0 * config.n_head * config.head_size * seen


def attended_tokens(T: int, window: int = 0) -> float:
    """How many tokens a query looks at, on average over windows of T: T / 2, or fewer where a window ends before.

    >>> tokens_seen(1024), tokens_seen(1024, 256), tokens_seen(100, 256)
    (512.0, 224.0, 50.0)
    """
    w = min(window, T) if window else T
    return w - w * w / (2 * T) if T else 0.0


def matmul_rate(device: str, dtype: str) -> float:
    """Operations a second of a device's matrix products in a number format, measured once: what MFU is a share of."""
    key = f"{dtype} products on {device}, FLOP/s: {machine_key()}"
    return cached_measurement(key, lambda: measure_matmul_rate(device, dtype))


def measure_matmul_rate(device: str, dtype: str, seconds: float = 0.15) -> float:
    """The rate of products of a block's own shape on a CPU, (2048, 384) x (384, 1536); of 4,096 squares on a GPU."""
    on_cpu = torch.device(device).type == "cpu"
    n, k, m = (2048, 384, 1536) if on_cpu else (4096, 4096, 4096)
    a = torch.ones(n, k, device=device, dtype=getattr(torch, dtype))
    b = torch.ones(k, m, device=device, dtype=a.dtype)
    # The best of three: other work on the machine only ever slows a product down.
    best = min(time_calls(lambda: a @ b, device=device, repeats=3, min_seconds=seconds))
    return 2.0 * n * k * m / best
