"""Count the floating-point operations of training, and measure the rate of matrix multiplications, to get the MFU."""

import torch

from ..config import ModelConfig, matrix_parameters
from .machine_cache import cached_measurement, machine_key
from .timing import time_calls


def training_flops(config: ModelConfig, T: int) -> float:
    """Return the floating-point operations of training per token, in windows of T: matrix multiplications, both passes.

    Each weight costs 6 operations per token: a multiplication and an addition, once forward and twice backward. There
    are 12 L C^2 of them in GPT-2's blocks and V C in the head. Causal attention sees T / 2 tokens on average, fewer in
    a layer with a window, in two products of H D: 12 H D times the tokens seen, or 6 L C T in all. Norms, softmax and
    GELU are left out, as usual (Kaplan et al., 2020, section 2.1; Chowdhery et al., 2022, appendix B, where the whole
    square is counted).

    >>> round(training_flops(ModelConfig.micro(), 1024) * 4096 / 1e12, 2)
    0.79
    """
    products = matrix_parameters(config) + config.vocab_size * config.n_embd
    seen = sum(n * attended_tokens(T, config.window_size(layer)) for layer, n in layers_by_window(config))
    return 6.0 * products + 12.0 * config.n_head * config.head_size * seen


def layers_by_window(config: ModelConfig) -> list[tuple[int, int]]:
    """Return one layer of each window size, and how many have that size. Does not count the layers one by one.

    >>> layers_by_window(ModelConfig.micro()), layers_by_window(ModelConfig.micro(window=64, window_layers="1,3"))
    ([(0, 6)], [(1, 2), (0, 4)])
    """
    L = config.n_layer
    if not config.window or config.window_layers == "all":
        return [(0, L)]
    windowed = {int(layer) for layer in config.window_layers.split(",")}
    # Among so many layers at least one is not listed, unless all are.
    first_other = next((layer for layer in range(len(windowed) + 1) if layer not in windowed and layer < L), None)
    other = [] if first_other is None else [(first_other, L - len(windowed))]
    return [(min(windowed), len(windowed)), *other]


def attended_tokens(T: int, window: int = 0) -> float:
    """Return the tokens that a query attends to, averaged over a sequence of T: T / 2, or fewer with a window.

    >>> attended_tokens(1024), attended_tokens(1024, 256), attended_tokens(100, 256)
    (512.0, 224.0, 50.0)
    """
    w = min(window, T) if window else T
    return w - w * w / (2 * T) if T else 0.0


def matmul_rate(device: str, dtype: str) -> float:
    """Return the FLOP/s of matrix multiplications on a device, measured once per machine: the 100% of MFU."""
    key = f"{dtype} products on {device}, FLOP/s: {machine_key()}"
    return cached_measurement(key, lambda: measure_matmul_rate(device, dtype), device=device)


def measure_matmul_rate(device: str, dtype: str, seconds: float = 0.15) -> float:
    """Measure the FLOP/s of (2048, 384) x (384, 1536), an MLP of micro, on a CPU, and of 4,096 squares on a GPU."""
    on_cpu = torch.device(device).type == "cpu"
    n, k, m = (2048, 384, 1536) if on_cpu else (4096, 4096, 4096)
    a = torch.ones(n, k, device=device, dtype=getattr(torch, dtype))
    b = torch.ones(k, m, device=device, dtype=a.dtype)
    # The best of three: other work on the machine only ever slows a product down.
    best = min(time_calls(lambda: a @ b, device=device, repeats=3, min_seconds=seconds))
    return 2.0 * n * k * m / best
