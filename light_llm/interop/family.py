"""A model family of other programs: the settings that it fixes, and its names in their files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..config import ModelConfig, repr_short
from ..config.choices import MLPS, POSITIONS

REQUIRED = object()  # the default of a field that config.json must have
# Settings that are free in every family: sizes, and what changes no output in evaluation mode.
_FREE = {
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_kv_head", "head_dim", "n_inner"),
    *("norm_eps", "tied_head", "dropout", "attn_dropout"),
}
_ROPE = {"rope_base", "rope_scaling", "rope_factor", "rope_trained"}  # free in every family with rotary positions
_ROTARY_ONLY = {*_ROPE, "rotary_pct", "rope_local_base"}  # of no effect with other positions
_DEFAULTS = {known.name: known.default for known in fields(ModelConfig)}


@dataclass(frozen=True)
class ConfigField:
    """A setting of ModelConfig and the field of config.json that holds it, for reading and writing."""

    setting: str
    key: str
    default: Any = REQUIRED  # where config.json has no such field; true or false: the field must be one of them
    also: str = ""  # a second name, whose value must agree
    fallback: str = ""  # an older name, used only where neither of the others is there
    written: str = ""  # the attribute of ModelConfig that is written; empty: `setting`
    copies: tuple[str, ...] = ()  # more fields that the same value is written to
    values: Mapping[str, str] = field(default_factory=dict)  # in config.json to ours; the first of several is written


@dataclass(frozen=True)
class TensorNames:
    """The names that transformers gives the tensors of a family."""

    prefix: str  # of every name but the head; a model saved without its head lacks it
    layers: str  # the list of blocks: `layers` gives `layers.0.`
    names: Mapping[str, tuple[str, ...]]  # by our name; several are the rows of one of ours, in this order
    transposed: tuple[str, ...] = ()  # of our names: stored as (in, out)
    interleaved: tuple[str, ...] = ()  # of our names: rows by head, (H, 3, D), where ours are (3, H, D)

    @property
    def head(self) -> str:
        """The name of the output head, which has no prefix."""
        return self.names["lm_head.weight"][0]


@dataclass(frozen=True)
class Rope:
    """The fields of config.json with the rotation of a family, besides `rope_parameters` and `rope_scaling`."""

    base: str = "rope_theta"
    default_base: float = 10000.0
    share: str = ""  # the field with the share of a head that is rotated; empty: heads are rotated whole
    default_share: float = 1.0
    local_base: str = ""  # the field with the base of layers with a window; empty: it is that of the others
    default_local_base: float = 10000.0


@dataclass(frozen=True)
class GGUFTraits:
    """A family as llama.cpp computes it, read in its source: src/models/gpt2.cpp, llama.cpp, qwen3.cpp."""

    supported: Mapping[str, tuple[Any, ...]]  # values of a setting that it computes
    architecture: str = ""  # `general.architecture`; empty: the name of the family
    interleaved: bool = False  # its rotation pairs rows 2i and 2i + 1 of a head; ours pairs i and i + D/2
    fused_qkv: bool = False  # queries, keys and values are one tensor, as here
    partial_rotation: bool = False  # only the first numbers of a head may be rotated
    parallel_residual: bool = False  # attention and MLP may read the same input
    needs_head: bool = False  # a tied head is written as a second copy of the token table
    windows: bool = False  # some layers may attend to a sliding window, with another base of their rotation


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family: the settings that it fixes, and its names in config.json, in safetensors and in GGUF."""

    name: str  # `model_type` in config.json, `general.architecture` in GGUF
    title: str
    preset: str  # the preset nearest to this family, which an error suggests
    classes: tuple[str, ...]  # in transformers; the first has the head for the next token
    required: Mapping[str, Any]  # settings of ModelConfig and the only value that the family has; others: the default
    free: tuple[str, ...] = ()  # settings that it leaves open, besides those that every family does
    fields: tuple[ConfigField, ...]
    also_written: Callable[[ModelConfig], dict[str, Any]] = lambda config: {}  # fields that no setting is read from
    ignored: str = ""  # fields of config.json that do not change the logits, besides those of every family
    tensors: TensorNames
    rope: Rope = Rope()
    windows: str = ""  # the form in which config.json has them, a key of `hf_windows.FORMS`; empty: no windows
    gguf: GGUFTraits | None = None  # None: llama.cpp does not have the family
    multi_head: bool = False  # as many heads of keys as of queries, of n_embd / n_head numbers
    needs_whole_heads: bool = False  # transformers refuses an n_embd that n_head does not divide, whatever head_dim is
    always_biased: bool = False  # its modules have biases: zeros are written for a model without
    zero_biases: bool = False  # its files may hold biases of zeros that it does not have here

    def differences(self, config: ModelConfig) -> Iterator[str]:
        """Yield a clause for each setting that the family does not have."""
        free = _FREE.union(self.free)
        if POSITIONS[self.required["positions"]].rotary:
            free |= _ROPE
        if not MLPS[self.required["mlp"]].uses_activation:
            free.add("activation")
        if self.always_biased:
            free.add("bias")
        for name, default in _DEFAULTS.items():
            if name in free:
                continue
            value, actual = self.required.get(name, default), _effective(config, name)
            if name == "qkv_bias" and value == "auto":
                value = "yes" if config.bias else "no"
            if actual != value:
                yield f"{name}={repr_short(actual)} has to be {repr_short(value)}"
        if self.multi_head and config.kv_heads != config.n_head:
            yield f"n_kv_head={config.n_kv_head} has to be n_head={config.n_head}"
        if self.multi_head and config.head_size * config.n_head != config.n_embd:
            usual = config.n_embd / config.n_head
            yield f"head_dim={config.head_size} has to be n_embd / n_head, which is {usual:g}"


def has_window(config: ModelConfig) -> bool:
    """Return whether any layer attends to a sliding window."""
    return any(config.window_size(layer) for layer in range(config.n_layer))


def _effective(config: ModelConfig, name: str) -> Any:
    """Return the value of a setting; the default where another value changes nothing."""
    value = getattr(config, name)
    if name == "qkv_bias":
        return "yes" if config.has_qkv_bias else "no"
    if name in ("window", "window_layers", "rope_local_base") and not has_window(config):
        return _DEFAULTS[name]  # no layer uses it
    if name in _ROTARY_ONLY and config.positions in POSITIONS and not POSITIONS[config.positions].rotary:
        return _DEFAULTS[name]
    if name == "window_layers" and all(config.window_size(layer) for layer in range(config.n_layer)):
        return "all"
    if name == "rope_local_base" and value == config.rope_base:
        return 0.0
    if name == "attn_scale" and value == config.head_size**-0.5:
        return 0.0
    return value
