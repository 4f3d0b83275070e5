"""Compare a result on a device with float64 on the CPU, within a tolerance from the number format.

A number is rounded with a relative error of at most u: 2^-24 in float32, 2^-8 in bfloat16. The errors of a sum of n
terms are nearly independent and partly cancel, so they grow as sqrt(n) u and not as n u (Higham and Mary, 2019, theorem
3.1). Errors of consecutive steps are independent too and add up in squares.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The largest of a million normal errors is 5 standard deviations, and a rounding has one of u / sqrt(3): correct
# arithmetic stays below 3 times the sqrt(n) u of its chain. One more, for kernels that round once more often.
SAFETY = 4.0
SUM_BLOCK = 2048  # terms that a device may add in sequence; longer sums are added as blocks or as a tree
ELEMENTWISE = 8  # roundings of a function such as tanh, which few devices round as well as a product


class Comparison(NamedTuple):
    """The error of a result on the device, and the largest correct one."""

    error: float
    tolerance: float  # 0: the results must be equal
    where: str  # shapes and names, so that the comparison can be repeated

    @property
    def ratio(self) -> float:
        """Error divided by tolerance: at most 1 if the result is correct."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.tolerance


def tolerance(sums: Sequence[int], dtype: torch.dtype = torch.float32) -> float:
    """Return the largest correct error of a chain of sums, relative to the largest element of the result.

    SAFETY sqrt(sum over the chain of n u^2 + 3 u'^2): n additions in float32, whatever the format of the factors, and
    three roundings to that format: both factors and the result. So a sum that is not made in float32 is detected.

    Args:
        sums: number of terms of each sum, in order.
        dtype: number format of factors and results, with unit roundoff u'.

    >>> f"{tolerance([1024]):.1e}, {tolerance([1024], torch.bfloat16):.1e}"
    '7.6e-06, 2.7e-02'
    """
    u, u_dtype = torch.finfo(torch.float32).eps / 2, torch.finfo(dtype).eps / 2
    return SAFETY * math.sqrt(sum(n * u**2 + 3 * u_dtype**2 for n in sums))


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Return max |result - exact| / max |exact|; infinity for another shape or an element that is not finite."""
    result, exact = result.detach().cpu(), exact.detach()
    if result.shape != exact.shape or not result.isfinite().all():
        return math.inf
    worst, size = float((result.double() - exact).abs().max()), float(exact.abs().max())
    return worst / size if size else 0.0 if worst == 0 else math.inf


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Return normal float32 numbers on the CPU, drawn without touching the global generators."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def to_device(x: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """Copy a tensor to a device with the same strides. `Tensor.to` alone would make a view with gaps contiguous."""
    storage = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    return storage.to(device, dtype, copy=True).as_strided(x.shape, x.stride(), x.storage_offset())


def compare(
    device: str,
    function: Callable[..., Tensor],
    *inputs: Tensor,
    sums: Sequence[int],
    grad_sums: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
) -> Iterator[Comparison]:
    """Run a function on the device and in float64 on the CPU; yield its value, and its gradients if `grad_sums`.

    Args:
        inputs: float32 tensors on the CPU, whose strides are kept on the device.
        sums, grad_sums: number of terms of the sums of the value and, after those, of a gradient.
        dtype: number format of the inputs on the device.
    """
    exact = [x.double().contiguous().requires_grad_(bool(grad_sums)) for x in inputs]
    placed = [to_device(x, device, dtype).requires_grad_(bool(grad_sums)) for x in inputs]
    y, expected = function(*placed), function(*exact)
    where = " and ".join(layout(x) for x in inputs)
    yield Comparison(relative_error(y, expected), tolerance(sums, dtype), where)
    if grad_sums:
        upstream, limit = numbers(*expected.shape, seed=99), tolerance([*sums, *grad_sums], dtype)
        grads = torch.autograd.grad(y, placed, upstream.to(device, dtype))
        for i, (g, e) in enumerate(zip(grads, torch.autograd.grad(expected, exact, upstream.double()), strict=True)):
            yield Comparison(relative_error(g, e), limit, f"{where}, gradient of argument {i + 1}")


def layout(x: Tensor) -> str:
    """Return the shape of a tensor, and its strides if it is not contiguous: "9x7x64" or "7x9 with strides 1, 7"."""
    strides = "" if x.is_contiguous() else f" with strides {', '.join(map(str, x.stride()))}"
    return "x".join(map(str, x.shape)) + strides
