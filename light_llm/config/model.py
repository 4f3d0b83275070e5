"""What decides the shape of a model, and nothing about how it is trained."""

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean
from .validation import check_choice, check_range, show, wrong_type

POSITIONS = ("learned", "rope")
SCALINGS = ("none", "linear", "llama3")
NORMS = ("layernorm", "rmsnorm")
MLPS = ("gelu", "swiglu", "relu2")
ACTIVATIONS = ("gelu_tanh", "gelu")

# d_k = n_embd / n_head = 64 in each; n_inner of the modern ones makes them as large as the others to 1%
GPT2 = {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True, "qk_norm": False, "tied_head": True}
LLAMA = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "qk_norm": False, "tied_head": True}
PRESETS: dict[str, dict[str, Any]] = {
    "nano": GPT2 | {"n_embd": 192, "n_layer": 6, "n_head": 3, "n_kv_head": 0, "n_inner": 0},
    "micro": GPT2 | {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_kv_head": 0, "n_inner": 0},
    "small": GPT2 | {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_kv_head": 0, "n_inner": 0},
    "llama-nano": LLAMA | {"n_embd": 192, "n_layer": 6, "n_head": 3, "n_kv_head": 1, "n_inner": 640},
    "llama-micro": LLAMA | {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_kv_head": 2, "n_inner": 1248},
    "llama-small": LLAMA | {"n_embd": 512, "n_layer": 8, "n_head": 8, "n_kv_head": 2, "n_inner": 1664},
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a transformer: GPT-2's (Radford et al., 2019) unless a choice says otherwise. Frozen and checked.

    Raises:
        ConfigError: a value that no model can have, with the nearest values that work.
    """

    vocab_size: int = 50257  # V, tokens
    n_positions: int = 1024  # T_max, tokens
    n_embd: int = 384  # C, d_model
    n_layer: int = 6  # L
    n_head: int = 6  # H, of the queries
    dropout: float = 0.0  # on the embeddings and on both residual branches
    attn_dropout: float = 0.0  # on the attention probabilities; above 0 it costs the fast attention kernel
    activation: str = "gelu_tanh"  # of the mlp "gelu": GPT-2's tanh form; "gelu" is the exact one
    logit_cap: float = 0.0  # logits are cap tanh(logits / cap) (Gemma 2's soft cap); 0: as they are
    n_kv_head: int = 0  # heads of the keys and values, each for n_head / n_kv_head queries; 0: n_head
    head_dim: int = 0  # D, d_k; 0: n_embd / n_head
    n_inner: int = 0  # width inside the MLP; 0: 4 n_embd, and 8/3 n_embd in multiples of 64 for swiglu
    positions: str = "learned"  # a table; or "rope": queries and keys are turned by their place
    rope_base: float = 10000.0
    rope_scaling: str = "none"  # for a context longer than the model was trained on: linear, llama3
    rope_factor: float = 1.0  # how many times as long
    rope_trained: int = 0  # tokens it was trained on, which llama3 asks for; 0: n_positions / rope_factor
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    qk_norm: bool = False  # queries and keys are normed, head by head
    mlp: str = "gelu"
    bias: bool = True  # in the linear layers and in layernorm
    tied_head: bool = True  # the head is the token table again
    window: int = 0  # tokens that the window_layers see, their own included; 0: all
    window_layers: str = "all"  # or numbers: 0,2,4

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            check_range(name, getattr(self, name), low=1, integer=True)
        for name in ("n_kv_head", "head_dim", "n_inner", "rope_trained", "window"):
            check_range(name, getattr(self, name), low=0, integer=True)
        for name in ("dropout", "attn_dropout"):
            check_range(name, getattr(self, name), low=0.0, below=1.0)
        for name in ("bias", "qk_norm", "tied_head"):
            if not isinstance(getattr(self, name), bool):
                raise wrong_type(name, getattr(self, name), "true or false")
        check_range("logit_cap", self.logit_cap, low=0.0, high=1e6)
        check_range("rope_base", self.rope_base, above=1.0, high=1e12)
        check_range("rope_factor", self.rope_factor, low=1.0, high=1e6)
        check_range("norm_eps", self.norm_eps, above=0.0, below=1.0)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("positions", self.positions, POSITIONS)
        check_choice("rope_scaling", self.rope_scaling, SCALINGS)
        check_choice("norm", self.norm, NORMS)
        check_choice("mlp", self.mlp, MLPS)
        self._check_heads()
        self._check_rope()
        self._check_window_layers()

    def _check_heads(self) -> None:
        if not self.head_dim and self.n_embd % self.n_head:
            under = self.n_embd - self.n_embd % self.n_head
            near = [n for n in (under, under + self.n_head) if n > 0]
            ways = " or ".join(f"n_embd={n}" for n in near)
            raise ConfigError(f"n_embd={self.n_embd} does not divide into n_head={self.n_head} heads; try {ways}")
        if self.n_head % self.kv_heads:
            near = [n for n in range(1, self.n_head + 1) if self.n_head % n == 0]
            raise ConfigError(
                f"n_head={self.n_head} query heads cannot share n_kv_head={self.n_kv_head} evenly; "
                f"n_kv_head can be {', '.join(map(str, near))}"
            )

    def _check_rope(self) -> None:
        if self.positions == "rope" and self.head_size % 2:
            raise ConfigError(
                f"positions=rope turns pairs of numbers, and a head has d_k={self.head_size}, which is odd; "
                f"try head_dim={self.head_size + 1}, or another n_head"
            )
        if self.positions != "rope" and self.rope_scaling != "none":
            raise ConfigError(
                f"rope_scaling={self.rope_scaling} scales rotary positions, and positions={self.positions}; "
                "add positions=rope, or leave it out"
            )
        if self.rope_scaling == "none" and self.rope_factor != 1.0:
            raise ConfigError(
                f"rope_factor={self.rope_factor:g} has no effect without a scaling; add rope_scaling=linear or llama3"
            )

    def _check_window_layers(self) -> None:
        words = [] if self.window_layers == "all" else str(self.window_layers).split(",")
        for word in words:
            is_number = isinstance(self.window_layers, str) and word.strip().isdecimal() and len(word) < 10
            if not is_number or int(word) >= self.n_layer:
                raise ConfigError(
                    f"window_layers={show(self.window_layers)} cannot be used; write all, or numbers of layers from 0 "
                    f"to {self.n_layer - 1} with commas between: 0,2,4"
                )

    @property
    def head_size(self) -> int:
        """D, d_k: by default d_model / n_head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of the keys and values."""
        return self.n_kv_head or self.n_head

    @property
    def inner_size(self) -> int:
        """Numbers of a token inside the MLP. A gated one has three matrices for two, so it is narrower."""
        if self.n_inner:
            return self.n_inner
        return -(-8 * self.n_embd // (3 * 64)) * 64 if self.mlp == "swiglu" else 4 * self.n_embd

    @property
    def rope_trained_on(self) -> int:
        """Tokens of the context before it was made longer."""
        return self.rope_trained or max(1, round(self.n_positions / self.rope_factor))

    def window_of(self, layer: int) -> int:
        """Tokens that a layer sees at most, 0 where it sees all."""
        chosen = self.window_layers == "all" or layer in map(int, self.window_layers.split(","))
        return self.window if chosen else 0

    @property
    def choices(self) -> str:
        """What is not GPT-2's, in words; empty where all is.

        >>> ModelConfig.micro().choices, ModelConfig.preset("llama-micro").choices
        ('', 'rope, rmsnorm, swiglu, no biases, 2 heads of keys')
        """
        windows = sum(self.window_of(layer) > 0 for layer in range(self.n_layer)) if self.window else 0
        longer = "" if self.rope_scaling == "none" else f" {self.rope_scaling} x {self.rope_factor:g}"
        words = [
            f"rope{longer}" if self.positions == "rope" else "",
            self.norm if self.norm != "layernorm" else "",
            self.mlp if self.mlp != "gelu" else "exact gelu" if self.activation != "gelu_tanh" else "",
            "no biases" if not self.bias else "",
            f"{self.kv_heads} head{'s' * (self.kv_heads > 1)} of keys" if self.kv_heads != self.n_head else "",
            "qk-norm" if self.qk_norm else "",
            "a head of its own" if not self.tied_head else "",
            f"logits within {self.logit_cap:g}" if self.logit_cap else "",
            f"windows of {self.window:,} in {windows} of {self.n_layer} layers" if windows else "",
        ]
        return ", ".join(word for word in words if word)

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
        return cls(**(preset_settings(name) | changes))


def preset_settings(name: str) -> dict[str, Any]:
    """The fields that a preset decides. Raises ConfigError for a name that is none."""
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset {name!r}{did_you_mean(name, PRESETS)} The presets are {', '.join(PRESETS)}"
        )
    return dict(PRESETS[name])
