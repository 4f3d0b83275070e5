"""How a token's place enters, by name: a learned table is added, or queries and keys are turned.

A rotation (Su et al., 2021, section 3.2.2) turns pair i of a head's D numbers by the angle t theta_i at position t:

    theta_i = base^(-2i/D)        (x_i, x_{i+D/2}) -> (x_i cos - x_{i+D/2} sin, x_{i+D/2} cos + x_i sin)

so that the product of a query at t and a key at s depends on t - s alone. The pairs are those of Llama's files at
Hugging Face, the first half with the second.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import ModelConfig

LOW, HIGH = 1.0, 4.0  # turns within the trained context: of waves to slow down whole, and to leave alone (Llama 3.1)


class Turn(NamedTuple):
    """cos and sin of the angles of some positions, float32 ([B, 1,] T, D / 2)."""

    cos: Tensor
    sin: Tensor


class LearnedPositions(nn.Embedding):
    """A table with a row for each position, added to the token's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.n_positions, config.n_embd)

    def add(self, x: Tensor, at: Tensor) -> Tensor:
        """(B, T, C) at positions (T,) or (B, T) -> (B, T, C)."""
        return x + self(at)

    def turn(self, at: Tensor) -> Turn | None:
        """Nothing turns."""
        return None


class RotaryPositions(nn.Module):
    """Nothing is added; queries and keys turn. No parameters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def add(self, x: Tensor, at: Tensor) -> Tensor:
        """x as it is."""
        return x

    def turn(self, at: Tensor) -> Turn | None:
        """cos and sin for positions (T,) or (B, T)."""
        angles = at[..., None] * frequencies(self.config, at.device)  # (..., T, D / 2)
        if at.ndim == 2:
            angles = angles[:, None]  # the same for all heads
        return Turn(angles.cos(), angles.sin())


POSITIONS: dict[str, Callable[[ModelConfig], LearnedPositions | RotaryPositions]] = {
    "learned": LearnedPositions,
    "rope": RotaryPositions,
}


def frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """theta_i = base^(-2i/D), slowed down for a longer context: (D / 2,) float32, radians a token.

    `linear` divides all by the factor (Chen et al., 2023). `llama3` divides those that turn less than once in the
    trained context, leaves alone those that turn more than four times, and goes from one to the other in between.
    """
    D = config.head_size
    theta = config.rope_base ** -(torch.arange(0, D, 2, dtype=torch.float32, device=device) / D)
    if config.rope_scaling == "linear":
        return theta / config.rope_factor
    if config.rope_scaling == "llama3":
        turns = theta * config.rope_trained_on / (2 * math.pi)
        kept = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0)  # 1: as it is, 0: slowed down
        return kept * theta + (1 - kept) * theta / config.rope_factor
    return theta


def rotate(x: Tensor, turn: Turn | None) -> Tensor:
    """Queries or keys at their places: (B, H, T, D) -> (B, H, T, D) in the same format."""
    if turn is None:
        return x
    first, second = x.chunk(2, dim=-1)
    cos, sin = turn.cos.to(x.dtype), turn.sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
