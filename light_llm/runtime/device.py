"""Choose the device of a run, its number format and compilation; save and restore its random generators."""

import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DeviceError, did_you_mean
from .machine_cache import cached_measurement, machine_key
from .timing import time_calls
from .world import env_number, in_world

CUDA = "cuda"  # the device of the GPUs of a machine file (`plan/machine.py`)
DEVICES = ("auto", "cpu", "cuda", "mps")
COMPILERS = ("g++", "c++", "clang++", "cl")
MIN_BFLOAT16_SPEEDUP = 1.3  # a smaller one is not worth the rounding of bfloat16


@dataclass(frozen=True)
class Decision:
    """A resolved setting and why: both are printed and written to run.json.

    >>> print(Decision("cpu", "asked for"))
    cpu (asked for)
    """

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


def choose_device(asked: str | torch.device = "auto") -> Decision:
    """Choose the device of a run, with the reason: from auto, cpu, cuda, cuda:N or mps.

    `auto` prefers MPS, then CUDA, then the CPU. Of several processes on a machine each has a GPU of its own: `cuda` is
    the one with its local rank.

    Raises:
        DeviceError: the name is unknown, this machine has no such device, or fewer GPUs than processes.
    """
    asked = str(asked) if isinstance(asked, torch.device) else asked
    if not isinstance(asked, str):
        raise DeviceError(f"device={asked!r} is not the name of a device; it can be auto, cpu, cuda, cuda:N or mps")
    kind, _, index = asked.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError(
            f"there is no device {asked!r}{did_you_mean(kind, DEVICES)} It can be auto, cpu, cuda, cuda:N or mps"
        )
    if kind == "cpu":
        return Decision("cpu", "asked for")
    has_mps, n_cuda = torch.backends.mps.is_available(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    n_local = env_number("LOCAL_WORLD_SIZE", 1) if in_world() else 1
    if kind == "mps" and n_local > 1:
        raise DeviceError(f"device 'mps' is one GPU, and this run has {n_local} processes; use {{--device cpu}}")
    if kind == "auto":
        if has_mps and n_local == 1:
            return Decision("mps", "Apple GPU found; can be set to cpu")
        if n_cuda:
            name = _own_gpu(n_local, n_cuda)
            return Decision(name, f"{torch.cuda.get_device_name()} found; can be set to cpu")
        return Decision("cpu", "no GPU found" if not has_mps else "the GPU cannot be shared by several processes")
    if kind == "mps" and not has_mps:
        raise DeviceError("device 'mps' is not available: this torch finds no Apple GPU; use {--device auto} or cpu")
    if kind == "cuda" and int(index or 0) >= n_cuda:
        gpus = f"{n_cuda} CUDA GPU{'s' * (n_cuda != 1)}" if n_cuda else "no CUDA GPU"
        raise DeviceError(f"device {asked!r} is not available: this torch finds {gpus}; use {{--device auto}} or cpu")
    if kind == "cuda" and n_local > 1:
        if index:
            raise DeviceError(
                f"device {asked!r} is one GPU, and this run has {n_local} processes; use {{--device cuda}}"
            )
        return Decision(_own_gpu(n_local, n_cuda), "asked for")
    return Decision(asked, "asked for")


def _own_gpu(n_local: int, n_cuda: int) -> str:
    """Return "cuda", which stands for the current GPU: in a rank that of its local rank.

    Raises:
        DeviceError: there are fewer GPUs than processes.
    """
    if n_local > n_cuda:
        raise DeviceError(
            f"this machine has {n_cuda} CUDA GPU{'s' * (n_cuda != 1)} for {n_local} processes, and each needs its own; "
            f"start {n_cuda} on each machine, or use {{--device cpu}}"
        )
    if n_local > 1:
        torch.cuda.set_device(env_number("LOCAL_RANK", 0))
    return "cuda"


def message_backend(device: str) -> str:
    """Return the library that sends the gradients of several processes."""
    return "nccl" if device.startswith("cuda") else "gloo"


def can_gate_updates(device: str) -> bool:
    """Return True if the device itself can skip a non-finite update, so that the loop need not wait for the loss."""
    # On a CPU there is nothing to wait for. On MPS some versions of the fused AdamW ignore `found_inf`.
    return device.startswith("cuda")


def has_attention_kernel(device: str) -> bool:
    """Return whether attention has a kernel that keeps no weights. MPS has none (`layers.attention.attend`)."""
    return torch.device(device).type in ("cpu", "cuda")


def device_name(device: str) -> str:
    """Return the product name of a GPU, or the architecture and number of threads of a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device == "mps":
        return "Apple GPU"
    n = torch.get_num_threads()
    return f"{platform.machine()}, {n} thread{'s' * (n != 1)}"


def choose_dtype(asked: str, device: str) -> Decision:
    """Choose float32 or bfloat16 for the matrix products. Weights, loss and optimizer state stay in float32."""
    if asked != "auto":
        return Decision(asked, "asked for")
    if device == "mps":
        return Decision("float32", "bfloat16 on MPS has not been shown to be correct and faster")
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
        return Decision("off", f"{reason}; can be set to on")
    if asked == "on" and device == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise DeviceError(
            f"{{--compile on}} needs a C++ compiler ({', '.join(COMPILERS)}) and finds none; install one, or "
            "{--compile off}"
        )
    return Decision(asked, "asked for")


def autocast(device: str, dtype: str) -> AbstractContextManager[object]:
    """Return a context manager in which a forward pass makes its matrix products in dtype."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, getattr(torch, dtype))


def measure_bfloat16_speedup(seconds: float = 0.15) -> float:
    """Measure how many times as fast the CPU multiplies in bfloat16 as in float32, with the shapes of micro's MLP."""
    # Of a generator of their own: the program's is left alone.
    generator = torch.Generator().manual_seed(1)
    x, w = torch.randn(2048, 384, generator=generator), torch.randn(1536, 384, generator=generator)
    xh, wh = x.bfloat16(), w.bfloat16()

    def once(a: Tensor, b: Tensor) -> float:
        return time_calls(lambda: a @ b.T, repeats=1, min_seconds=seconds)[0]

    # Alternating, and the best of each: other work on the machine only ever slows a format down.
    times = [(once(x, w), once(xh, wh)) for _ in range(2)]
    return min(fp32 for fp32, _ in times) / min(bf16 for _, bf16 in times)


def seed_rng(seed: int, device: str) -> None:
    """Seed the generators that dropout uses: the CPU's and the device's own, and no others."""
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def preserved_rng(device: str) -> Iterator[None]:
    """Restore the random generators of the CPU and of a device after the block."""
    before = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(before, device)


def rng_state(device: str) -> dict[str, Tensor]:
    """Return the state of the generators that dropout uses, as CPU byte tensors by device kind."""
    state = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor], device: str) -> None:
    """Restore what `rng_state` returned. A generator that is not in it keeps its state."""
    torch.set_rng_state(state["cpu"])
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
