"""What decides the shape of a model, and nothing about how it is trained."""

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean
from .values import check_choice, check_range

# (n_embd, n_layer, n_head): d_k = n_embd / n_head = 64 in each
PRESETS: dict[str, tuple[int, int, int]] = {"nano": (192, 6, 3), "micro": (384, 6, 6), "small": (512, 8, 8)}
ACTIVATIONS = ("gelu_tanh", "gelu")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a GPT-2 style transformer (Radford et al., 2019). Frozen and checked where it is made.

    Raises:
        ConfigError: a value that no model can have, with the nearest values that work.
    """

    vocab_size: int = 50257  # V, tokens
    n_positions: int = 1024  # T_max, tokens
    n_embd: int = 384  # C, d_model
    n_layer: int = 6  # L
    n_head: int = 6  # H
    dropout: float = 0.0  # on the embeddings and on both residual branches
    attn_dropout: float = 0.0  # on the attention probabilities; above 0 it costs the fast attention kernel
    activation: str = "gelu_tanh"  # GPT-2's tanh form; "gelu" is the exact one
    logit_cap: float = 0.0  # logits are cap tanh(logits / cap) (Gemma 2's soft cap); 0: as they are

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            check_range(name, getattr(self, name), low=1, integer=True)
        for name in ("dropout", "attn_dropout"):
            check_range(name, getattr(self, name), low=0.0, below=1.0)
        check_range("logit_cap", self.logit_cap, low=0.0)
        check_choice("activation", self.activation, ACTIVATIONS)
        if self.n_embd % self.n_head:
            under = self.n_embd - self.n_embd % self.n_head
            near = [n for n in (under, under + self.n_head) if n > 0]
            ways = " or ".join(f"n_embd={n}" for n in near)
            raise ConfigError(f"n_embd={self.n_embd} does not divide into n_head={self.n_head} heads; try {ways}")

    @property
    def head_size(self) -> int:
        """d_k = d_model / n_head."""
        return self.n_embd // self.n_head

    @classmethod
    def nano(cls, **changes: Any) -> "ModelConfig":
        """12.5 M parameters with GPT-2's vocabulary."""
        return cls.preset("nano", **changes)

    @classmethod
    def micro(cls, **changes: Any) -> "ModelConfig":
        """30,339,456 parameters with GPT-2's vocabulary: the default."""
        return cls.preset("micro", **changes)

    @classmethod
    def small(cls, **changes: Any) -> "ModelConfig":
        """51.5 M parameters with GPT-2's vocabulary."""
        return cls.preset("small", **changes)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "ModelConfig":
        """A preset by name, with any field changed. Raises ConfigError for a name that is none."""
        if name not in PRESETS:
            raise ConfigError(
                f"there is no preset {name!r}{did_you_mean(name, PRESETS)} The presets are {', '.join(PRESETS)}"
            )
        n_embd, n_layer, n_head = PRESETS[name]
        return cls(**({"n_embd": n_embd, "n_layer": n_layer, "n_head": n_head} | changes))


def get_model_size(config: ModelConfig) -> int:
    """The exact number of parameters, V d + T_max d + L (12 d^2 + 13 d) + 2 d, without building the model.

    A block has 4 d^2 + 4 d in attention, 8 d^2 + 5 d in the MLP and 4 d in its two norms; the final norm
    has 2 d; the head is the token table again (tied) and adds nothing.

    >>> get_model_size(ModelConfig.micro())
    30339456
    """
    d = config.n_embd
    tables = (config.vocab_size + config.n_positions) * d
    block = 12 * d**2 + 13 * d
    return tables + config.n_layer * block + 2 * d
