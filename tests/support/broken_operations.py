"""Simulate devices that compute wrong: context managers that replace operations of torch on the CPU.

No fault changes float64, in which the doctor computes its exact results, so that only the device is broken. Faults of
sampling are the exception, because sampling itself uses float64.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from light_llm.generate.cache import KVCache

Fault = Callable[..., Any]  # (operation, *arguments) -> wrong result


def on_the_device(args: Sequence[Any]) -> bool:
    """Return True if the arguments are those of the device: floating-point tensors, none in float64."""
    flat = [a for arg in args for a in (arg if isinstance(arg, (list, tuple)) else [arg])]
    floats = [a for a in flat if isinstance(a, Tensor) and a.is_floating_point()]
    return bool(floats) and all(a.dtype != torch.float64 for a in floats)


def apply(fault: Fault, names: Sequence[str], func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run a function of torch, or the fault in its place if it is one of those named."""
    wrong = name in names and on_the_device(args)
    return fault(func, *args, **(kwargs or {})) if wrong else func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Replace functions and methods of torch by name, as Python calls them."""

    def __init__(self, fault: Fault, *names: str) -> None:
        super().__init__()
        self.fault, self.names = fault, names

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return apply(self.fault, self.names, func, getattr(func, "__name__", ""), args, kwargs)


class Kernels(TorchDispatchMode):
    """Replace kernels by name, below autograd, so that backward passes are affected too."""

    def __init__(self, fault: Fault, *names: str) -> None:
        super().__init__()
        self.fault, self.names = fault, names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return apply(self.fault, self.names, func, func.overloadpacket.__name__, args, kwargs)


MakeFault = Callable[[], AbstractContextManager[object]]


def calls(*names: str) -> Callable[[Fault], MakeFault]:
    """Decorate a fault of functions or methods: calling its name returns the context in which it happens."""
    return lambda fault: partial(Calls, fault, *names)


def kernels(*names: str) -> Callable[[Fault], MakeFault]:
    """Decorate a fault of kernels, as `calls`."""
    return lambda fault: partial(Kernels, fault, *names)


@calls("linear")
def linear_from_batch_9(func: Any, x: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """Scale everything from the ninth sequence on by 1.001."""
    y = func(x, *rest, **kwargs)
    return torch.cat([y[:8], y[8:] * 1.001]) if x.ndim == 3 and len(x) >= 9 else y


def linear_off_by(share: float) -> AbstractContextManager[object]:
    """Scale all products of linear layers by 1 + share."""
    return Calls(lambda func, *args: func(*args) * (1 + share), "linear")


@calls("linear")
def last_position(func: Any, x: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """Give the last token of a sequence the result of the one before it."""
    y = func(x, *rest, **kwargs)
    return torch.cat([y[:, :-1], y[:, -2:-1]], dim=1) if x.ndim == 3 and x.size(1) > 1 else y


@calls("linear")
def linear_ignores_strides(func: Any, x: Tensor, *rest: Any) -> Tensor:
    """Read memory as if the input were contiguous."""
    n, available = x.numel(), x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    if not x.is_contiguous() and n <= available:
        x = x.as_strided(x.shape, torch.empty(x.shape, device="meta").stride())
    return func(x, *rest)


@calls("_fused_adamw_")
def stale_second_moment(
    func: Any, weights: Any, grads: Any, means: Any, squares: list[Tensor], *rest: Any, **kw: Any
) -> Any:
    """Leave the second moment of the fused AdamW as it was after the first step."""
    before = [s.clone() for s in squares]
    func(weights, grads, means, squares, *rest, **kw)
    for square, old in zip(squares, before, strict=True):
        square.copy_(torch.where(old > 0, old, square))


def skipped_parameter(*names: str) -> AbstractContextManager[object]:
    """Leave one of several tensors out of the update."""

    def fault(func: Any, weights: list[Tensor], *rest: Any, **kw: Any) -> Any:
        kept = weights[1].clone()
        func(weights, *rest, **kw)
        weights[1].copy_(kept)

    return Calls(fault, *names)


@contextmanager
def no_division_in_the_update() -> Iterator[None]:
    """Break both the fused update and the one by single operations."""
    with skipped_parameter("_fused_adamw_"), Calls(lambda func, x, *rest, **kw: x, "addcdiv_"):
        yield


def biased_draws() -> AbstractContextManager[object]:
    """Draw uniform numbers that are a little too small."""
    real = torch.rand

    def rand(*shape: Any, **kwargs: Any) -> Tensor:
        return real(*shape, **kwargs) ** 1.05

    return patched(torch, "rand", rand)


def draws_that_are_no_ids() -> AbstractContextManager[object]:
    """Return positions far beyond the end of the vocabulary."""
    real = Tensor.clamp_max
    return patched(Tensor, "clamp_max", lambda self, *rest: real(self, *rest) + 10**9)


def cache_with(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> AbstractContextManager[object]:
    """Change the keys and values that a cache returns to a call with fewer tokens than it holds."""
    real = KVCache.extend

    def extend(self: KVCache, layer: int, k: Tensor, v: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = real(self, layer, k, v, position_ids)
        return change(keys, values) if keys.size(2) > k.size(2) else (keys, values)

    return patched(KVCache, "extend", extend)


# Forget the values of the first two tokens in the cache.
forgetful_cache = partial(cache_with, lambda keys, values: (keys, values.index_fill(2, torch.arange(2), 0)))
# Return the keys of the cache shifted by one position.
shifted_cache = partial(cache_with, lambda keys, values: (keys.roll(1, 2), values))


@calls("scaled_dot_product_attention")
def attention_at_1024(func: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **kw: Any) -> Tensor:
    """Drop the last of exactly 1,024 values in the fused attention."""
    if k.size(-2) == 1024:
        v = torch.cat([v[:, :, :-1], v[:, :, -2:-1]], dim=2)
    return func(q, k, v, *rest, **kw)


@calls("softmax")
def softmax_along_the_wrong_axis(func: Any, x: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    """Normalise columns instead of rows."""
    return func(x, dim=-2).nan_to_num() if x.ndim > 1 else func(x, dim=-1)


@calls("layer_norm")
def norm_without_eps(func: Any, x: Tensor, shape: Any, gain: Any = None, bias: Any = None, *rest: Any) -> Tensor:
    """Compute LayerNorm with eps 1e-12."""
    return func(x, shape, gain, bias, 1e-12)


@calls("layer_norm")
def norm_of_one_fewer(func: Any, x: Tensor, shape: Any, gain: Tensor, bias: Tensor, eps: float, *rest: Any) -> Tensor:
    """Compute the variance of LayerNorm with n - 1."""
    variance, mean = torch.var_mean(x, -1, correction=1, keepdim=True)
    return (x - mean) * (variance + eps).rsqrt() * gain + bias


@kernels("native_layer_norm_backward")
def gain_gradient_off(func: Any, dy: Tensor, x: Tensor, *rest: Any) -> Any:
    """Scale the gradient of LayerNorm's gain by 1.001."""
    dx, d_gain, d_bias = func(dy, x, *rest)
    return dx, d_gain * 1.001, d_bias


