"""What transformers calls our weights, and how its `config.json` says what a model is. Pure: no file, no transformers.

Two things are different there, and each has a model that loads and writes nonsense where it is forgotten: GPT-2's
matrices are (in, out), and a tied head is no tensor of the file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig, block_shapes, outer_shapes
from ..errors import ConfigError
from ..layers.positions import HIGH, LOW
from .architectures import family_of, has_windows

CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_LLAMA_NAMES = {
    "ln_1.weight": "input_layernorm.weight",
    "attn.q_norm.weight": "self_attn.q_norm.weight",
    "attn.k_norm.weight": "self_attn.k_norm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "mlp.c_gate.weight": "mlp.gate_proj.weight",
    "mlp.c_fc.weight": "mlp.up_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
_LLAMA_OUTER = {"wte.weight": "model.embed_tokens.weight", "ln_f.weight": "model.norm.weight"}


def tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names, and in the shapes, that transformers gives them."""
    return _gpt2_tensors(config, state) if family_of(config) == "gpt2" else _llama_tensors(config, state)


def _gpt2_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each matrix transposed, as its Conv1D is x W + b; a bias that ours has not is zero there."""
    C = config.n_embd
    found = dict(state)
    for part in ("ln_f", *(f"h.{layer}.{name}" for layer in range(config.n_layer) for name in ("ln_1", "ln_2"))):
        found.setdefault(f"{part}.bias", torch.zeros(C))
    for layer in range(config.n_layer):
        for name in _TRANSPOSED:
            weight = found[f"h.{layer}.{name}"] = state[f"h.{layer}.{name}"].T.contiguous()
            found.setdefault(f"h.{layer}.{name.removesuffix('weight')}bias", torch.zeros(weight.size(1)))
    return {name if name == "lm_head.weight" else f"transformer.{name}": t for name, t in found.items()}


def _llama_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values apart; the pairs that turn are the same halves there."""
    rows = [heads * config.head_size for heads in (config.n_head, config.kv_heads, config.kv_heads)]
    found = {_LLAMA_OUTER.get(name, name): state[name] for name in outer_shapes(config)}
    for layer in range(config.n_layer):
        for name in block_shapes(config):
            tensor = state[f"h.{layer}.{name}"]
            if name == "attn.c_attn.weight":
                parts = zip("qkv", tensor.split(rows), strict=True)
                found |= {f"model.layers.{layer}.self_attn.{kind}_proj.weight": part for kind, part in parts}
            else:
                found[f"model.layers.{layer}.{_LLAMA_NAMES[name]}"] = tensor
    return found


def config_json(config: ModelConfig, *, separator: int | None, dtype: str) -> dict[str, Any]:
    """The content of `config.json`, for transformers 5 and, where it has other names, for older versions too.

    Raises:
        ConfigError: heads that transformers refuses in a Llama.
    """
    family = family_of(config)
    values: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "tie_word_embeddings": config.tied_head,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,  # its name before transformers 5
    }
    return values | (_gpt2_config(config) if family == "gpt2" else _llama_config(config, family))


def _gpt2_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,  # what llama.cpp reads
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.inner_size,
        "activation_function": {"gelu_tanh": "gelu_new", "gelu": "gelu"}[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attn_dropout,
        "scale_attn_weights": True,
    }


def _llama_config(config: ModelConfig, family: str) -> dict[str, Any]:
    if family == "llama" and config.n_embd % config.n_head:
        raise ConfigError(
            f"transformers refuses a Llama whose n_embd={config.n_embd} is no multiple of n_head={config.n_head}, "
            f"whatever head_dim says; train one with n_embd={-(-config.n_embd // config.n_head) * config.n_head}, "
            "or with qk_norm, which makes it a Qwen3"
        )
    rope = _rope(config)
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    values: dict[str, Any] = {
        "max_position_embeddings": config.n_positions,
        "hidden_size": config.n_embd,
        "intermediate_size": config.inner_size,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_base,  # this and the next: before transformers 5
        "rope_scaling": None if config.rope_scaling == "none" else scaling,
        "attention_bias": False,
        "attention_dropout": config.attn_dropout,
    }
    if family == "llama":
        return values | {"mlp_bias": False, "pretraining_tp": 1}
    kinds = ["sliding_attention" if config.window_size(i) else "full_attention" for i in range(config.n_layer)]
    windows = has_windows(config)
    sliding = {"use_sliding_window": windows, "sliding_window": config.window if windows else None}
    return values | sliding | {"layer_types": kinds, "max_window_layers": config.n_layer}


def _rope(config: ModelConfig) -> dict[str, Any]:
    """How positions turn, as transformers 5 has it."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_scaling != "none":
        rope |= {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        rope |= {"low_freq_factor": LOW, "high_freq_factor": HIGH}
        rope |= {"original_max_position_embeddings": config.rope_trained_on}
    return rope
