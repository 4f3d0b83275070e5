"""AdamW (Loshchilov and Hutter, 2019), and the roles of parameters: matrices and tables decay, vectors do not."""

from collections.abc import Mapping

import torch
from torch import nn

from ..config import TrainConfig

MATRIX, TABLE, VECTOR = "matrix", "table", "vector"


def group_parameters(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Group the trainable parameters by role and name: weights of Linear layers, lookup tables, and vectors.

    Vectors are biases and gains. Each parameter occurs once: a head that is tied to a table is that table.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    roles: dict[str, dict[str, nn.Parameter]] = {MATRIX: {}, TABLE: {}, VECTOR: {}}
    for name, parameter in model.named_parameters():  # yields a shared parameter once, under its first name
        if parameter.requires_grad:
            role = TABLE if id(parameter) in tables else VECTOR if parameter.ndim < 2 else MATRIX
            roles[role][name] = parameter
    return roles


def adamw(model: nn.Module, config: TrainConfig, ranks: int = 1) -> torch.optim.Optimizer:
    """Build AdamW over all trainable parameters. It works on each rank's slices alone."""
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
