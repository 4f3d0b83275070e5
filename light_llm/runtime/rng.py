"""Random generators: seeded together, saved together, put back together."""

from collections.abc import Mapping

import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device. Nothing in light-llm draws from Python's or numpy's."""
    torch.manual_seed(seed)


def rng_state(device: str) -> dict[str, Tensor]:
    """The state of the generators that dropout draws from, as CPU byte tensors by name."""
    state = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor], device: str) -> None:
    """Put back what `rng_state` returned; a generator the state does not know stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.startswith("cuda") and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
