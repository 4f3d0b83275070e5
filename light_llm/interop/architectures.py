"""The model families that other programs know, one row each: GPT-2, Llama and Qwen3.

Another program builds a model from the name of its family and a few sizes. A combination of settings that no family
has cannot be written for it, and a file that is nearly right gives text that is nearly right, so it is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..config import ModelConfig, block_shapes, outer_shapes, repr_short
from ..errors import ConfigError

REQUIRED = object()  # the default of a field that config.json must have


@dataclass(frozen=True)
class ConfigField:
    """A setting of ModelConfig and the field of config.json that holds it, for reading and writing."""

    setting: str
    key: str
    default: Any = REQUIRED  # where config.json has no such field; true or false: the field must be one of them
    also: str = ""  # a second name, whose value must agree
    fallback: str = ""  # an older name, used only where neither of the others is there
    written: str = ""  # the attribute of ModelConfig that is written; empty: `setting`
    values: Mapping[str, str] = field(default_factory=dict)  # in config.json to ours; the first of several is written


@dataclass(frozen=True)
class TensorNames:
    """The names that transformers gives the tensors of a family."""

    prefix: str  # of every name but lm_head.weight; a model saved without its head lacks it
    layers: str  # the list of blocks: `layers` gives `layers.0.`
    names: Mapping[str, tuple[str, ...]]  # by our name; several are the rows of one of ours, in this order
    transposed: tuple[str, ...] = ()  # of our names: stored as (in, out)


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


@dataclass(frozen=True)
class Family:
    """A model family: the settings that it fixes, and its names in config.json, in safetensors and in GGUF."""

    name: str  # `model_type` in config.json, `general.architecture` in GGUF
    title: str
    preset: str  # the preset of this family, which an error suggests
    classes: tuple[str, ...]  # in transformers; the first has the head for the next token
    required: Mapping[str, Any]  # settings of ModelConfig and the only value that the family has
    fields: tuple[ConfigField, ...]
    also_written: Callable[[ModelConfig], dict[str, Any]]  # fields of config.json that no setting is read from
    ignored: str  # fields of config.json that do not change the logits, besides those of every family
    tensors: TensorNames
    gguf: GGUFTraits | None  # None: llama.cpp does not have the family
    multi_head: bool = False  # as many heads of keys as of queries, of n_embd / n_head numbers
    needs_whole_heads: bool = False  # transformers refuses an n_embd that n_head does not divide, whatever head_dim is
    always_biased: bool = False  # its modules have biases: zeros are written for a model without
    layer_windows: bool = False  # config.json says for each layer whether it has the window

    def differences(self, config: ModelConfig) -> Iterator[str]:
        """Yield a clause for each setting that the family does not have."""
        for name, value in {**_USUAL, **self.required}.items():
            actual = getattr(config, name)
            if name == "window" and not has_window(config):
                actual = 0  # no layer uses it
            if actual != value:
                yield f"{name}={repr_short(actual)} has to be {repr_short(value)}"
        if self.multi_head and config.kv_heads != config.n_head:
            yield f"n_kv_head={config.n_kv_head} has to be n_head={config.n_head}"
        if self.multi_head and config.head_size * config.n_head != config.n_embd:
            usual = config.n_embd / config.n_head
            yield f"head_dim={config.head_size} has to be n_embd / n_head, which is {usual:g}"


# What connects the parts of a block in most families; a family that differs says so in `required`.
_USUAL: dict[str, Any] = {
    "qkv_bias": "auto",
    "parallel_residual": False,
    "rotary_pct": 1.0,
    "rope_local_base": 0.0,
    "attn_scale": 0.0,
    "scale_embeddings": False,
    "post_norms": False,
}


def has_window(config: ModelConfig) -> bool:
    """Return whether any layer attends to a sliding window."""
    return any(config.window_size(layer) for layer in range(config.n_layer))


# All names that a GPT-2 can have; transformers uses ours, because ours are GPT-2's.
_UNTIED = ModelConfig(tied_head=False)
_GPT2_TENSORS = TensorNames(
    prefix="transformer.",
    layers="h",
    names={name: (name,) for name in (*outer_shapes(_UNTIED), *block_shapes(_UNTIED))},
    # transformers' Conv1D computes x W.
    transposed=("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
)
NANOGPT_TENSORS = replace(_GPT2_TENSORS, transposed=())  # the same names over nn.Linear
_LLAMA_TENSORS = TensorNames(
    prefix="model.",
    layers="layers",
    names={
        "wte.weight": ("embed_tokens.weight",),
        "ln_1.weight": ("input_layernorm.weight",),
        "attn.c_attn.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
        "attn.q_norm.weight": ("self_attn.q_norm.weight",),
        "attn.k_norm.weight": ("self_attn.k_norm.weight",),
        "attn.c_proj.weight": ("self_attn.o_proj.weight",),
        "ln_2.weight": ("post_attention_layernorm.weight",),
        "mlp.c_gate.weight": ("mlp.gate_proj.weight",),
        "mlp.c_fc.weight": ("mlp.up_proj.weight",),
        "mlp.c_proj.weight": ("mlp.down_proj.weight",),
        "ln_f.weight": ("norm.weight",),
        "lm_head.weight": ("lm_head.weight",),
    },
)
_GPT2_FIELDS = (
    ConfigField("vocab_size", "vocab_size"),
    ConfigField("n_positions", "n_positions", also="max_position_embeddings", fallback="n_ctx"),
    ConfigField("n_embd", "n_embd", also="hidden_size"),
    ConfigField("n_layer", "n_layer", also="num_hidden_layers"),
    ConfigField("n_head", "n_head", also="num_attention_heads"),
    ConfigField("n_inner", "n_inner", None, written="inner_size"),
    ConfigField(
        "activation",
        "activation_function",
        "gelu_new",
        values={  # three names of one formula, and two of the other
            "gelu_new": "gelu_tanh",
            "gelu_pytorch_tanh": "gelu_tanh",
            "gelu_fast": "gelu_tanh",
            "gelu": "gelu",
            "gelu_python": "gelu",
        },
    ),
    ConfigField("norm_eps", "layer_norm_epsilon", 1e-5),
    ConfigField("dropout", "resid_pdrop", 0.1),
    ConfigField("attn_dropout", "attn_pdrop", 0.1),
    ConfigField("tied_head", "tie_word_embeddings", True),
)
_LLAMA_FIELDS = {
    known.setting: known
    for known in (
        ConfigField("vocab_size", "vocab_size"),
        ConfigField("n_positions", "max_position_embeddings"),
        ConfigField("n_embd", "hidden_size"),
        ConfigField("n_layer", "num_hidden_layers"),
        ConfigField("n_head", "num_attention_heads"),
        ConfigField("n_kv_head", "num_key_value_heads", None, written="kv_heads"),
        ConfigField("head_dim", "head_dim", None, written="head_size"),
        ConfigField("n_inner", "intermediate_size", written="inner_size"),
        ConfigField("norm_eps", "rms_norm_eps", 1e-6),
        ConfigField("attn_dropout", "attention_dropout", 0.0),
        ConfigField("tied_head", "tie_word_embeddings", False),
    )
}
_QWEN3_FIELDS = _LLAMA_FIELDS | {
    # transformers fills a missing head_dim with 128. It fills a missing number of key heads with 32 whatever n_head is,
    # so here that field is required.
    "n_kv_head": replace(_LLAMA_FIELDS["n_kv_head"], default=REQUIRED),
    "head_dim": replace(_LLAMA_FIELDS["head_dim"], default=128),
}
_ROTARY: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "logit_cap": 0.0}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="gpt2",
            title="GPT-2",
            preset="micro",
            classes=("GPT2LMHeadModel", "GPT2Model"),
            required={
                "positions": "learned",
                "norm": "layernorm",
                "mlp": "gelu",
                "qk_norm": False,
                "logit_cap": 0.0,
                "window": 0,
            },
            multi_head=True,
            always_biased=True,
            fields=_GPT2_FIELDS,
            # llama.cpp's converter reads n_ctx. Our dropout is GPT-2's resid_pdrop and embd_pdrop.
            also_written=lambda config: {
                "n_ctx": config.n_positions,
                "embd_pdrop": config.dropout,
                "scale_attn_weights": True,
            },
            ignored="n_ctx embd_pdrop reorder_and_upcast_attn summary_type summary_use_proj summary_activation "
            "summary_proj_to_labels summary_first_dropout",
            tensors=_GPT2_TENSORS,
            gguf=GGUFTraits({"activation": ("gelu_tanh",)}, fused_qkv=True),
        ),
        Family(
            name="llama",
            title="Llama",
            preset="llama-micro",
            classes=("LlamaForCausalLM", "LlamaModel"),
            required=_ROTARY | {"qk_norm": False, "window": 0},
            needs_whole_heads=True,
            fields=tuple(_LLAMA_FIELDS.values()),
            also_written=lambda config: {
                "hidden_act": "silu",
                "attention_bias": False,
                "mlp_bias": False,
                "pretraining_tp": 1,
            },
            ignored="",
            tensors=_LLAMA_TENSORS,
            gguf=GGUFTraits({"rope_scaling": ("none", "linear", "llama3")}, interleaved=True),
        ),
        Family(
            name="qwen3",
            title="Qwen3",
            preset="llama-micro",
            classes=("Qwen3ForCausalLM", "Qwen3Model"),
            required=_ROTARY | {"qk_norm": True},
            layer_windows=True,
            fields=tuple(_QWEN3_FIELDS.values()),
            also_written=lambda config: {"hidden_act": "silu", "attention_bias": False},
            ignored="",
            tensors=_LLAMA_TENSORS,
            gguf=GGUFTraits({"rope_scaling": ("none", "linear")}),
        ),
    )
}


def family_of(config: ModelConfig) -> Family:
    """Return the family that a model belongs to. Sizes, vocabulary, context and a tied head are free in all of them.

    Raises ConfigError with the nearest family, and each setting that differs from it.

    >>> [family_of(ModelConfig.preset(name)).name for name in ("micro", "llama-micro")]
    ['gpt2', 'llama']
    """
    differences = {name: list(family.differences(config)) for name, family in FAMILIES.items()}
    # Several families can be equally near: a window is one setting from Llama, and from Qwen3.
    fewest = min(map(len, differences.values()))
    nearest = [FAMILIES[name] for name, clauses in differences.items() if len(clauses) == fewest]
    if not fewest:
        return nearest[0]
    listed = " or ".join(f"{family.title}, where {'; '.join(differences[family.name])}" for family in nearest)
    raise ConfigError(
        f"other programs have no such model; the nearest is {listed}. It can be used with light-llm; for another "
        f"program, train one with {{--preset {nearest[0].preset}}} and change only its sizes"
    )


def trimmed_config(loaded: LoadedModel) -> ModelConfig:
    """Return the config with the vocabulary of the tokenizer.

    A token table may have been padded to a round number of rows. No text gives those ids, so they were never trained.
    """
    tokenizer, config = loaded.file.tokenizer, loaded.model.config
    return replace(config, vocab_size=tokenizer.vocab_size) if tokenizer else config


def trim_vocab(loaded: LoadedModel) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return `trimmed_config`, and the weights without rows of padding by our names, float32 on the CPU."""
    config = trimmed_config(loaded)
    state = {name: t.detach().to("cpu", torch.float32) for name, t in loaded.model.state_dict().items()}
    for name in state.keys() & {"wte.weight", "lm_head.weight"}:
        state[name] = state[name][: config.vocab_size].contiguous()
    return config, state
