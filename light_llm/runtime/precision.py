"""The number format of the matrix products: bfloat16 where this machine is really faster in it, float32 otherwise."""

import shutil
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..errors import DeviceError
from .decision import Decision
from .machine_cache import cached_measurement, machine_key
from .timing import time_calls

COMPILERS = ("g++", "c++", "clang++", "cl")
FASTER = 1.3  # bfloat16 has to win by this much: its rounding is not free


def choose_dtype(asked: str, device: str) -> Decision:
    """float32 or bfloat16 for the products of a run; the weights, the loss and the optimizer stay in float32.

    Args:
        asked: auto, float32 or bfloat16.
        device: what `choose_device` decided.
    """
    if asked != "auto":
        return Decision(asked, "asked for")
    if device == "mps":
        return Decision("float32", "bfloat16 on MPS has not been shown to be right and faster")
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Decision("bfloat16", "this GPU multiplies it in hardware")
        return Decision("float32", "this GPU has no bfloat16")
    gain = _cached_bfloat16_speedup()
    if gain >= FASTER:
        return Decision("bfloat16", f"measured {gain:.1f}x as fast as float32 here")
    return Decision("float32", f"bfloat16 measured only {gain:.1f}x as fast here")


def choose_compile(asked: str, device: str) -> Decision:
    """on or off. `auto` is off: a compiled step was measured slower on a CPU than the blocks of `layers/`.

    Raises:
        DeviceError: compiling for the CPU was asked for and there is no C++ compiler.
    """
    if asked == "auto":
        reason = "slower than ours on a CPU" if device == "cpu" else "compiling takes minutes"
        return Decision("off", f"{reason}; --compile on overrides")
    if asked == "on" and device == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise DeviceError(
            f"--compile on needs a C++ compiler ({', '.join(COMPILERS)}) and finds none; install one, or --compile off"
        )
    return Decision(asked, "asked for")


def autocast(device: str, dtype: str) -> AbstractContextManager[object]:
    """The context in which a forward pass makes its products in dtype."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, getattr(torch, dtype))


def measure_bfloat16_speedup(seconds: float = 0.15) -> float:
    """Return how many times as fast the CPU multiplies in bfloat16 as in float32, on a block's own shapes."""
    x, w = torch.randn(2048, 384), torch.randn(1536, 384)
    xh, wh = x.bfloat16(), w.bfloat16()

    def once(a: Tensor, b: Tensor) -> float:
        return time_calls(lambda: a @ b.T, repeats=1, min_seconds=seconds)[0]

    # Alternating, and the best of each: other work on the machine only ever slows a format down.
    times = [(once(x, w), once(xh, wh)) for _ in range(2)]
    return min(fp32 for fp32, _ in times) / min(bf16 for _, bf16 in times)


def _cached_bfloat16_speedup() -> float:
    """`measure_bfloat16_speedup`, once per machine, torch version and thread count."""
    return cached_measurement(machine_key(), lambda: round(measure_bfloat16_speedup(), 2))
