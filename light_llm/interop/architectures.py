"""The model families that other programs know, one row each, from GPT-2 to Gemma 3.

Another program builds a model from the name of its family and a few sizes. A combination of settings that no family
has cannot be written for it, and a file that is nearly right gives text that is nearly right, so it is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..config import ModelConfig
from ..errors import ConfigError
from . import tensor_names
from .family import REQUIRED, ConfigField, GGUFTraits, Rope
from .family import Family as Family
from .family import has_window as has_window

_GELUS = {  # five names of one formula, and two of the other
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
}
# The first name of several is written: each family has its own.
_NEOX_GELUS = {"gelu": "gelu", **_GELUS}
_GEMMA_GELUS = {"gelu_pytorch_tanh": "gelu_tanh", **_GELUS}
_GPT2_FIELDS = (
    ConfigField("vocab_size", "vocab_size"),
    ConfigField("n_positions", "n_positions", also="max_position_embeddings", fallback="n_ctx"),
    ConfigField("n_embd", "n_embd", also="hidden_size"),
    ConfigField("n_layer", "n_layer", also="num_hidden_layers"),
    ConfigField("n_head", "n_head", also="num_attention_heads"),
    ConfigField("n_inner", "n_inner", None, written="inner_size"),
    ConfigField("activation", "activation_function", "gelu_new", values=_GELUS),
    ConfigField("norm_eps", "layer_norm_epsilon", 1e-5),
    ConfigField("dropout", "resid_pdrop", 0.1, copies=("embd_pdrop",)),
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
# transformers fills a missing number of key heads with one that does not depend on n_head, so it is required here.
_MISTRAL_FIELDS = _LLAMA_FIELDS | {"n_kv_head": replace(_LLAMA_FIELDS["n_kv_head"], default=REQUIRED)}
_QWEN3_FIELDS = _MISTRAL_FIELDS | {"head_dim": replace(_LLAMA_FIELDS["head_dim"], default=128)}
_GEMMA3_FIELDS = _MISTRAL_FIELDS | {
    "head_dim": replace(_LLAMA_FIELDS["head_dim"], default=256),
    "tied_head": replace(_LLAMA_FIELDS["tied_head"], default=True),
    "activation": ConfigField("activation", "hidden_activation", "gelu_pytorch_tanh", values=_GEMMA_GELUS),
    "logit_cap": ConfigField("logit_cap", "final_logit_softcapping", None),
}
_GPT_NEOX_FIELDS = (
    ConfigField("vocab_size", "vocab_size"),
    ConfigField("n_positions", "max_position_embeddings"),
    ConfigField("n_embd", "hidden_size"),
    ConfigField("n_layer", "num_hidden_layers"),
    ConfigField("n_head", "num_attention_heads"),
    ConfigField("n_inner", "intermediate_size", written="inner_size"),
    ConfigField("activation", "hidden_act", "gelu", values=_NEOX_GELUS),
    ConfigField("norm_eps", "layer_norm_eps", 1e-5),
    ConfigField("dropout", "hidden_dropout", 0.0),
    ConfigField("attn_dropout", "attention_dropout", 0.0),
    ConfigField("tied_head", "tie_word_embeddings", False),
    ConfigField("parallel_residual", "use_parallel_residual", True),
)
_GPT_NEO_FIELDS = (
    ConfigField("vocab_size", "vocab_size"),
    ConfigField("n_positions", "max_position_embeddings"),
    ConfigField("n_embd", "hidden_size"),
    ConfigField("n_layer", "num_layers", also="num_hidden_layers"),
    ConfigField("n_head", "num_heads", also="num_attention_heads"),
    ConfigField("n_inner", "intermediate_size", None, written="inner_size"),
    ConfigField("activation", "activation_function", "gelu_new", values=_GELUS),
    ConfigField("norm_eps", "layer_norm_epsilon", 1e-5),
    ConfigField("dropout", "resid_dropout", 0.0, copies=("embed_dropout",)),
    ConfigField("attn_dropout", "attention_dropout", 0.0),
    ConfigField("tied_head", "tie_word_embeddings", True),
)
_SCALINGS = ("none", "linear", "llama3")  # of rotations; the third only in llama.cpp's Llama
_GPT2: dict[str, Any] = {"positions": "learned", "norm": "layernorm", "mlp": "gelu"}
_ROTARY: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
_SUMMARY = "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="gpt2",
            title="GPT-2",
            preset="micro",
            classes=("GPT2LMHeadModel", "GPT2Model"),
            required=_GPT2,
            free=("activation",),
            fields=_GPT2_FIELDS,
            # llama.cpp's converter reads n_ctx.
            also_written=lambda config: {"n_ctx": config.n_positions, "scale_attn_weights": True},
            ignored=f"n_ctx embd_pdrop reorder_and_upcast_attn attention_bias {_SUMMARY}",
            tensors=tensor_names.GPT2,
            gguf=GGUFTraits({"activation": ("gelu_tanh",)}, fused_qkv=True),
            multi_head=True,
            always_biased=True,
        ),
        Family(
            name="llama",
            title="Llama",
            preset="llama-micro",
            classes=("LlamaForCausalLM", "LlamaModel"),
            required=_ROTARY,
            fields=tuple(_LLAMA_FIELDS.values()),
            also_written=lambda config: {
                "hidden_act": "silu",
                "attention_bias": False,
                "mlp_bias": False,
                "pretraining_tp": 1,
            },
            tensors=tensor_names.LLAMA,
            gguf=GGUFTraits({"rope_scaling": _SCALINGS}, interleaved=True),
            needs_whole_heads=True,
            zero_biases=True,
        ),
        Family(
            name="mistral",
            title="Mistral",
            preset="llama-micro",
            classes=("MistralForCausalLM", "MistralModel"),
            required=_ROTARY,
            free=("window",),
            fields=tuple(_MISTRAL_FIELDS.values()),
            also_written=lambda config: {"hidden_act": "silu"},
            tensors=tensor_names.LLAMA,
            windows="every layer",
            gguf=GGUFTraits({"rope_scaling": _SCALINGS}, architecture="llama", interleaved=True),
            zero_biases=True,
        ),
        Family(
            name="qwen2",
            title="Qwen2",
            preset="llama-micro",
            classes=("Qwen2ForCausalLM", "Qwen2Model"),
            required=_ROTARY | {"qkv_bias": "yes"},
            free=("window", "window_layers"),
            ignored="attention_bias",  # transformers does not read it for this family
            fields=tuple(_MISTRAL_FIELDS.values()),
            also_written=lambda config: {"hidden_act": "silu"},
            tensors=tensor_names.LLAMA,
            windows="layer types or first layer",
            gguf=GGUFTraits({"rope_scaling": _SCALINGS[:2]}),
        ),
        Family(
            name="qwen3",
            title="Qwen3",
            preset="llama-micro",
            classes=("Qwen3ForCausalLM", "Qwen3Model"),
            required=_ROTARY | {"qk_norm": True},
            free=("window", "window_layers"),
            fields=tuple(_QWEN3_FIELDS.values()),
            also_written=lambda config: {"hidden_act": "silu", "attention_bias": False},
            tensors=tensor_names.LLAMA,
            windows="layer types or first layer",
            gguf=GGUFTraits({"rope_scaling": _SCALINGS[:2]}),
            zero_biases=True,
        ),
        Family(
            name="gpt_neox",
            title="GPT-NeoX",
            preset="micro",
            classes=("GPTNeoXForCausalLM", "GPTNeoXModel"),
            required=_GPT2 | {"positions": "rope"},
            free=("activation", "parallel_residual", "rotary_pct"),
            fields=_GPT_NEOX_FIELDS,
            also_written=lambda config: {"attention_bias": True},
            rope=Rope(base="rotary_emb_base", share="rotary_pct", default_share=0.25),
            tensors=tensor_names.GPT_NEOX,
            # llama.cpp computes GELU's tanh form, whichever the model was trained with.
            gguf=GGUFTraits(
                {"activation": ("gelu", "gelu_tanh"), "rope_scaling": _SCALINGS[:2]},
                architecture="gptneox",
                fused_qkv=True,
                partial_rotation=True,
                parallel_residual=True,
                needs_head=True,
            ),
            multi_head=True,
            always_biased=True,
        ),
        Family(
            name="gpt_neo",
            title="GPT-Neo",
            preset="micro",
            classes=("GPTNeoForCausalLM", "GPTNeoModel"),
            required=_GPT2 | {"qkv_bias": "no", "attn_scale": 1.0},
            free=("activation", "window", "window_layers"),
            fields=_GPT_NEO_FIELDS,
            ignored=f"embed_dropout attention_layers attention_bias {_SUMMARY}",
            tensors=tensor_names.GPT_NEO,
            windows="attention types",
            multi_head=True,
            always_biased=True,
        ),
        Family(
            name="gemma3_text",
            title="Gemma 3",
            preset="llama-micro",
            classes=("Gemma3ForCausalLM", "Gemma3TextModel"),
            required=_ROTARY
            | {"norm": "rmsnorm1p", "mlp": "geglu", "qk_norm": True, "post_norms": True, "scale_embeddings": True},
            free=("activation", "window", "window_layers", "rope_local_base", "attn_scale", "logit_cap"),
            fields=tuple(_GEMMA3_FIELDS.values()),
            also_written=lambda config: {"attention_bias": False, "query_pre_attn_scalar": _query_scalar(config)},
            rope=Rope(default_base=1e6, local_base="rope_local_base_freq"),
            tensors=tensor_names.GEMMA3,
            gguf=GGUFTraits(
                {"activation": ("gelu_tanh",), "rope_scaling": _SCALINGS[:2], "logit_cap": (0.0,)},
                architecture="gemma3",
                windows=True,
            ),
            windows="layer types or pattern",
            needs_whole_heads=True,
            zero_biases=True,
        ),
    )
}


def _query_scalar(config: ModelConfig) -> int:
    """Return the number s whose 1 / sqrt(s) multiplies the scores. Raises ConfigError if it is not a whole one."""
    scalar = config.attn_scale**-2 if config.attn_scale else config.head_size
    if abs(scalar - round(scalar)) > 1e-6 * scalar:
        raise ConfigError(
            f"attn_scale={config.attn_scale:g} is 1 / sqrt({scalar:g}), and a Gemma 3 has a whole number there"
        )
    return round(scalar)


def family_of(config: ModelConfig, name: str = "") -> Family:
    """Return the family that a model belongs to. Sizes, vocabulary, context and a tied head are free in all of them.

    Args:
        name: of the family that a model came from; it is returned if the model still belongs to it. A Mistral without
            windows, for example, is a Llama as well.

    Raises ConfigError with the nearest family, and each setting that differs from it.

    >>> [family_of(ModelConfig.preset(name)).name for name in ("micro", "llama-micro")]
    ['gpt2', 'llama']
    """
    differences = {known: list(family.differences(config)) for known, family in FAMILIES.items()}
    if differences.get(name) == []:
        return FAMILIES[name]
    # Several families can be equally near: a window in one layer is one setting from Qwen2, and from Qwen3.
    fewest = min(map(len, differences.values()))
    nearest: dict[str, Family] = {}  # by what differs: a Mistral without windows differs as a Llama does
    for known, clauses in differences.items():
        if len(clauses) == fewest:
            nearest.setdefault("; ".join(clauses), FAMILIES[known])
    first = next(iter(nearest.values()))
    if not fewest:
        return first
    listed = " or ".join(f"{family.title}, where {clauses}" for clauses, family in nearest.items())
    raise ConfigError(
        f"other programs have no such model; the nearest is {listed}. It can be used with light-llm; for another "
        f"program, train one with {{--preset {first.preset}}} and change only its sizes"
    )


def origin_of(loaded: LoadedModel) -> Mapping[str, Any]:
    """Return the record of the import that a model, or the one it was fine-tuned from, came from; empty for ours."""
    meta = loaded.file.meta
    return meta.get("imported") or meta.get("base") or {}


def family_of_model(loaded: LoadedModel) -> Family:
    """Return the family that a model is exported to: the one it was imported from, if any. Raises ConfigError."""
    return family_of(loaded.model.config, str(origin_of(loaded).get("family", "")))


def trimmed_config(loaded: LoadedModel) -> ModelConfig:
    """Return the config with the vocabulary of the tokenizer.

    A token table may have been padded to a round number of rows. No text gives those ids, so they were never trained.
    An imported model keeps them: what came in goes out.
    """
    tokenizer, config = loaded.file.tokenizer, loaded.model.config
    if tokenizer is None or "family" in origin_of(loaded):
        return config
    return replace(config, vocab_size=tokenizer.vocab_size)


def trim_vocab(loaded: LoadedModel) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return `trimmed_config`, and the weights without rows of padding by our names, float32 on the CPU."""
    config = trimmed_config(loaded)
    state = {name: t.detach().to("cpu", torch.float32) for name, t in loaded.model.state_dict().items()}
    for name in state.keys() & {"wte.weight", "lm_head.weight"}:
        state[name] = state[name][: config.vocab_size].contiguous()
    return config, state
