"""A model in the words of GGUF: names and order of its tensors, and the fields that say what they are.

llama.cpp knows a family by name and computes it in one way. What it does not compute is refused here, field by field;
each reason was read in its source (src/models/gpt2.cpp, llama.cpp, qwen3.cpp).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..checkpoint import ModelFile
from ..config import ModelConfig, get_model_size
from ..errors import ConfigError
from ..layers.positions import frequencies
from ..text_format import format_count
from .architectures import FAMILIES, family_of

DTYPES = ("f32", "f16", "bf16", "q8_0")
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}  # llama.cpp's numbers for "most tensors are so"
BLOCK = 32  # numbers of a row that share a scale in q8_0

_OUTER = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_gate": "ffn_gate",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def check_can_be_gguf(config: ModelConfig) -> str:
    """The family that llama.cpp runs this model as. Raises ConfigError naming what it would compute otherwise."""
    family = family_of(config)
    seen = [w for layer in range(config.n_layer) if (w := config.window_size(layer)) and w < config.n_positions]
    if family == "gpt2" and config.activation != "gelu_tanh":
        raise _cannot(f"activation={config.activation} is gelu_tanh there", "train with activation=gelu_tanh")
    if seen:
        raise _cannot(
            f"window={config.window} is not read there: its {FAMILIES[family]} sees all tokens in every layer",
            "train with window=0",
        )
    if family == "qwen3" and config.rope_scaling == "llama3":
        raise _cannot(
            "rope_scaling=llama3 is known there for Llama alone, and qk_norm makes this a Qwen3",
            "use rope_scaling=linear, or train without qk_norm",
        )
    return family


def _cannot(what: str, way_out: str) -> ConfigError:
    return ConfigError(
        f"llama.cpp would compute another model from a GGUF file of this one: {what}; {way_out}, "
        "or export for Hugging Face"
    )


def gguf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by GGUF's names, float32, in the order they are written.

    A matrix is (out, in), as ours are and as Hugging Face's GPT-2 is not. A tied head has no tensor: llama.cpp takes
    the token table where `output` is missing. GPT-2's biases must be there, so that zeros stand for none.
    """
    family = family_of(config)
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if not module.startswith("h."):
            tensors[f"{_OUTER[module]}.{kind}"] = tensor
            continue
        _, layer, inner = module.split(".", 2)
        if inner == "attn.c_attn" and family != "gpt2":
            tensors |= {f"blk.{layer}.{part}.{kind}": rows for part, rows in _apart(config, family, tensor)}
        else:
            tensors[f"blk.{layer}.{_BLOCK[inner]}.{kind}"] = tensor
    if family == "gpt2" and not config.bias:
        tensors |= _zero_biases(tensors)
    if config.positions == "rope" and config.rope_scaling == "llama3":
        tensors["rope_freqs.weight"] = rope_factors(config)
    return tensors


def _apart(config: ModelConfig, family: str, together: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The rows of queries, keys and values, each by its name."""
    D = config.head_size
    q, k, v = together.split([heads * D for heads in (config.n_head, config.kv_heads, config.kv_heads)])
    if family == "llama":  # its rotation there turns neighbours; Qwen3's turns the halves, as ours does
        q, k = interleave(q, config.n_head), interleave(k, config.kv_heads)
    yield from (("attn_q", q), ("attn_k", k), ("attn_v", v))


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Rows of a head in the order 0, D/2, 1, D/2 + 1, ...: (heads D, C) -> (heads D, C).

    Ours turns row i with row i + D/2, llama.cpp's Llama row 2i with row 2i + 1 (Su et al., 2021, equation 34). A
    product of a query and a key does not see an order that both have.
    """
    halves = rows.view(heads, 2, -1, *rows.shape[1:])  # (heads, 2, D / 2, C)
    return halves.transpose(1, 2).reshape(rows.shape)


def _zero_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A bias of zeros for each norm and linear layer: one number for each row of its weight."""
    none_there = ("token_embd.weight", "position_embd.weight", "output.weight")
    return {
        name.removesuffix("weight") + "bias": torch.zeros(weight.shape[0])
        for name, weight in tensors.items()
        if name not in none_there
    }


def rope_factors(config: ModelConfig) -> Tensor:
    """What llama.cpp divides each angle by: (D / 2,) float32, 1 where it stays as it is."""
    here = torch.device("cpu")
    D = config.head_size
    plain = config.rope_base ** -(torch.arange(0, D, 2, dtype=torch.float32) / D)
    return plain / frequencies(config, here)


def format_of(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """The number format of one tensor: norms, biases and the position table stay f32, as llama.cpp's converter has it.

    q8_0 has blocks of 32 numbers within a row; rows that do not divide into them are f16, as there.

    >>> format_of("blk.0.attn_q.weight", (64, 64), "q8_0"), format_of("blk.0.attn_norm.weight", (64,), "q8_0")
    ('q8_0', 'f32')
    """
    if len(shape) < 2 or name == "position_embd.weight":
        return "f32"
    return "f16" if dtype == "q8_0" and shape[-1] % BLOCK else dtype


def metadata(config: ModelConfig, file: ModelFile, dtype: str) -> dict[str, Any]:
    """The fields of a GGUF file, by name, without those of its tokenizer. No author, no path, no date."""
    family = family_of(config)
    size = format_count(get_model_size(config)).upper()
    fields: dict[str, Any] = {
        "general.type": "model",
        "general.name": f"light-llm {size}",
        "general.size_label": size,
        "general.description": describe(config, file),
        "general.file_type": FILE_TYPES[dtype],
    }
    if dtype == "q8_0":
        fields["general.quantization_version"] = 2
    numbers: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.n_head,
    }
    more = {"attention.layer_norm_epsilon": config.norm_eps} if family == "gpt2" else _rotary(config)
    return fields | {f"{family}.{name}": value for name, value in (numbers | more).items()}


def _rotary(config: ModelConfig) -> dict[str, Any]:
    """What Llama and Qwen3 have besides."""
    fields: dict[str, Any] = {
        "attention.head_count_kv": config.kv_heads,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        "rope.dimension_count": config.head_size,
        "rope.freq_base": config.rope_base,
    }
    if config.rope_scaling == "linear":
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor}
    return fields


def describe(config: ModelConfig, file: ModelFile) -> str:
    """One sentence on how the model was made, with the run's numbers as far as they are known."""
    meta, parts = file.meta, [f"A {FAMILIES[family_of(config)]} made with light-llm {__version__}"]
    if steps := meta.get("step"):
        parts.append(f"trained for {steps:,} steps")
    if window := file.data.get("max_length"):
        parts.append(f"on windows of {window:,} tokens")
    held_out = meta.get("evaluation") or {}
    if "loss" in held_out and "bits_per_byte" in held_out:
        parts.append(f"held-out loss {held_out['loss']:.3f} nats a token, {held_out['bits_per_byte']:.3f} bits a byte")
    return ", ".join(parts)
