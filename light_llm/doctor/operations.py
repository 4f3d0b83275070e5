"""Checks of single operations as the model uses them, so that a faulty one is named and not only its consequences."""

from collections.abc import Callable, Iterator
from functools import partial

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.attention import attend, attend_by_formula
from ..layers.norms import rms_norm
from ..layers.positions import RotaryAngles, rotate
from ..runtime import autocast, has_attention_kernel
from .compare import ELEMENTWISE, Comparison, compare, numbers, to_device

C, WIDE, V = 64, 192, 50_257
# Batch sizes and lengths at which kernels have been wrong: from 9 sequences on, at 1,024 tokens, for one token.
BATCHES = ((1, 1), (1, 7), (8, 1), (8, 7), (9, 1), (9, 7), (16, 7), (1, 1023), (1, 1024))
# Values that careless copies lose: subnormal, largest, odd last bit, signed zeros.
SPECIAL = (2.0**-149, -(2.0**-126), 3.4028234663852886e38, 1 + 2.0**-23, -0.0, 0.0, 1 / 3)


def views(x: Tensor, size: int) -> list[Tensor]:
    """Return columns 1 to `size` of x: contiguous, as a view with gaps between rows, and transposed in memory."""
    gaps = x[..., 1 : size + 1]
    return [gaps.contiguous(), gaps, gaps.transpose(0, 1).contiguous().transpose(0, 1)]


def linear(device: str) -> Iterator[Comparison]:
    """Check x W^T + b for many batch shapes, and for views with gaps or permuted dimensions."""
    w, b, x = numbers(WIDE, C, seed=1), numbers(WIDE, seed=2), numbers(9, 14, 2 * C, seed=4)
    inputs = [numbers(B, T, C, seed=3) for B, T in BATCHES] + views(x, C)
    inputs += [x[:, ::2, :C], x[:, -1, :C], x[:1, :1, :C].expand(9, 7, C)]
    for x in inputs:
        rows = x.numel() // C
        yield from compare(device, F.linear, x, w, b, sums=[C], grad_sums=[max(WIDE, rows)])
    transposed = numbers(C, WIDE, seed=9).T
    yield from compare(device, F.linear, inputs[0], transposed, b, sums=[C], grad_sums=[WIDE])


