"""Choose the number format of matrix products: bfloat16 if this machine is measurably faster in it, else float32."""

import shutil
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..errors import DeviceError
from .device import Decision
from .machine_cache import cached_measurement, machine_key
from .timing import time_calls

COMPILERS = ("g++", "c++", "clang++", "cl")
MIN_BFLOAT16_SPEEDUP = 1.3  # a smaller one is not worth the rounding of bfloat16


def choose_dtype(asked: str, device: str) -> Decision:
    """Choose float32 or bfloat16 for the matrix products. Weights, loss and optimizer state stay in float32."""
    if asked != "auto":
        return Decision(asked, "asked for")
    if device == "mps":
        return Decision("float32", "bfloat16 on MPS has not been shown to be right and faster")
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Decision("bfloat16", "this GPU multiplies it in hardware")
        return Decision("float32", "this GPU has no bfloat16")
    gain = cached_measurement(machine_key(), lambda: round(measure_bfloat16_speedup(), 2))
    if gain >= MIN_BFLOAT16_SPEEDUP:
        return Decision("bfloat16", f"measured {gain:.1f}x as fast as float32 here")
    return Decision("float32", f"bfloat16 measured only {gain:.1f}x as fast here")


def choose_compile(asked: str, device: str) -> Decision:
    """Choose on or off. "auto" is off: on a CPU a compiled step was slower than the blocks of `layers/`.

    Raises:
        DeviceError: "on" for the CPU without a C++ compiler.
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
    """Return a context manager in which a forward pass makes its matrix products in dtype."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, getattr(torch, dtype))


def measure_bfloat16_speedup(seconds: float = 0.15) -> float:
    """Measure how many times as fast the CPU multiplies in bfloat16 as in float32, with the shapes of micro's MLP."""
    x, w = torch.randn(2048, 384), torch.randn(1536, 384)
    xh, wh = x.bfloat16(), w.bfloat16()

    def once(a: Tensor, b: Tensor) -> float:
        return time_calls(lambda: a @ b.T, repeats=1, min_seconds=seconds)[0]

    # Alternating, and the best of each: other work on the machine only ever slows a format down.
    times = [(once(x, w), once(xh, wh)) for _ in range(2)]
    return min(fp32 for fp32, _ in times) / min(bf16 for _, bf16 in times)
