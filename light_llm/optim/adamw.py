"""AdamW (Loshchilov and Hutter, 2019) with weight decay on matrices and embedding tables, not on biases and gains."""

from collections.abc import Mapping

import torch
from torch import nn

from ..config import TrainConfig
from .groups import MATRIX, TABLE, VECTOR, group_parameters


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build AdamW over all trainable parameters."""
    return adamw_over(group_parameters(model), config)


def adamw_over(roles: Mapping[str, Mapping[str, nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    """Build AdamW over parameters by role, in two groups: matrices and tables decay, vectors do not."""
    groups = [
        {"params": [*roles[MATRIX].values(), *roles[TABLE].values()], "weight_decay": config.weight_decay},
        {"params": list(roles[VECTOR].values()), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,  # one call for all parameters; CPU, CUDA and MPS have it
    )