@kernels("embedding_dense_backward")
def embedding_gradient_without_repeats(func: Any, dy: Tensor, ids: Tensor, n: int, *rest: Any) -> Tensor:
    """Count only the last occurrence of a repeated id in the gradient."""
    gradient = dy.new_zeros(n, dy.size(-1))
    gradient[ids.flatten()] = dy.reshape(-1, dy.size(-1))
    return gradient


@calls("linear")
def sums_in_bfloat16(func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Accumulate bfloat16 products in bfloat16."""
    if not (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16):
        return func(x, weight, bias)
    y = func(x[..., :16], weight[:, :16], bias)
    for i in range(16, x.size(-1), 16):
        y = y + func(x[..., i : i + 16], weight[:, i : i + 16])
    return y


def lost_bits() -> AbstractContextManager[object]:
    """Flush subnormal numbers to zero when a file is loaded."""
    real = safetensors.torch.load

    def load(data: bytes) -> dict[str, Tensor]:
        return {n: torch.where(t.abs() < torch.finfo(t.dtype).tiny, 0, t) for n, t in real(data).items()}

    return patched(safetensors.torch, "load", load)


def compiled_is_another() -> AbstractContextManager[object]:
    """Scale the results of compiled functions by 1.001."""
    return patched(torch, "compile", lambda function, **_: lambda *args: function(*args) * 1.001)


def no_memory() -> AbstractContextManager[object]:
    """Raise an out-of-memory error in the embedding."""
    return raising(torch.OutOfMemoryError("tried to allocate 20 GiB"), "embedding")


def not_implemented() -> AbstractContextManager[object]:
    """Raise NotImplementedError in GELU."""
    return raising(NotImplementedError("gelu is not implemented for 'Toaster'"), "gelu")


def raising(error: Exception, name: str) -> AbstractContextManager[object]:
    """Raise an error in the named operation."""

    def fault(func: Any, *args: Any, **kwargs: Any) -> Any:
        raise error

    return Calls(fault, name)


@contextmanager
def patched(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


# Faults of one operation each.

# Scale sequences of exactly 1,024 tokens by 1.001.
linear_at_1024 = partial(
    Calls, lambda func, x, *rest: func(x, *rest) * (1.001 if x.size(-2) == 1024 else 1.0), "linear"
)
# Add 0.01 to the weight of every lerp.
lerp_a_little_too_far = partial(
    Calls, lambda func, start, end, weight, **kw: func(start, end, weight + 0.01, **kw), "lerp", "lerp_"
)
# Let argmax return 0.
always_token_0 = partial(Calls, lambda func, x, **kw: torch.zeros_like(func(x, **kw)), "argmax")
# Ignore the mask of the fused attention, so that tokens see the future.
ignored_mask = partial(Calls, lambda func, q, k, v, *rest, **kw: func(q, k, v), "scaled_dot_product_attention")
# Scale batched products by 1.001.
blocks_without_scale = partial(Calls, lambda func, a, b: func(a, b) * 1.001, "bmm")
# Compute softmax in float16.
softmax_in_half = partial(Calls, lambda func, x, *rest, **kw: func(x.half(), *rest, **kw).to(x.dtype), "softmax")
# Let ids beyond 32,767 wrap around.
ids_in_16_bits = partial(Kernels, lambda func, table, ids, *rest: func(table, ids & 0x7FFF, *rest), "embedding")
# Compute GELU with the error function instead of its tanh form.
exact_gelu = partial(Calls, lambda func, x, **kw: func(x), "gelu")
# Compute SiLU as x sigmoid(1.702 x), an approximation of GELU.
wide_silu = partial(Calls, lambda func, x, **kw: x * torch.sigmoid(1.702 * x), "silu")
# Compute 1 / sqrt(x) as 1 / x.
no_root = partial(Calls, lambda func, x: 1 / x, "rsqrt")
# Compute cosines in float16.
coarse_cosines = partial(Calls, lambda func, x: func(x.half()).to(x.dtype), "cos")
# Compute log-sum-exp in bfloat16.
coarse_logsumexp = partial(Calls, lambda func, x, *rest, **kw: func(x.bfloat16(), *rest, **kw).to(x.dtype), "logsumexp")
# Return NaN from GELU for inputs above 5.
no_numbers = partial(Calls, lambda func, x, **kw: torch.where(x > 5, torch.nan, func(x, **kw)), "gelu")
