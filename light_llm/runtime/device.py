"""Choose the device: MPS, then CUDA, then the CPU, unless one is named."""

import platform
from dataclasses import dataclass

import torch

from ..errors import DeviceError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")


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


def choose_device(asked: str = "auto") -> Decision:
    """Choose the device of a run, with the reason: from auto, cpu, cuda, cuda:N or mps.

    Raises:
        DeviceError: the name is unknown, or this machine has no such device.
    """
    kind, _, index = asked.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError(
            f"there is no device {asked!r}{did_you_mean(kind, DEVICES)} It can be auto, cpu, cuda, cuda:N or mps"
        )
    if kind == "cpu":
        return Decision("cpu", "asked for")
    has_mps, n_cuda = torch.backends.mps.is_available(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        if has_mps:
            return Decision("mps", "Apple GPU found; --device cpu overrides")
        if n_cuda:
            return Decision("cuda", f"{torch.cuda.get_device_name()} found; --device cpu overrides")
        return Decision("cpu", "no GPU found")
    if kind == "mps" and not has_mps:
        raise DeviceError("device 'mps' is not available: this torch finds no Apple GPU; use --device auto or cpu")
    if kind == "cuda" and int(index or 0) >= n_cuda:
        gpus = f"{n_cuda} CUDA GPU{'s' * (n_cuda != 1)}" if n_cuda else "no CUDA GPU"
        raise DeviceError(f"device {asked!r} is not available: this torch finds {gpus}; use --device auto or cpu")
    return Decision(asked, "asked for")


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
