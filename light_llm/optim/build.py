"""From a config to an optimizer."""

import torch
from torch import nn

from ..config import TrainConfig
from .adamw import adamw
from .groups import group_parameters
from .muon import muon


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer a config names, over every trainable parameter of any module."""
    return muon(model, config) if config.optimizer == "muon" else adamw(group_parameters(model), config)
