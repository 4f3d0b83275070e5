"""Optimizers for any `nn.Module`: parameter groups, AdamW, Muon and the learning rate."""

from collections.abc import Callable

import torch
from torch import nn

from ..config import TrainConfig
from ..config.schedule import learning_rate as learning_rate
from ..config.schedule import warmup_cosine as warmup_cosine
from ..config.schedule import warmup_stable_decay as warmup_stable_decay
from .adamw import adamw
from .adamw import group_parameters as group_parameters
from .muon import muon

# The optimizers' facts (state, time, scratch memory) are in `config/choices.py`, under the same names.
OPTIMIZERS: dict[str, Callable[[nn.Module, TrainConfig, int], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "muon": muon,
}


def build_optimizer(model: nn.Module, config: TrainConfig, ranks: int = 1) -> torch.optim.Optimizer:
    """Build the optimizer that a config names, over every trainable parameter of any module.

    Args:
        ranks: of the run; each has a replica or a slice of the parameters, and they may share the work.
    """
    return OPTIMIZERS[config.optimizer](model, config, ranks)
