"""States of the random generators of all ranks, as a checkpoint names them: `cpu`, `cuda`, `cpu.1`, `cuda.1`, ..."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def gather_rng(states: Mapping[str, Tensor], gather: Callable[[Any], list[Any]]) -> dict[str, Tensor]:
    """Return the generator states of all ranks by name; those of rank 0 have the names of a run of one process.

    Args:
        states: of this rank, as `runtime.rng_state` returns them.
        gather: `World.gather`: all ranks call it.
    """
    by_rank = gather({name: bytes(state.tolist()).hex() for name, state in states.items()})
    return {
        f"{name}.{rank}" if rank else name: torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
        for rank, states in enumerate(by_rank)
        for name, state in states.items()
    }


def select_rng(states: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return the generator states of a rank, as `runtime.set_rng_state` takes them; empty if fewer ranks saved them."""
    split = {name: name.partition(".") for name in states}
    return {kind: states[name] for name, (kind, _, number) in split.items() if number == (str(rank) if rank else "")}
