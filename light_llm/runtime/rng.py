"""Seed, save and restore torch's random generators."""

from collections.abc import Mapping

import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device; light-llm does not use those of Python and numpy."""
    torch.manual_seed(seed)


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
