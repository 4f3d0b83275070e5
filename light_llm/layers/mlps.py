"""MLPs, by name: applied to each token separately, (B, T, C) -> (B, T, C), with n_inner units inside.

Each has `c_fc`, an `act` whose output is the hidden units (probes hook it), and `c_proj`, which writes to the residual
stream.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig


class MLP(nn.Module):
    """f(x W1 + b1) W2 + b2."""

    def __init__(self, config: ModelConfig, act: nn.Module) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner_size, bias=config.bias)
        self.act = act
        self.c_proj = nn.Linear(config.inner_size, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP: (B, T, C) -> (B, T, C)."""
        return self.c_proj(self.act(self.c_fc(x)))


class GatedMLP(nn.Module):
    """(f(x Wg) * (x W1)) W2: one product gates the other (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig, act: nn.Module) -> None:
        super().__init__()
        self.c_gate = nn.Linear(config.n_embd, config.inner_size, bias=config.bias)
        self.c_fc = nn.Linear(config.n_embd, config.inner_size, bias=config.bias)
        self.act = act
        self.c_proj = nn.Linear(config.inner_size, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP: (B, T, C) -> (B, T, C)."""
        return self.c_proj(self.act(self.c_gate(x), self.c_fc(x)))


class SwiGLU(nn.Module):
    """g sigmoid(g) u: gate and value, (..., n) each -> (..., n)."""

    def forward(self, gate: Tensor, value: Tensor) -> Tensor:
        """Gate the value: (..., n), (..., n) -> (..., n)."""
        return F.silu(gate) * value


class GeGLU(nn.Module):
    """GELU(g) u, with one of GELU's two forms: gate and value, (..., n) each -> (..., n)."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, gate: Tensor, value: Tensor) -> Tensor:
        """Gate the value: (..., n), (..., n) -> (..., n)."""
        return F.gelu(gate, approximate=self.approximate) * value


class SquaredReLU(nn.Module):
    """max(0, x)^2 (So et al., 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        """Square the positive part: any shape."""
        return torch.relu(x).square()


GELU_FORMS = {"gelu_tanh": "tanh", "gelu": "none"}  # a config's `activation` -> torch's `approximate`
MLPS: dict[str, Callable[[ModelConfig], "MLP | GatedMLP"]] = {
    "gelu": lambda config: MLP(config, nn.GELU(GELU_FORMS[config.activation])),
    "swiglu": lambda config: GatedMLP(config, SwiGLU()),
    "geglu": lambda config: GatedMLP(config, GeGLU(GELU_FORMS[config.activation])),
    "relu2": lambda config: MLP(config, SquaredReLU()),
}


def make_mlp(config: ModelConfig) -> MLP | GatedMLP:
    """Build the MLP that a config names."""
    return MLPS[config.mlp](config)
