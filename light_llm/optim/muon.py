"""Muon for the matrices inside the blocks, AdamW for the tables, the gains and the biases."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..config import TrainConfig
from .adamw import MATRIX, TABLE, VECTOR, adamw_over, group_parameters


def muon(model: nn.Module, config: TrainConfig, ranks: int = 1) -> torch.optim.Optimizer:
    """Build Muon (Jordan et al., 2024) for the matrices and AdamW for all other parameters, as one optimizer.

    A matrix moves by its momentum with all singular values made 1. That step is scaled by 0.2 sqrt(larger side), which
    gives it the size of an AdamW step (Liu et al., 2025, equation 4), so one learning rate and one decay serve both.
    """
    roles = group_parameters(model)
    parts: list[torch.optim.Optimizer] = []
    if matrices := list(roles[MATRIX].values()):
        decay, scaling = config.weight_decay, "match_rms_adamw"
        parts.append(_muon_class(ranks)(matrices, config.lr, decay, momentum=0.95, adjust_lr_fn=scaling))
    if roles[TABLE] or roles[VECTOR]:
        parts.append(adamw_over({TABLE: roles[TABLE], VECTOR: roles[VECTOR], MATRIX: {}}, config))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(*parts)


def _muon_class(ranks: int) -> type[torch.optim.Muon]:
    if ranks == 1:
        return torch.optim.Muon
    # Imported here, because one process needs no part of torch.distributed.
    from .whole_matrices import WholeMatrices

    return WholeMatrices


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers as one, with the parameter groups and the state of all of them."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        # The parts' own groups and not the copies that __init__ made, so that a new learning rate reaches the parts.
        self.param_groups = [group for part in parts for group in part.param_groups]
        for part in parts:
            part.state = self.state  # keyed by parameter, and a parameter belongs to one part

    @property
    def waiting(self) -> bool:
        """Return whether a step waits for other ranks and has changed nothing; the first part does, if any."""
        return getattr(self.parts[0], "waiting", False)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step each part."""
        assert closure is None, "the training loop computes the gradients"
        for part in self.parts:
            part.step()
