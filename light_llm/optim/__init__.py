"""Optimizers for any `nn.Module`: which parameters decay, how the rate moves, what updates them."""

from .build import build_optimizer as build_optimizer
from .groups import group_parameters as group_parameters
from .schedule import learning_rate as learning_rate
from .schedule import warmup_cosine as warmup_cosine
from .schedule import warmup_stable_decay as warmup_stable_decay
