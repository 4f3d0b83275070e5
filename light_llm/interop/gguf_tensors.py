"""The tensors and fields of a GGUF file, without those of its tokenizer.

llama.cpp knows a family by name and computes it in one way. Settings that it ignores are refused here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..checkpoint import ModelFile
from ..config import ModelConfig, get_model_size
from ..config.choices import POSITIONS
from ..errors import ConfigError
from ..text_format import format_count
from .architectures import Family, family_of
from .gguf_formats import BLOCKS, FILE_TYPES
from .gguf_mapping import ROPE_FREQS, parts_of, rope_factors


def check_can_be_gguf(config: ModelConfig) -> None:
    """Raise ConfigError for a model that llama.cpp does not have, or a setting that it would ignore."""
    family = family_of(config)
    if family.gguf is None:
        raise ConfigError(f"llama.cpp has no {family.title}; export for Hugging Face")
    problems = [
        f"{name}={value} is not what its {family.title} has; train with {name}={' or '.join(supported)}"
        for name, supported in family.gguf.supported.items()
        if (value := getattr(config, name)) not in supported
    ]
    # A window as long as the context hides nothing.
    if any(0 < config.window_size(layer) < config.n_positions for layer in range(config.n_layer)):
        problems.append(f"its {family.title} has no windows, here window={config.window}; train with window=0")
    if problems:
        raise ConfigError(
            f"llama.cpp would compute another model from a GGUF file of this one: {problems[0]}, "
            "or export for Hugging Face"
        )


def gguf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by GGUF's names, float32, in the order in which they are written.

    GPT-2 needs its biases, so zeros are written for a model without.
    """
    family = family_of(config)
    with_biases = replace(config, bias=config.bias or family.always_biased)
    tensors: dict[str, Tensor] = {}
    for name, parts in parts_of(with_biases, family):
        sizes = [part.shape[0] for part in parts]
        whole = state[name] if name in state else torch.zeros(sum(sizes))
        tensors |= {part.name: part.to_file(rows) for part, rows in zip(parts, whole.split(sizes), strict=True)}
    if config.rope_scaling == "llama3":
        tensors[ROPE_FREQS] = rope_factors(config)
    return tensors


def metadata(config: ModelConfig, file: ModelFile, dtype: str) -> dict[str, Any]:
    """Return the fields of the file by name, without those of the tokenizer. No author, path or date is written."""
    family = family_of(config)
    # The convention of GGUF file names: 30.3M.
    size = format_count(get_model_size(config)).upper()
    fields: dict[str, Any] = {
        "general.architecture": family.name,
        "general.type": "model",
        "general.name": f"light-llm {size}",
        "general.size_label": size,
        "general.description": _description(family, file),
        "general.file_type": FILE_TYPES[dtype],
    }
    if dtype in BLOCKS:
        fields["general.quantization_version"] = 2
    eps = "attention.layer_norm_rms_epsilon" if config.norm == "rmsnorm" else "attention.layer_norm_epsilon"
    numbers: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.n_head,
        eps: config.norm_eps,
    }
    if POSITIONS[config.positions].rotary:
        numbers |= {
            "attention.head_count_kv": config.kv_heads,
            "attention.key_length": config.head_size,
            "attention.value_length": config.head_size,
            "rope.dimension_count": config.head_size,
            "rope.freq_base": config.rope_base,
        }
    if config.rope_scaling == "linear":
        numbers |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor}
    return fields | {f"{family.name}.{name}": value for name, value in numbers.items()}


def _description(family: Family, file: ModelFile) -> str:
    """Return one sentence on how the model was trained, with the numbers that its run recorded."""
    meta, parts = file.meta, [f"A {family.title} made with light-llm {__version__}"]
    if steps := meta.get("step"):
        parts.append(f"trained for {steps:,} steps")
    if window := file.data.get("max_length"):
        parts.append(f"on windows of {window:,} tokens")
    held_out = meta.get("evaluation") or {}
    if "loss" in held_out and "bits_per_byte" in held_out:
        parts.append(f"held-out loss {held_out['loss']:.3f} nats a token, {held_out['bits_per_byte']:.3f} bits a byte")
    return ", ".join(parts)
