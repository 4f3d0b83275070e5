"""Optimizers for any `nn.Module`: which parameters decay, how the rate moves, what updates them."""

from .adamw import build_optimizer as build_optimizer
from .groups import by_role as by_role
from .schedule import warmup_cosine as warmup_cosine
