"""The shape of a model: every setting that changes its parameters or its arithmetic."""

from dataclasses import dataclass, fields
from typing import Any

from ..errors import ConfigError, did_you_mean
from .choices import ACTIVATIONS, MLPS, NORMS, POSITIONS, QKV_BIASES, SCALINGS
from .settings import check_settings, describe_settings, setting
from .validation import divisors, repr_short

# d_k = n_embd / n_head = 64 in each. n_inner makes the Llama presets as large as GPT-2's, to within 1%.
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


@describe_settings
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a transformer: GPT-2's (Radford et al., 2019) by default. Frozen, and checked when it is made.

    Raises:
        ConfigError: a value that no model can have, with the nearest values that work.
    """

    vocab_size: int = setting(50257, "V, the size of the vocabulary; by default that of the tokenizer", low=1)
    n_positions: int = setting(1024, "T_max, the longest context in tokens; by default max_length", low=1)
    n_embd: int = setting(384, "C = d_model, the width of the residual stream", low=1)
    n_layer: int = setting(6, "L, the number of blocks", low=1)
    n_head: int = setting(6, "H, the number of query heads", low=1)
    dropout: float = setting(
        0.0,
        "share of activations dropped",
        short="share of activations dropped",
        low=0.0,
        below=1.0,
        flag=True,
        metavar="P",
    )
    # Above 0 it costs the fast attention kernel.
    attn_dropout: float = setting(
        0.0,
        "share of attention probabilities dropped; above 0 the fast attention kernel is not used",
        low=0.0,
        below=1.0,
    )
    activation: str = setting(
        "gelu_tanh",
        "activation of the gelu and geglu MLPs: GPT-2's tanh form, or exact GELU",
        choices=tuple(ACTIVATIONS),
    )
    # Gemma 2's soft cap: logits become cap tanh(logits / cap).
    logit_cap: float = setting(
        0.0, "soft cap of the logits: cap tanh(logits / cap), as in Gemma 2; 0: off", low=0.0, high=1e6
    )
    n_kv_head: int = setting(
        0, "heads of keys and values, each shared by n_head / n_kv_head query heads; 0: n_head", low=0
    )
    head_dim: int = setting(0, "D = d_k, the width of a head; 0: n_embd / n_head", low=0)
    n_inner: int = setting(
        0, "width of the MLP; 0: 4 n_embd, or for swiglu and geglu 8/3 n_embd in multiples of 64", low=0
    )
    positions: str = setting(
        "learned", "learned position embeddings, or rotated queries and keys", choices=tuple(POSITIONS)
    )
    rope_base: float = setting(10000.0, "base of the rotary frequencies", above=1.0, high=1e12)
    rope_scaling: str = setting("none", "how rotary positions are scaled to extend the context", choices=SCALINGS)
    rope_factor: float = setting(1.0, "factor by which the context was extended", low=1.0, high=1e6)
    # llama3's scaling needs the context before it was extended.
    rope_trained: int = setting(
        0, "context in tokens before it was extended, for llama3; 0: n_positions / rope_factor", low=0
    )
    rope_local_base: float = setting(
        0.0, "base in the layers that have a window, without scaling; 0: rope_base", low=0.0, high=1e12
    )
    rotary_pct: float = setting(1.0, "share of each head that is rotated, its first numbers", above=0.0, high=1.0)
    norm: str = setting("layernorm", "normalization layer", choices=tuple(NORMS))
    norm_eps: float = setting(1e-5, "epsilon of the norms", above=0.0, below=1.0)
    qk_norm: bool = setting(False, "normalize queries and keys in each head")
    post_norms: bool = setting(False, "normalize also what attention and MLP add to the residual stream")
    mlp: str = setting("gelu", "kind of MLP in a block", choices=tuple(MLPS))
    bias: bool = setting(True, "biases in the linear layers and in layernorm")
    qkv_bias: str = setting("auto", "biases of queries, keys and values; auto: as bias", choices=QKV_BIASES)
    parallel_residual: bool = setting(False, "attention and MLP read the same input, and both are added to it")
    attn_scale: float = setting(0.0, "factor of the attention scores; 0: 1 / sqrt(d_k)", low=0.0, high=1e6)
    scale_embeddings: bool = setting(False, "multiply the token embeddings by sqrt(n_embd)")
    tied_head: bool = setting(True, "the output head shares the weights of the token embedding")
    window: int = setting(
        0, "number of tokens that a layer of window_layers attends to, with the current one; 0: all", low=0
    )
    window_layers: str = setting("all", "layers with a window: all, or numbers such as 0,2,4")

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_heads()
        self._check_rope()
        self._check_window_layers()
        if self.post_norms and self.parallel_residual:
            raise ConfigError(
                "post_norms=true and parallel_residual=true cannot be combined: no published model has both; "
                "leave one of them out"
            )

    def __repr__(self) -> str:
        """Return the sizes, and every other setting that is not the default."""
        sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shown = [f.name for f in fields(self) if f.name in sizes or values[f.name] != f.default]
        return f"ModelConfig({', '.join(f'{name}={values[name]!r}' for name in shown)})"

    def _check_heads(self) -> None:
        if not self.head_dim and self.n_embd % self.n_head:
            below = self.n_embd - self.n_embd % self.n_head
            nearest = " or ".join(f"n_embd={n}" for n in (below, below + self.n_head) if n > 0)
            raise ConfigError(f"n_embd={self.n_embd} does not divide into n_head={self.n_head} heads; try {nearest}")
        if self.n_head % self.kv_heads:
            raise ConfigError(
                f"n_head={self.n_head} query heads cannot share n_kv_head={self.n_kv_head} evenly; "
                f"n_kv_head can be {divisors(self.n_head)}"
            )

    def _check_rope(self) -> None:
        if POSITIONS[self.positions].rotary:
            self._check_rotary_dims()
        elif self.rope_scaling != "none":
            raise ConfigError(
                f"rope_scaling={self.rope_scaling} scales rotary positions, and positions={self.positions}; "
                "add positions=rope, or leave it out"
            )
        elif self.rotary_pct != 1.0 or self.rope_local_base:
            name = "rope_local_base" if self.rope_local_base else "rotary_pct"
            raise ConfigError(
                f"{name}={getattr(self, name):g} is for rotary positions, and positions={self.positions}; "
                "add positions=rope, or leave it out"
            )
        if self.rope_scaling == "none" and self.rope_factor != 1.0:
            raise ConfigError(
                f"rope_factor={self.rope_factor:g} has no effect without a scaling; add rope_scaling=linear or llama3"
            )

    def _check_rotary_dims(self) -> None:
        if 0 < self.rope_local_base <= 1.0:
            raise ConfigError(
                f"rope_local_base={self.rope_local_base:g} cannot be used; it must be above 1, or 0 for rope_base"
            )
        D, R = self.head_size, self.rotary_dims
        if R % 2 and R == D:
            raise ConfigError(
                f"positions={self.positions} turns pairs of numbers, and a head has d_k={D}, "
                f"which is odd; try head_dim={D + 1}, or another n_head"
            )
        if R < 2 or R % 2:
            even = R - R % 2
            nearest = [n for n in (even, even + 2) if 0 < n <= D]
            raise ConfigError(
                f"rotary_pct={self.rotary_pct:g} rotates {R} of the {D} numbers of a head, and they turn in pairs; "
                f"try {' or '.join(f'rotary_pct={n / D:g}' for n in nearest)}"
            )

    def _check_window_layers(self) -> None:
        words = [] if self.window_layers == "all" else str(self.window_layers).split(",")
        for word in words:
            # At most 9 digits: Python refuses to parse numbers of thousands.
            is_number = isinstance(self.window_layers, str) and word.strip().isdecimal() and len(word) < 10
            if not is_number or int(word) >= self.n_layer:
                raise ConfigError(
                    f"window_layers={repr_short(self.window_layers)} cannot be used; write all, or numbers of layers "
                    f"from 0 to {self.n_layer - 1} with commas between: 0,2,4"
                )

    @property
    def head_size(self) -> int:
        """Return D, d_k: by default d_model / n_head."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Return the number of heads of the keys and values."""
        return self.n_kv_head or self.n_head

    @property
    def rotary_dims(self) -> int:
        """Return R, how many numbers of each head are rotated; the fraction of a number is dropped, as elsewhere."""
        return int(self.head_size * self.rotary_pct)

    @property
    def has_qkv_bias(self) -> bool:
        """Return whether queries, keys and values have biases."""
        return self.bias if self.qkv_bias == "auto" else self.qkv_bias == "yes"

    @property
    def inner_size(self) -> int:
        """Return the width of the MLP. A gated MLP has three matrices instead of two, so its default is narrower."""
        if self.n_inner:
            return self.n_inner
        return -(-8 * self.n_embd // (3 * 64)) * 64 if MLPS[self.mlp].gated else 4 * self.n_embd

    @property
    def rope_trained_on(self) -> int:
        """Return the context before scaling, in tokens."""
        return self.rope_trained or max(1, round(self.n_positions / self.rope_factor))

    def window_size(self, layer: int) -> int:
        """Return how many tokens a layer sees at most; 0 if it sees all."""
        has_window = self.window_layers == "all" or layer in map(int, self.window_layers.split(","))
        return self.window if has_window else 0

    def describe_variant(self) -> str:
        """Return how the model differs from GPT-2; empty if it does not.

        >>> ModelConfig.micro().describe_variant(), ModelConfig.preset("llama-micro").describe_variant()
        ('', 'rope, rmsnorm, swiglu, no biases, 2 heads of keys')
        """
        windows = sum(self.window_size(layer) > 0 for layer in range(self.n_layer)) if self.window else 0
        scaling = "" if self.rope_scaling == "none" else f" {self.rope_scaling} x {self.rope_factor:g}"
        share = "" if self.rotary_pct == 1.0 else f" in {self.rotary_dims} of {self.head_size} numbers of a head"
        base = f" with rope base {self.rope_local_base:g}" if self.rope_local_base else ""
        words = [
            f"{POSITIONS[self.positions].label}{share}{scaling}",
            NORMS[self.norm].label,
            MLPS[self.mlp].label,
            ACTIVATIONS[self.activation] if MLPS[self.mlp].uses_activation else "",
            "no biases" if not self.bias else "",
            "" if self.has_qkv_bias == self.bias else f"{'' if self.has_qkv_bias else 'no '}biases of q, k and v",
            f"{self.kv_heads} head{'s' * (self.kv_heads > 1)} of keys" if self.kv_heads != self.n_head else "",
            "qk-norm" if self.qk_norm else "",
            "norms after the branches" if self.post_norms else "",
            "parallel branches" if self.parallel_residual else "",
            f"scores times {self.attn_scale:g}" if self.attn_scale else "",
            "scaled embeddings" if self.scale_embeddings else "",
            "an untied head" if not self.tied_head else "",
            f"logits within {self.logit_cap:g}" if self.logit_cap else "",
            f"windows of {self.window:,} in {windows} of {self.n_layer} layers{base}" if windows else "",
        ]
        return ", ".join(word for word in words if word)

    @classmethod
    def nano(cls, **changes: Any) -> "ModelConfig":
        """Return the preset of 12.5 M parameters (with GPT-2's vocabulary)."""
        return cls.preset("nano", **changes)

    @classmethod
    def micro(cls, **changes: Any) -> "ModelConfig":
        """Return the default preset, of 30,339,456 parameters (with GPT-2's vocabulary)."""
        return cls.preset("micro", **changes)

    @classmethod
    def small(cls, **changes: Any) -> "ModelConfig":
        """Return the preset of 51.5 M parameters (with GPT-2's vocabulary)."""
        return cls.preset("small", **changes)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "ModelConfig":
        """Return a preset by name, with any field changed. Raises ConfigError for an unknown name."""
        return cls(**(preset_settings(name) | changes))


def preset_settings(name: str) -> dict[str, Any]:
    """Return the fields that a preset sets. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset {repr_short(name)}{did_you_mean(str(name), PRESETS)} "
            f"The presets are {', '.join(PRESETS)}"
        )
    return dict(PRESETS[name])
