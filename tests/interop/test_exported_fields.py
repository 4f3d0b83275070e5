"""Every field of an exported config.json and of a GGUF file, by its name and value, as other programs read them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from light_llm import __version__
from light_llm.config import ModelConfig
from light_llm.data.tokenizers import ByteTokenizer
from light_llm.interop.gguf import vocabulary_fields
from light_llm.interop.gguf_tensors import metadata
from light_llm.interop.hf_config import read_config, write_config
from light_llm.interop.hf_fields import IGNORED, IGNORED_NAMES
from tests.support.published import CONFIGS as CONFIGS_OF_THE_HUB
from tests.support.published import FAMILIES as FAMILIES_OF_THE_HUB

SIZES: dict[str, Any] = {"vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4}
GPT2 = ModelConfig(**SIZES, n_positions=24, n_inner=80, dropout=0.15, attn_dropout=0.05, norm_eps=2e-5)
LLAMA = replace(
    ModelConfig.preset("llama-micro"),
    **SIZES,
    n_positions=64,
    n_inner=96,
    n_kv_head=2,
    head_dim=8,
    rope_base=5e5,
    rope_scaling="llama3",
    rope_factor=8.0,
    rope_trained=16,
)
PLAIN_ROPE: dict[str, Any] = {"rope_scaling": "none", "rope_factor": 1.0, "rope_trained": 0}
QWEN3 = replace(LLAMA, **PLAIN_ROPE, qk_norm=True, window=16, window_layers="0,2")
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
EVERY_FAMILY = {"initializer_range": 0.02, "use_cache": True, "vocab_size": 300, "tie_word_embeddings": True}
ROTARY = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
CONFIGS: list[tuple[ModelConfig, int | None, str, dict[str, Any]]] = [
    (
        GPT2,
        256,
        "float16",
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_ctx": 24,
            "n_positions": 24,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 3,
            "n_inner": 80,
            "layer_norm_epsilon": 2e-05,
            "resid_pdrop": 0.15,
            "embd_pdrop": 0.15,
            "attn_pdrop": 0.05,
            "scale_attn_weights": True,
        },
    ),
    (
        LLAMA,
        256,
        "bfloat16",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **ROTARY,
            "mlp_bias": False,
            "pretraining_tp": 1,
            "rope_scaling": LLAMA3_SCALING,
            "rope_parameters": LLAMA3_SCALING | {"rope_theta": 500000.0},
        },
    ),
    (
        QWEN3,
        None,
        "float32",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **ROTARY,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "max_window_layers": 3,
        },
    ),
]


@pytest.mark.parametrize(("config", "separator", "dtype", "expected"), CONFIGS, ids=["gpt2", "llama", "qwen3"])
def test_every_field_of_a_config(
    config: ModelConfig, separator: int | None, dtype: str, expected: dict[str, Any]
) -> None:
    ids = {"bos_token_id": separator, "eos_token_id": separator, "dtype": dtype, "torch_dtype": dtype}
    written = write_config(config, separator=separator, dtype=dtype)
    assert written == EVERY_FAMILY | ids | expected
    assert write_config(read_config(written, "config.json")[1], separator=separator, dtype=dtype) == written


# Published fields with another value that means the same: a size that is spelled out, a window that no layer has.
SAME_MEANING = {
    "llama2-long": {"rope_scaling"},
    "qwen2.5": {"sliding_window"},
    "qwen2-windows": {"max_window_layers"},
    "tinystories": {"intermediate_size"},
}


@pytest.mark.parametrize("name", CONFIGS_OF_THE_HUB)
def test_every_field_of_a_published_config(name: str) -> None:
    """What is read from the config.json of a published model is written as it was, and read as the same model."""
    published = CONFIGS_OF_THE_HUB[name]
    family, config = read_config(published, "config.json")
    written = write_config(config, separator=None, dtype=published.get("torch_dtype", "float32"), family=family)
    same = written.keys() & published.keys() - {"bos_token_id", "eos_token_id"} - SAME_MEANING.get(name, set())
    assert len(same) > 12 and {key: written[key] for key in same} == {key: published[key] for key in same}
    assert read_config(written, "config.json") == (family, config)


def file(**data: Any) -> Any:
    return SimpleNamespace(meta=data.pop("meta", {}), data=data)


def test_every_field_of_a_gguf_file() -> None:
    trained = file(meta={"step": 1500, "evaluation": {"loss": 1.25, "bits_per_byte": 2.5}}, max_length=1024)
    assert metadata(GPT2, trained, "q8_0") == {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "light-llm 39.2K",
        "general.size_label": "39.2K",
        "general.description": f"A GPT-2 made with light-llm {__version__}, trained for 1,500 steps, on windows of "
        "1,024 tokens, held-out loss 1.250 nats a token, 2.500 bits a byte",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "gpt2.vocab_size": 300,
        "gpt2.context_length": 24,
        "gpt2.embedding_length": 32,
        "gpt2.block_count": 3,
        "gpt2.feed_forward_length": 80,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.layer_norm_epsilon": 2e-05,
    }
    linear = replace(LLAMA, rope_scaling="linear", rope_trained=0)
    fields = {name: value for name, value in metadata(linear, file(), "f16").items() if "general." not in name}
    assert fields == {
        "llama.vocab_size": 300,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.block_count": 3,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-05,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 500000.0,
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 8.0,
    }


@pytest.mark.parametrize(("dtype", "file_type"), [("f32", 0), ("f16", 1), ("q8_0", 7), ("bf16", 32)])
def test_the_file_type_is_that_of_llama_cpp(dtype: str, file_type: int) -> None:
    assert metadata(GPT2, file(), dtype)["general.file_type"] == file_type


def test_every_field_of_a_gguf_vocabulary() -> None:
    fields = vocabulary_fields(ByteTokenizer())
    tokens, types = fields.pop("tokenizer.ggml.tokens"), fields.pop("tokenizer.ggml.token_type")
    assert (tokens[ord("a")], tokens[ord(" ")], tokens[256]) == ("a", "Ġ", "<|endoftext|>")
    assert types == [1] * 256 + [3]  # normal and control tokens
    assert fields == {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["<|endoftext|> <|endoftext|>"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


SIZES_IN_CONFIG = {
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "max_position_embeddings", "hidden_size"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "num_heads"),
}
# Written in full, or by a second name of version 5; ids, which are not read.
WRITTEN_IN_FULL = {"architectures", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "rope_scaling"}
WRITTEN_IN_FULL |= {"n_inner", "max_window_layers", "attention_types"}


@pytest.mark.parametrize(("kind", "name"), FAMILIES_OF_THE_HUB.items())
def test_a_field_that_is_left_out_has_the_default_of_transformers(kind: str, name: str) -> None:
    """Of every field but the sizes, which are required."""
    import transformers

    sizes = {key: value for key, value in CONFIGS_OF_THE_HUB[name].items() if key in SIZES_IN_CONFIG}
    sizes |= {"num_layers": 24} if kind == "gpt_neo" else {}  # which its default of attention_types is for
    family, config = read_config(sizes | {"model_type": kind}, "config.json")
    written = write_config(config, separator=None, dtype="float32", family=family)
    theirs = transformers.AutoConfig.for_model(kind, **sizes)
    in_full = WRITTEN_IN_FULL | ({"intermediate_size"} if kind == "gpt_neo" else set())
    for key in written.keys() - in_full:
        assert getattr(theirs, key, written[key]) == written[key], key
    assert written.get("rope_parameters") == getattr(theirs, "rope_parameters", None)


@pytest.mark.parametrize("name", FAMILIES_OF_THE_HUB.values())
def test_fields_that_change_nothing_are_ignored(name: str) -> None:
    """Each of the list, whatever it says; SmolLM's `unk_token_id` is one."""
    published = CONFIGS_OF_THE_HUB[name]
    assert "unk_token_id" in IGNORED_NAMES and all(IGNORED)
    odd = dict.fromkeys(IGNORED_NAMES - {"model_type", "architectures"}, 7)
    assert read_config(published | odd, "config.json") == read_config(published, "config.json")
