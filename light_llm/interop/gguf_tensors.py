"""The tensors and fields of a GGUF file, without those of its tokenizer.

llama.cpp knows a family by name and computes it in one way. Settings that it ignores are refused here.
"""

import math
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
from .architectures import Family, family_of, has_window
from .gguf_config import GEMMA_27B, GEMMA_PERIOD, HEAD, HIDDEN_ACTIVATION, TABLE
from .gguf_formats import BLOCKS, FILE_TYPES
from .gguf_mapping import ROPE_FREQS, parts_of, rope_factors


def check_can_be_gguf(config: ModelConfig) -> None:
    """Raise ConfigError for a model that llama.cpp does not have, or a setting that it would ignore."""
    family = family_of(config)
    if family.gguf is None:
        raise ConfigError(f"llama.cpp has no {family.title}; export for Hugging Face")
    problems = [
        f"{name}={value} is not what its {family.title} has; train with {name}={' or '.join(map(str, supported))}"
        for name, supported in family.gguf.supported.items()
        if (value := getattr(config, name)) not in supported
    ]
    problems += _window_problems(config, family) if has_window(config) else []
    if config.attn_scale and not math.isclose(config.attn_scale, score_scale(config, family)):
        problems.append(f"attn_scale={config.attn_scale:g} is not what its {family.title} has; train with attn_scale=0")
    if problems:
        raise ConfigError(
            f"llama.cpp would compute another model from a GGUF file of this one: {problems[0]}, "
            "or export for Hugging Face"
        )


def _window_problems(config: ModelConfig, family: Family) -> list[str]:
    """Return a clause on windows that the family does not have there."""
    if not (family.gguf and family.gguf.windows):
        # A window as long as the context hides nothing.
        hides = any(0 < config.window_size(layer) < config.n_positions for layer in range(config.n_layer))
        return [f"its {family.title} has no windows, here window={config.window}; train with window=0"] * hides
    if window_period(config) is None:
        return [
            f"its {family.title} has a full layer after every so many with a window, here "
            f"window_layers={config.window_layers}; train with window_layers=0,1,2,3,4 (6 layers)"
        ]
    if config.rope_scaling != "none" and not config.rope_local_base:
        return [
            f"its {family.title} does not scale the rotation of layers with a window; set rope_local_base to the base "
            "that they have"
        ]
    return []


def score_scale(config: ModelConfig, family: Family) -> float:
    """Return the factor of the attention scores in llama.cpp; its largest Gemma 3 has another one."""
    is_27b = family.gguf is not None and family.gguf.windows and config.n_layer == GEMMA_27B
    return (config.n_embd / config.n_head if is_27b else config.head_size) ** -0.5


def window_period(config: ModelConfig) -> int | None:
    """Return p if the layers i with i mod p < p - 1 have the window; 0 if all layers do, None for other layers.

    Gemma's 6 is preferred, because older versions of llama.cpp know no other.
    """
    layers = [bool(config.window_size(i)) for i in range(config.n_layer)]
    for period in (GEMMA_PERIOD, *range(1, config.n_layer + 1)):
        if layers == [i % period < period - 1 for i in range(config.n_layer)]:
            return period
    return 0 if all(layers) else None


def gguf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by GGUF's names, float32, in the order in which they are written.

    A model may lack tensors of its family: biases are written as zeros, and a tied head as a copy of the table.
    """
    family = family_of(config)
    with_biases = replace(config, bias=config.bias or family.always_biased)
    tensors: dict[str, Tensor] = {}
    for name, parts in parts_of(with_biases, family):
        sizes = [part.shape[0] for part in parts]
        whole = state[name] if name in state else torch.zeros(sum(sizes))
        tensors |= {part.name: part.to_file(rows) for part, rows in zip(parts, whole.split(sizes), strict=True)}
    if family.gguf and family.gguf.needs_head and config.tied_head:
        tensors[HEAD] = tensors[TABLE]
    if config.rope_scaling == "llama3":
        tensors[ROPE_FREQS] = rope_factors(config)
    return tensors


def metadata(config: ModelConfig, file: ModelFile, dtype: str) -> dict[str, Any]:
    """Return the fields of the file by name, without those of the tokenizer. No author, path or date is written."""
    family = family_of(config)
    architecture = (family.gguf and family.gguf.architecture) or family.name
    # The convention of GGUF file names: 30.3M.
    size = format_count(get_model_size(config)).upper()
    fields: dict[str, Any] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": f"light-llm {size}",
        "general.size_label": size,
        "general.description": _description(family, file),
        "general.file_type": FILE_TYPES[dtype],
    }
    if dtype in BLOCKS:
        fields["general.quantization_version"] = 2
    return fields | {f"{architecture}.{name}": value for name, value in _sizes(config, family).items()}


def _sizes(config: ModelConfig, family: Family) -> dict[str, Any]:
    """Return the fields under the name of the architecture, without it."""
    kind = "layer_norm" if config.norm == "layernorm" else "layer_norm_rms"
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.n_head,
        f"attention.{kind}_epsilon": config.norm_eps,
    }
    if POSITIONS[config.positions].rotary:
        sizes |= {
            "attention.head_count_kv": config.kv_heads,
            "attention.key_length": config.head_size,
            "attention.value_length": config.head_size,
            "rope.dimension_count": config.rotary_dims,
            "rope.freq_base": config.rope_base,
        }
    if config.rope_scaling == "linear":
        sizes |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor}
    traits = family.gguf
    assert traits
    if traits.parallel_residual:
        sizes["use_parallel_residual"] = config.parallel_residual
    if config.activation != traits.supported.get("activation", (config.activation,))[0]:
        sizes[HIDDEN_ACTIVATION] = config.activation
    if traits.windows and has_window(config):
        sizes |= {
            "attention.sliding_window": config.window,
            "attention.sliding_window_pattern": window_period(config),
            "rope.freq_base_swa": config.rope_local_base or config.rope_base,
        }
    return sizes


def _description(family: Family, file: ModelFile) -> str:
    """Return one sentence on where the model comes from, and on its training with the numbers that its run recorded."""
    meta = file.meta
    if origin := meta.get("imported"):  # its training is unknown
        return f"A {family.title} converted from {origin.get('name') or 'another model'} by light-llm {__version__}"
    start = f"fine-tuned from {name}" if (name := (meta.get("base") or {}).get("name")) else "made"
    parts = [f"A {family.title} {start} with light-llm {__version__}"]
    if steps := meta.get("step"):
        parts.append(f"trained for {steps:,} steps")
    if window := file.data.get("max_length"):
        parts.append(f"on windows of {window:,} tokens")
    held_out = meta.get("evaluation") or {}
    if "loss" in held_out and "bits_per_byte" in held_out:
        parts.append(f"held-out loss {held_out['loss']:.3f} nats a token, {held_out['bits_per_byte']:.3f} bits a byte")
    return ", ".join(parts)
