"""Position encodings, by name: a learned table is added to the embeddings, or queries and keys are rotated.

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

# Rotations over the trained context: frequencies with fewer than LOW are divided by the full factor, those with more
# than HIGH are unchanged.
# The values are Llama 3.1's.
LOW, HIGH = 1.0, 4.0

# A function of the keys' positions ([B,] S), for the queries of one call: numbers added to the scores, ([B,] H, T, S).
ScoreBias = Callable[[Tensor], Tensor]


class RotaryAngles(NamedTuple):
    """cos and sin of the angles at some positions, float32 ([B, 1,] T, D / 2)."""

    cos: Tensor
    sin: Tensor


class PositionEncoding(nn.Module):
    """The three places where positions may enter; an encoding overrides one, or several."""

    def embed(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """Add positions to the token embeddings: (B, T, C) at positions (T,) or (B, T) -> (B, T, C)."""
        return x

    def angles(self, position_ids: Tensor) -> RotaryAngles | None:
        """Return the angles by which queries and keys at these positions are rotated; None for no rotation."""
        return None

    def score_bias(self, position_ids: Tensor) -> ScoreBias | None:
        """Return the bias that is added to the scores of queries at these positions, (T,) or (B, T); None for none.

        It is a function of the keys' positions because their number is known only in a layer, behind its cache.
        """
        return None


class LearnedPositions(PositionEncoding, nn.Embedding):
    """A table with a row for each position, added to the token's embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.n_positions, config.n_embd)

    def embed(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """Add each position's row: (B, T, C) -> (B, T, C)."""
        return x + self(position_ids)


class RotaryPositions(PositionEncoding):
    """Rotated queries and keys. No parameters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def angles(self, position_ids: Tensor) -> RotaryAngles:
        """Return cos and sin for positions (T,) or (B, T)."""
        angles = position_ids[..., None] * frequencies(self.config, position_ids.device)  # (..., T, D / 2)
        if position_ids.ndim == 2:
            angles = angles[:, None]  # the same for all heads
        return RotaryAngles(angles.cos(), angles.sin())


POSITIONS: dict[str, Callable[[ModelConfig], PositionEncoding]] = {"learned": LearnedPositions, "rope": RotaryPositions}


def frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """theta_i = base^(-2i/D), slowed down for a longer context: (D / 2,) float32, radians per token.

    `linear` divides all by the factor (Chen et al., 2023). `llama3` divides those that turn less than once in the
    trained context, leaves alone those that turn more than four times, and interpolates in between.
    """
    D = config.head_size
    theta = config.rope_base ** -(torch.arange(0, D, 2, dtype=torch.float32, device=device) / D)
    if config.rope_scaling == "linear":
        return theta / config.rope_factor
    if config.rope_scaling == "llama3":
        turns = theta * config.rope_trained_on / (2 * math.pi)
        unscaled = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0)  # 1: theta itself, 0: slowed down
        return unscaled * theta + (1 - unscaled) * theta / config.rope_factor
    return theta


def rotate(x: Tensor, angles: RotaryAngles | None) -> Tensor:
    """Rotate queries or keys: (B, H, T, D) -> (B, H, T, D) in the same format; no-op without angles."""
    if angles is None:
        return x
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos.to(x.dtype), angles.sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
