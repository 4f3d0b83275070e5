"""From a config to an optimizer."""

from collections.abc import Callable

import torch
from torch import nn

from ..config import TrainConfig
from .adamw import adamw
from .muon import muon

# The optimizers' facts (state, time, scratch memory) are in `config/choices.py`, under the same names.
OPTIMIZERS: dict[str, Callable[[nn.Module, TrainConfig], torch.optim.Optimizer]] = {"adamw": adamw, "muon": muon}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer that a config names, over every trainable parameter of any module."""
    return OPTIMIZERS[config.optimizer](model, config)
