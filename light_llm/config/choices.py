"""The choices that a config names, with the facts of each that need no torch.

The implementations are in `layers/` and `optim/`. Everything else (sizes, memory, time, disk space, exports, messages)
asks a choice's row here and never compares its name, so that a new choice is a row here and its implementation. Which
choices make up GPT-2, Llama and others is stated by the rows of `interop/architectures.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import ModelConfig

NamedShapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class PositionFacts:
    """Facts about a position encoding (`layers/positions.py`)."""

    # Of its parameters outside the blocks, by their full names.
    param_shapes: Callable[[ModelConfig], NamedShapes] = lambda config: {}
    rotary: bool = False  # the settings of rope apply, and d_k must be even
    score_bias: bool = False  # attention adds a bias to its scores, (H, T, T) numbers
    label: str = ""  # in one-line descriptions of a model; empty for GPT-2's


POSITIONS = {
    "learned": PositionFacts(param_shapes=lambda config: {"wpe.weight": (config.n_positions, config.n_embd)}),
    "rope": PositionFacts(rotary=True, label="rope"),
}


@dataclass(frozen=True, kw_only=True)
class NormFacts:
    """Facts about a norm (`layers/norms.py`)."""

    has_bias: bool  # beside its gain, where the config has biases
    saved_bytes: int  # of statistics that the backward pass needs, per vector
    copies_input: bool  # to float32 under autocast, and saves the copy
    label: str = ""


NORMS = {
    "layernorm": NormFacts(has_bias=True, saved_bytes=8, copies_input=True),
    "rmsnorm": NormFacts(has_bias=False, saved_bytes=4, copies_input=False, label="rmsnorm"),
    "rmsnorm1p": NormFacts(has_bias=False, saved_bytes=4, copies_input=False, label="rmsnorm with gain 1 + w"),
}


@dataclass(frozen=True, kw_only=True)
class MLPFacts:
    """Facts of an MLP (`layers/mlps.py`)."""

    gated: bool = False  # a second matrix into it, and so narrower by default
    uses_activation: bool = False  # the config's `activation` applies
    saved_per_unit: int = 2  # numbers that the backward pass needs of each unit inside
    label: str = ""  # of an MLP that uses the config's `activation`, beside that one's


MLPS = {
    "gelu": MLPFacts(uses_activation=True),
    "swiglu": MLPFacts(gated=True, saved_per_unit=4, label="swiglu"),
    "geglu": MLPFacts(gated=True, uses_activation=True, saved_per_unit=4, label="geglu"),
    "relu2": MLPFacts(label="relu2"),
}

ACTIVATIONS = {"gelu_tanh": "", "gelu": "exact gelu"}  # with their labels
SCALINGS = ("none", "linear", "llama3")
QKV_BIASES = ("auto", "yes", "no")


def newton_schulz_scratch(matrices: Iterable[tuple[int, ...]]) -> int:
    """Return the bytes of Muon's iteration for the largest matrix, in 16 bits: itself twice, its square twice."""
    sides = [sorted(shape) for shape in matrices]
    return max((2 * (2 * large * small + 2 * small**2) for small, large in sides), default=0)


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """Facts of an optimizer (`optim/`). Matrices are those of the blocks; moments are float32."""

    matrix_moments: int  # per parameter of a matrix
    moments: int = 2  # per parameter of anything else
    update_seconds_key: str  # the field of `plan.profile.Profile` that times the update of matrices
    # Of the update, given a block's matrices; by default it works in place.
    scratch_bytes: Callable[[Iterable[tuple[int, ...]]], int] = lambda matrices: 0
    is_adam: bool = False  # every parameter has Adam's two moments, and AdamW's usual rates apply
    orthogonalizes: bool = False  # the update of a matrix, by Newton-Schulz iterations in bfloat16

    def state_bytes(self, *, matrices: int, others: int) -> int:
        """Return the bytes of the state for these numbers of parameters."""
        return 4 * (self.matrix_moments * matrices + self.moments * others)


OPTIMIZERS = {
    "adamw": OptimizerFacts(matrix_moments=2, update_seconds_key="adamw", is_adam=True),
    "muon": OptimizerFacts(
        matrix_moments=1, update_seconds_key="muon", scratch_bytes=newton_schulz_scratch, orthogonalizes=True
    ),
}