def masked_softmax(x: Tensor) -> Tensor:
    """Return the softmax of each row up to its diagonal element."""
    return x.masked_fill(torch.ones_like(x, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)


def softmax(device: str) -> Iterator[Comparison]:
    """Check softmax, log-sum-exp and masked softmax along the last dimension, for large numbers too."""
    inputs = [*views(numbers(9, 2048, seed=12, scale=3), 1024), numbers(1023, 9, seed=13, scale=3).T]
    inputs += [numbers(9, 65, seed=15, scale=3) + 1000, numbers(2, 65, 65, seed=16, scale=3)]
    for x in inputs:
        n = x.size(-1)
        yield from compare(device, lambda x: x.logsumexp(-1), x, sums=[n, n])
        for function in (lambda x: x.softmax(-1), masked_softmax):
            yield from compare(device, function, x, sums=[n, n], grad_sums=[n])


def norm(device: str, function: Callable[..., Tensor]) -> Iterator[Comparison]:
    """Check a norm of x with a gain and a bias, also for rows so small that eps counts."""
    gain, bias = numbers(C, seed=21, scale=0.1) + 1, numbers(C, seed=22, scale=0.1)
    inputs = [*views(numbers(9, 7, 2 * C, seed=17), C), numbers(9, 7, C, seed=18, scale=0.002)]
    for x in (*inputs, numbers(1024, C, seed=19)):
        yield from compare(device, function, x, gain, bias, sums=[C, C], grad_sums=[C, C, x.numel() // C])


# Both with the arguments x, gain and bias.
LAYER_NORM = lambda x, g, b: F.layer_norm(x, (C,), g, b, 1e-5)  # noqa: E731
RMS_NORM = lambda x, g, b: rms_norm(x, g, 1e-5) + b  # noqa: E731
GELU = partial(F.gelu, approximate="tanh")
SQUARED_RELU = lambda x: torch.relu(x).square()  # noqa: E731


def activation(device: str, function: Callable[[Tensor], Tensor]) -> Iterator[Comparison]:
    """Check an elementwise function over the range where it curves."""
    x, chain = torch.linspace(-6, 6, 4099), [ELEMENTWISE, ELEMENTWISE]
    for view in (x, x[::2]):
        yield from compare(device, function, view, sums=chain, grad_sums=chain)


def rotation(device: str) -> Iterator[Comparison]:
    """Check the cosines of 1,024 positions, and the rotation of queries and keys by them."""
    angles = torch.arange(1024.0)[:, None] * 10000.0 ** -torch.linspace(0, 1, C // 2)
    yield from compare(device, torch.cos, angles, sums=[ELEMENTWISE])
    rotated = lambda x, cos, sin: rotate(x, RotaryAngles(cos, sin))  # noqa: E731
    x = numbers(2, 3, 1024, C, seed=41)
    yield from compare(device, rotated, x, angles.cos(), angles.sin(), sums=[2], grad_sums=[2, 6])


def embedding(device: str) -> Iterator[Comparison]:
    """Check that rows of a table are copied exactly, and the gradient of repeated ids."""
    ids = token_ids()[:9, :33]
    most = int(ids.flatten().bincount().max())
    lookup = lambda table: F.embedding(ids.to(table.device), table)  # noqa: E731
    yield from compare(device, lookup, numbers(V, 8, seed=23), sums=[], grad_sums=[most])


def token_ids() -> Tensor:
    """Return (16, 1,025) ids with the first and the last id, and with a quarter that are one of only eight ids.

    Slices of it have gaps between their rows, as the data loader's batches have.
    """
    ids = torch.randint(V, (16, 1025), generator=torch.Generator().manual_seed(2))
    ids[:, 1::4] %= 8
    ids[:, 2], ids[:, 4] = V - 1, 0
    return ids


def lerp(device: str) -> Iterator[Comparison]:
    """Check a + t (b - a), in place and not: the moving averages of an optimizer."""
    end = numbers(129, 65, seed=28)
    for start in views(numbers(129, 130, seed=27), 65):
        for t in (0.05, 0.95):
            for function in (lambda a, b, t=t: a.clone().lerp_(b, t), lambda a, b, t=t: torch.lerp(a, b, t)):
                yield from compare(device, function, start, end, sums=[4])


def attention(device: str, dtype: str = "float32", function: Callable[..., Tensor] = attend) -> Iterator[Comparison]:
    """Check causal attention and its gradients against the formula; in training on a CPU it goes by blocks."""
    if function is fused_attention and not has_attention_kernel(device):
        return

    def attended(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
        return (attend_by_formula if q.dtype == torch.float64 else function)(q, k, v, scale=scale)

    shapes = [(9, 2, 7, 32), (1, 1, 1, 64), (16, 3, 7, 64), (2, 2, 129, 32), (1, 2, 1023, 64), (1, 2, 1024, 64)]
    scales = dict.fromkeys(shapes, 0.0) | {(2, 1, 9, 32): 0.5}  # the usual factor of the scores, and another one
    for (B, H, T, D), scale in scales.items():
        # Views of one packed product, as the model makes them.
        q, k, v = numbers(B, T, 3, H, D, seed=31).permute(2, 0, 3, 1, 4)
        # The only weight of a single token is 1 whatever Q and K are, so that their gradients are 0.
        grad_sums = [D, T, T] if T > 1 else []
        scaled = partial(attended, scale=scale)
        yield from compare(device, scaled, q, k, v, sums=[D, T], grad_sums=grad_sums, dtype=getattr(torch, dtype))


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Apply torch's own kernel, which the model uses where the device has one."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale or None)


def long_sums(device: str, dtype: str) -> Iterator[Comparison]:
    """Check products of 4,096 positive terms: a sum kept in bfloat16 stops growing at 256 times a term."""

    def product(x: Tensor, weight: Tensor) -> Tensor:
        with autocast(device, dtype):
            return F.linear(x, weight)

    weight = numbers(24, 4096, seed=61).abs()
    for rows in (1, 9, 64):
        yield from compare(
            device, product, numbers(rows, 4096, seed=62).abs(), weight, sums=[4096], dtype=getattr(torch, dtype)
        )


def save_and_load(device: str) -> Iterator[Comparison]:
    """Check that tensors survive device, CPU, safetensors and back bit for bit."""
    for dtype, integer in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16), (torch.float16, torch.int16)):
        for x in (torch.tensor(SPECIAL).to(dtype), numbers(65, 129, seed=72).to(dtype).T):
            data = safetensors.torch.save({"x": to_device(x, device, dtype).cpu().contiguous()})
            loaded = safetensors.torch.load(data)["x"].to(device).cpu()
            # As integers, because -0.0 equals 0.0.
            differ = x.contiguous().view(integer) != loaded.view(integer)
            yield Comparison(float(differ.sum()), 0.0, f"{dtype}: elements that differ")
