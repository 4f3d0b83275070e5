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
OPTIMIZERS: dict[str, Callable[[nn.Module, TrainConfig], torch.optim.Optimizer]] = {"adamw": adamw, "muon": muon}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer that a config names, over every trainable parameter of any module."""
    return OPTIMIZERS[config.optimizer](model, config)
