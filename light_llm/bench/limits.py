"""What the machine's parts do at best: matrix products by number format, and memory, copied and read."""

from collections.abc import Callable

import torch

from .timing import Repeats, nothing, seconds_of, waiter


def product_rates(
    device: str, dtype: str, shape: tuple[int, int, int], repeats: Repeats, tick: Callable[[], None] = nothing
) -> list[float]:
    """FLOP/s of (n, k) by (k, m) products, one value a repetition: 2 n k m a product, whatever an addition costs.

    Raises:
        RuntimeError, TypeError: torch has no such product on this device.
    """
    n, k, m = shape
    # Random numbers: a GPU multiplies ones with less power, and so at a higher clock, than anything it is used for.
    a, b = (torch.randn(*sides, device=device).to(getattr(torch, dtype)) for sides in ((n, k), (k, m)))
    seconds = seconds_of(lambda: a @ b, repeats, wait=waiter(device), tick=tick)
    return [2.0 * n * k * m / s for s in seconds]


def copy_rates(device: str, size: int, repeats: Repeats, tick: Callable[[], None] = nothing) -> list[float]:
    """Bytes/s of copying a block of `size` bytes: what is read and what is written both count (McCalpin, 1995)."""
    source, target = _block(device, size), _block(device, size)
    seconds = seconds_of(lambda: target.copy_(source), repeats, wait=waiter(device), tick=tick)
    return [2.0 * source.nbytes / s for s in seconds]


def read_rates(device: str, size: int, repeats: Repeats, tick: Callable[[], None] = nothing) -> list[float]:
    """Bytes/s of reading a block of `size` bytes, by adding up the float32 numbers in it."""
    source = _block(device, size)
    return [source.nbytes / s for s in seconds_of(source.sum, repeats, wait=waiter(device), tick=tick)]


def _block(device: str, size: int) -> torch.Tensor:
    """Written to, so that each page really is there: pages never written to can all be the same one, full of zeros."""
    return torch.ones(size // 4, device=device)
