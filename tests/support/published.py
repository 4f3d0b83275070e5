"""Folders as the hub has them: the config.json of published models, scaled down, with random weights of transformers.

Each value that decides the computation is that of the published model, except the sizes. The weights are large and
random in every tensor, norms and biases too, so that a part which is left out or misplaced changes the logits.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from light_llm.data.download import sha256_of

V, CONTEXT, LAYERS, WIDTH = 304, 160, 2, 64
_STD = 0.15  # of the random numbers that are added to every tensor
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": V,
}
_NOT_IN_MISTRAL = ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling")
_QWEN = {k: v for k, v in _LLAMA.items() if k not in ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling")}

# config.json by model. bos, eos and pad are the published ids where the scaled vocabulary has them.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {  # GPT-2 124M
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": V - 1,
        "embd_pdrop": 0.1,
        "eos_token_id": V - 1,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": CONTEXT,
        "n_embd": WIDTH,
        "n_head": 4,
        "n_layer": LAYERS,
        "n_positions": CONTEXT,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": V,
    },
    "smollm2": _LLAMA  # SmolLM2-135M-Instruct: 9 heads and 3 of keys
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "unk_token_id": 0,
        "hidden_size": 72,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "is_llama_config": True,
        "rope_interleaved": False,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    },
    "tinyllama": _LLAMA  # TinyLlama-1.1B
    | {"bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0, "tie_word_embeddings": False},
    "llama2-long": _LLAMA  # a Llama 2 whose context was extended, with the key `type` of that time
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_scaling": {"factor": 4.0, "type": "linear"},
        "tie_word_embeddings": False,
    },
    "llama3.2": _LLAMA  # Llama-3.2-1B
    | {
        "bos_token_id": V - 2,
        "eos_token_id": [V - 1, V - 3],
        "head_dim": 16,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    "mistral": {k: v for k, v in _LLAMA.items() if k not in _NOT_IN_MISTRAL}  # Mistral-7B-v0.1
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_theta": 10000.0,
        "sliding_window": 20,
        "tie_word_embeddings": False,
    },
    "mistral-v0.3": {k: v for k, v in _LLAMA.items() if k not in _NOT_IN_MISTRAL}
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "qwen2.5": _QWEN  # Qwen2.5-0.5B
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "bos_token_id": V - 1,
        "eos_token_id": V - 1,
        "max_window_layers": LAYERS,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": CONTEXT,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    "qwen2-windows": _QWEN  # a window from the second layer on
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "bos_token_id": V - 1,
        "eos_token_id": V - 1,
        "max_window_layers": 1,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 20,
        "tie_word_embeddings": False,
        "use_sliding_window": True,
    },
    "qwen3": _QWEN  # Qwen3-0.6B: heads wider than width / heads
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": V - 2,
        "eos_token_id": V - 1,
        "head_dim": 32,
        "max_window_layers": LAYERS,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "pythia": {  # Pythia-160m
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 4 * WIDTH,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": CONTEXT,
        "model_type": "gpt_neox",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": V,
    },
    "tinystories": {  # TinyStories-33M
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"],
        "attention_types": [[["global", "local"], 1]],
        "bos_token_id": V - 1,
        "embed_dropout": 0,
        "eos_token_id": V - 1,
        "gradient_checkpointing": False,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": CONTEXT,
        "model_type": "gpt_neo",
        "num_heads": 4,
        "num_layers": LAYERS,
        "resid_dropout": 0,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torch_dtype": "float32",
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": V,
        "window_size": 20,
    },
    "gemma3": {  # Gemma-3-270m: every sixth layer is full there, every second here
        "_sliding_window_pattern": 2,
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": CONTEXT,
        "model_type": "gemma3_text",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 48,  # not the size of a head, as in the larger models
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": 20,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.55.0.dev0",
        "use_bidirectional_attention": False,
        "use_cache": True,
        "vocab_size": V,
    },
}
# The first published model of each family, by model_type.
FAMILIES = {config["model_type"]: name for name, config in reversed(CONFIGS.items())}


def reference(name: str, *, seed: int = 3, **changes: Any) -> Any:
    """Return a published model as transformers makes it: float32, in evaluation mode, random in every tensor.

    Args:
        changes: of fields of its config.json, such as `vocab_size` of a tokenizer.
    """
    values = deepcopy(CONFIGS[name] | changes)  # transformers adds to the objects in it
    config = transformers.AutoConfig.for_model(**values)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # The gains of norms stay near 1 (or 0, in Gemma), and all others start from 0.
            start = parameter if parameter.ndim == 1 else torch.zeros(())
            parameter.copy_(start + _STD * torch.randn(parameter.shape))
        if values["model_type"] == "gemma3_text":
            # Its embeddings are large, and with a tied head it would say the same token for ever.
            for layer in model.model.layers:
                layer.post_attention_layernorm.weight.add_(8.0)
    return model.eval()


def write_folder(
    folder: Path,
    name: str,
    *,
    dtype: str = "",
    shards: bool = False,
    files: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Any:
    """Write the folder of a published model, and return the model as `reference` does, with the rounded weights.

    Args:
        dtype: of the weights; empty for the published one.
        shards: several files of weights and an index.
        files: more files, such as a tokenizer.
    """
    values = CONFIGS[name] | changes
    dtype = dtype or values.get("torch_dtype", "float32")
    model = reference(name, **changes)
    transformers.utils.logging.disable_progress_bar()
    # A copy, because `to` would round the frequencies of the rotation as well.
    deepcopy(model).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="40KB" if shards else "5GB")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    if "torch_dtype" in values:
        values |= {"torch_dtype": dtype}
    # transformers has written a config.json of its own version, and the hub has that of the time of the model.
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    for file, data in (files or {}).items():
        (folder / file).write_bytes(data)
    return model


def with_old_buffers(folder: Path) -> None:
    """Add the masks and frequencies that files of older versions of transformers hold, to a folder in one file."""
    path = folder / "model.safetensors"
    tensors, values = load_file(path), json.loads((folder / "config.json").read_text())
    mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    kind = values["model_type"]
    module = {
        "gpt2": "transformer.h.{}.attn",
        "gpt_neo": "transformer.h.{}.attn.attention",
        "gpt_neox": "gpt_neox.layers.{}.attention",
    }.get(kind, "model.layers.{}.self_attn")
    buffers: dict[str, Tensor] = {}
    if kind in ("gpt2", "gpt_neo", "gpt_neox"):
        buffers |= {"bias": mask, "masked_bias": torch.tensor(-1e9)}
    if kind not in ("gpt2", "gpt_neo"):
        buffers |= {"rotary_emb.inv_freq": torch.ones(4)}
    for layer in range(LAYERS):
        tensors |= {f"{module.format(layer)}.{name}": tensor.clone() for name, tensor in buffers.items()}
    save_file(tensors, path, {"format": "pt"})


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder by name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
