"""Optimizers for any `nn.Module`: parameter groups, AdamW, Muon and the learning rate."""

from ..config.schedule import learning_rate as learning_rate
from ..config.schedule import warmup_cosine as warmup_cosine
from ..config.schedule import warmup_stable_decay as warmup_stable_decay
from .build import build_optimizer as build_optimizer
from .groups import group_parameters as group_parameters
