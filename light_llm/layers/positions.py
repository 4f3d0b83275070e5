"""Position encodings, by name: a learned table is added to the embeddings, or queries and keys are rotated.

A rotation (Su et al., 2021, section 3.2.2) turns pair i of a head's D numbers by the angle t theta_i at position t:

    theta_i = base^(-2i/D)        (x_i, x_{i+D/2}) -> (x_i cos - x_{i+D/2} sin, x_{i+D/2} cos + x_i sin)

so that the product of a query at t and a key at s depends on t - s alone. The pairs are those of Llama's files at
Hugging Face, the first half with the second. With `rotary_pct` only the first R of the D numbers are turned, as if they
were a head of their own (GPT-NeoX).
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
    """cos and sin of the angles at some positions, float32 ([B, 1,] T, R / 2): R numbers of a head are rotated."""

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

    def local_angles(self, position_ids: Tensor) -> RotaryAngles | None:
        """Return the angles in the layers with a window, where these have a rope base of their own."""
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
        return _angles(position_ids, frequencies(self.config, position_ids.device))

    def local_angles(self, position_ids: Tensor) -> RotaryAngles:
        """Return cos and sin with `rope_local_base`, without scaling."""
        R = self.config.rotary_dims
        return _angles(position_ids, unscaled_frequencies(self.config.rope_local_base, R, position_ids.device))


def _angles(position_ids: Tensor, theta: Tensor) -> RotaryAngles:
    angles = position_ids[..., None] * theta  # (..., T, R / 2)
    if position_ids.ndim == 2:
        angles = angles[:, None]  # the same for all heads
    return RotaryAngles(angles.cos(), angles.sin())


POSITIONS: dict[str, Callable[[ModelConfig], PositionEncoding]] = {"learned": LearnedPositions, "rope": RotaryPositions}


def frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """theta_i = base^(-2i/R), slowed down for a longer context: (R / 2,) float32, radians per token.

    `linear` divides all by the factor (Chen et al., 2023). `llama3` divides those that turn less than once in the
    trained context, leaves alone those that turn more than four times, and interpolates in between.
    """
    theta = unscaled_frequencies(config.rope_base, config.rotary_dims, device)
    if config.rope_scaling == "linear":
        return theta / config.rope_factor
    if config.rope_scaling == "llama3":
        turns = theta * config.rope_trained_on / (2 * math.pi)
        unscaled = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0)  # 1: theta itself, 0: slowed down
        return unscaled * theta + (1 - unscaled) * theta / config.rope_factor
    return theta


def unscaled_frequencies(base: float, R: int, device: torch.device) -> Tensor:
    """theta_i = base^(-2i/R) for R rotated numbers: (R / 2,) float32, radians per token."""
    return 1.0 / base ** (torch.arange(0, R, 2, dtype=torch.float32, device=device) / R)


def rotate(x: Tensor, angles: RotaryAngles | None) -> Tensor:
    """Rotate the first R numbers of queries or keys: (B, H, T, D) -> (B, H, T, D) in the same format.

    R is twice the number of angles. Without angles nothing is rotated.
    """
    if angles is None:
        return x
    R = 2 * angles.cos.size(-1)
    if R < x.size(-1):
        return torch.cat((rotate(x[..., :R], angles), x[..., R:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos.to(x.dtype), angles.sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
