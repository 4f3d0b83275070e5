"""Checks of single operations as the model uses them, so that a faulty one is named and not only its consequences."""

from collections.abc import Callable, Iterator
from functools import partial

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ..generate.cache import visible
from ..layers.attention import attend
from ..layers.norms import rms_norm
from ..layers.positions import RotaryAngles, rotate
from ..model import attend_by_formula
from ..runtime import autocast, has_attention_kernel
from .compare import ELEMENTWISE, compare, numbers, relative_error, to_device, tolerance
from .diagnosis import Comparison

C, WIDE, V = 64, 192, 50_257
# Batch sizes and lengths at which kernels have been wrong: from 9 sequences on, at 1,024 tokens, for one token.
BATCHES = ((1, 1), (1, 7), (8, 1), (8, 7), (9, 1), (9, 7), (16, 7), (1, 1023), (1, 1024))
# Values that careless copies lose: subnormal, largest, odd last bit, signed zeros.
SPECIAL = (2.0**-149, -(2.0**-126), 3.4028234663852886e38, 1 + 2.0**-23, -0.0, 0.0, 1 / 3)


def shape_name(B: int, T: int) -> str:
    """Return a batch shape in words."""
    return f"batch {B} x {T:,} tokens"


def linear(device: str) -> Iterator[Comparison]:
    """Check x W^T + b for many batch shapes, and for views with gaps or permuted dimensions."""
    w, b = numbers(WIDE, C, seed=1), numbers(WIDE, seed=2)
    inputs = {shape_name(B, T): numbers(B, T, C, seed=3) for B, T in BATCHES} | {
        "transposed": numbers(7, 9, C, seed=4).transpose(0, 1),
        "columns 1 to 65 of 66": numbers(9, 7, C + 2, seed=5)[..., 1 : C + 1],
        "every second row": numbers(9, 14, C, seed=6)[:, ::2],
        "the last row of each": numbers(9, 7, C, seed=7)[:, -1],
        "one row for all": numbers(1, 1, C, seed=8).expand(9, 7, C),
    }
    for where, x in inputs.items():
        length = max(WIDE, x.numel() // C)
        yield from compare(device, F.linear, x, w, b, sums=[C], grad_sums=[length], where=where)
    x, w = numbers(9, 7, C, seed=4), numbers(C, WIDE, seed=9).T
    yield from compare(device, F.linear, x, w, b, sums=[C], grad_sums=[WIDE], where="weight transposed")


def softmax(device: str) -> Iterator[Comparison]:
    """Check softmax and log-sum-exp along the last dimension."""
    rows = {
        "1,024 long": numbers(9, 1024, seed=12, scale=3),
        "1,023 long, transposed": numbers(1023, 9, seed=13, scale=3).T,
        "every second of 14": numbers(9, 14, seed=14, scale=3)[:, ::2],
        "large numbers": numbers(9, 65, seed=15, scale=3) + 1000,
    }
    for where, x in rows.items():
        n = x.size(-1)
        yield from compare(device, lambda x: x.softmax(-1), x, sums=[n, n], grad_sums=[n], where=where)
        yield from compare(device, lambda x: x.logsumexp(-1), x, sums=[n, n], where=where)

    def masked(x: Tensor) -> Tensor:
        return x.masked_fill(torch.ones_like(x, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)

    x = numbers(2, 65, 65, seed=16, scale=3)
    yield from compare(device, masked, x, sums=[65, 65], grad_sums=[65], where="65 x 65, the future masked")


def norm(device: str, function: Callable[..., Tensor]) -> Iterator[Comparison]:
    """Check a norm of x with a gain and a bias, also for rows so small that eps counts."""
    gain, bias = numbers(C, seed=21, scale=0.1) + 1, numbers(C, seed=22, scale=0.1)
    rows = {
        "rows of size 1": numbers(9, 7, C, seed=17),
        "rows of size 0.002": numbers(9, 7, C, seed=18, scale=0.002),
        "1,024 rows, transposed": numbers(1024, 1, C, seed=19).transpose(0, 1),
        "columns 1 to 65 of 66": numbers(9, 7, C + 2, seed=20)[..., 1 : C + 1],
    }
    for where, x in rows.items():
        grad_sums = [C, C, x.numel() // C]
        yield from compare(device, function, x, gain, bias, sums=[C, C], grad_sums=grad_sums, where=where)


# Both with the arguments x, gain and bias.
LAYER_NORM = lambda x, g, b: F.layer_norm(x, (C,), g, b, 1e-5)  # noqa: E731
RMS_NORM = lambda x, g, b: rms_norm(x, g, 1e-5) + b  # noqa: E731


def activations(device: str, functions: dict[str, Callable[[Tensor], Tensor]]) -> Iterator[Comparison]:
    """Check elementwise functions over the range where they curve."""
    x, chain = torch.linspace(-6, 6, 4099), [ELEMENTWISE, ELEMENTWISE]
    for name, function in functions.items():
        for where, view in (("4,099 numbers", x), ("every second", x[::2])):
            yield from compare(device, function, view, sums=chain, grad_sums=chain, where=f"{name}, {where}")


GELU: dict[str, Callable[[Tensor], Tensor]] = {"tanh form": partial(F.gelu, approximate="tanh")}
GATES = {"SiLU": F.silu, "squared ReLU": lambda x: torch.relu(x).square()}


def rotation(device: str) -> Iterator[Comparison]:
    """Check the cosines of 1,024 positions, and the rotation of queries and keys by them."""
    angles = torch.arange(1024.0)[:, None] * 10000.0 ** -torch.linspace(0, 1, C // 2)
    exact = RotaryAngles(angles.double().cos(), angles.double().sin())
    error = relative_error(angles.to(device).cos(), exact.cos)
    yield Comparison(error, tolerance([ELEMENTWISE]), "cosines up to 1,023 radians")
    rotated = lambda x: rotate(x, RotaryAngles(*(part.to(x) for part in exact)))  # noqa: E731
    yield from compare(
        device, rotated, numbers(2, 3, 1024, C, seed=41), sums=[2], grad_sums=[2], where="1,024 positions"
    )


def embedding(device: str) -> Iterator[Comparison]:
    """Check that rows of a table are copied bit for bit, and the gradient of repeated ids."""
    table, ids = numbers(V, 8, seed=23), token_ids()[:9, :33]
    lookup = lambda table: F.embedding(ids.to(table.device), table)  # noqa: E731
    copied = lookup(table.to(device)).cpu()
    yield Comparison(float((copied != lookup(table)).sum()), 0.0, "elements that are not the table's")
    most = int(ids.flatten().bincount().max())
    yield from compare(device, lookup, table, sums=[1], grad_sums=[most], where=f"an id {most} times")


def token_ids() -> Tensor:
    """Return (16, 1,025) ids with the first and the last id, and with a quarter drawn from only eight ids.

    Slices of it have gaps between their rows, as the data loader's batches have.
    """
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(V, (16, 1025), generator=generator)
    frequent = torch.randint(V, (8,), generator=generator)[torch.randint(8, ids.shape, generator=generator)]
    ids = torch.where(torch.rand(ids.shape, generator=generator) < 0.25, frequent, ids)
    ids[:, 2], ids[:, 4] = V - 1, 0
    return ids


def lerp(device: str) -> Iterator[Comparison]:
    """Check a + t (b - a), in place and not: the moving averages of an optimizer."""
    starts = {
        "contiguous": numbers(129, 65, seed=25),
        "transposed": numbers(65, 129, seed=26).T,
        "every second column": numbers(129, 130, seed=27)[:, ::2],
    }
    end = numbers(129, 65, seed=28)
    for where, start in starts.items():
        for t in (0.05, 0.95):
            for function in (lambda a, b, t=t: a.clone().lerp_(b, t), lambda a, b, t=t: torch.lerp(a, b, t)):
                yield from compare(device, function, start, end, sums=[4], where=f"{where}, weight {t}")


def exact_by_formula(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return attention by its formula for float64 inputs, and the given one for others."""
    return lambda q, *rest: (attend_by_formula if q.dtype == torch.float64 else attention)(q, *rest)


def attention(device: str, dtype: str = "float32", function: Callable[..., Tensor] = attend) -> Iterator[Comparison]:
    """Check causal attention and its gradients against the formula; in training on a CPU it goes by blocks."""
    shapes = ((9, 2, 7, 32), (1, 1, 1, 64), (16, 3, 7, 64), (2, 2, 129, 32), (1, 2, 1023, 64), (1, 2, 1024, 64))
    for B, H, T, D in shapes:
        # The only weight of a single token is 1 whatever Q and K are, so that their gradients are 0.
        chain = [D, T, T] if T > 1 else []
        # Views of one packed product, as the model makes them.
        q, k, v = numbers(B, T, 3, H, D, seed=31).permute(2, 0, 3, 1, 4)
        options = {"sums": [D, T], "grad_sums": chain, "dtype": getattr(torch, dtype), "where": shape_name(B, T)}
        yield from compare(device, exact_by_formula(function), q, k, v, **options)


def fused_attention(device: str) -> Iterator[Comparison]:
    """Check torch's fused kernel on devices where the model uses it."""
    if has_attention_kernel(device):
        yield from attention(device, function=partial(F.scaled_dot_product_attention, is_causal=True))


@torch.no_grad()
def masked_attention(device: str) -> Iterator[Comparison]:
    """Check queries on a cache: a single one, the last five, and rows of different lengths under a mask."""
    B, H, S, D = 3, 2, 40, 32
    for T, position_ids in ((1, None), (5, None), (2, torch.tensor([[3, 4], [20, 21], [S - 2, S - 1]]))):

        def masked(q: Tensor, k: Tensor, v: Tensor, at: Tensor | None = position_ids) -> Tensor:
            return exact_by_formula(attend)(q, k, v, None if at is None else visible(at.to(q.device)))

        q, k, v = (numbers(B, H, n, D, seed=32 + i) for i, n in enumerate((T, S, S)))
        where = f"{T} of {S} tokens" if position_ids is None else "rows of different lengths"
        yield from compare(device, masked, q, k, v, sums=[D, S], where=where)


def long_sums(device: str, dtype: str) -> Iterator[Comparison]:
    """Check products of 4,096 positive terms: a sum kept in bfloat16 stops growing at 256 times a term."""
    weight, generator = numbers(24, 4096, seed=61).abs(), torch.Generator().manual_seed(61)
    for rows in (1, 9, 64):
        x = torch.rand(rows, 4096, generator=generator)
        with torch.no_grad(), autocast(device, dtype):
            y = F.linear(x.to(device), weight.to(device))
        error = relative_error(y, x.double() @ weight.double().T)
        yield Comparison(error, tolerance([4096], getattr(torch, dtype)), f"{rows} rows, 4,096 terms")


def save_and_load(device: str) -> Iterator[Comparison]:
    """Check that tensors survive device, CPU, safetensors and back bit for bit."""
    for dtype, integer in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16), (torch.float16, torch.int16)):
        tensors = {"special": torch.tensor(SPECIAL).to(dtype), "transposed": numbers(65, 129, seed=72).to(dtype).T}
        copies = {name: to_device(x, device, dtype).cpu().contiguous() for name, x in tensors.items()}
        loaded = safetensors.torch.load(safetensors.torch.save(copies))
        for name, x in tensors.items():
            # As integers, because -0.0 equals 0.0.
            before, after = (t.contiguous().view(integer) for t in (x, loaded[name].to(device).cpu()))
            yield Comparison(float((before != after).sum()), 0.0, f"{name}, {dtype}: elements that differ")
