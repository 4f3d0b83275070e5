"""Models of the families Llama and Qwen3 are those of transformers: logits, every gradient, greedy texts.

GPT-2 is in test_model.py.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.config import ModelConfig
from light_llm.generate.decode import decode
from light_llm.generate.sampling import Sampling
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from tests.support.tools import gradients, some_tokens, tiny_model

# 4 heads of 8 are wider than the stream, 24.
LLAMA: dict[str, Any] = {"n_head": 4, "n_kv_head": 2, "head_dim": 8, "n_inner": 40}
LLAMA |= {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
QWEN3 = LLAMA | {"qk_norm": True, "norm_eps": 1e-6}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama, a key for each query": LLAMA | {"n_kv_head": 4},
    "llama, one key for all": LLAMA | {"n_kv_head": 1},
    "llama, heads as wide as the stream": LLAMA | {"head_dim": 0, "rope_base": 500.0},
    "llama, untied": LLAMA | {"tied_head": False},
    "llama, slowed down": LLAMA | {"rope_scaling": "linear", "rope_factor": 3.0},
    "llama 3.1": LLAMA | {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_trained": 28, "rope_base": 50.0},
    "qwen3": QWEN3,
    "qwen3, untied": QWEN3 | {"tied_head": False},
    "qwen3, windows": QWEN3 | {"window": 5, "window_layers": "1"},
}
EVERY = pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())


def hugging_face(model: LightLLM) -> torch.nn.Module:
    """`LlamaForCausalLM` or `Qwen3ForCausalLM` of transformers with our weights."""
    import transformers

    settings = hf_settings(model.config)
    kind = "Qwen3" if model.config.qk_norm else "Llama"
    reference = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    weights = by_hf_names(model.config, model.state_dict())
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])  # tied: the table again
    reference.load_state_dict(weights)
    return reference


def hf_settings(c: ModelConfig) -> dict[str, Any]:
    """Return a config in transformers' words."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": c.rope_base}
    if c.rope_scaling != "none":
        rope |= {"rope_type": c.rope_scaling, "factor": c.rope_factor}
    if c.rope_scaling == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": c.rope_trained}
    kinds = ["sliding_attention" if c.window_size(i) else "full_attention" for i in range(c.n_layer)]
    windows = {"use_sliding_window": True, "sliding_window": c.window, "layer_types": kinds} if c.window else {}
    return windows | {
        "vocab_size": c.vocab_size,
        "hidden_size": c.n_embd,
        "intermediate_size": c.inner_size,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "max_position_embeddings": c.n_positions,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_head,
        "rope_parameters": rope,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


INSIDE = {
    "attn.c_proj": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "mlp.c_gate": "mlp.gate_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
OUTSIDE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "lm_head": "lm_head"}


def by_hf_names(c: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights, or their gradients, by transformers' names; c_attn is split into the three that it holds."""
    D, renamed = c.head_size, {}
    for name, tensor in tensors.items():
        short = name.removesuffix(".weight")
        if short in OUTSIDE:
            renamed[f"{OUTSIDE[short]}.weight"] = tensor
            continue
        _, layer, part = short.split(".", 2)
        if part == "attn.c_attn":
            three = zip("qkv", tensor.split([c.n_head * D, c.kv_heads * D, c.kv_heads * D]), strict=True)
            renamed |= {f"model.layers.{layer}.self_attn.{letter}_proj.weight": rows for letter, rows in three}
        else:
            renamed[f"model.layers.{layer}.{INSIDE[part]}.weight"] = tensor
    return renamed


@EVERY
def test_logits_and_gradients_are_transformers(changes: dict[str, Any]) -> None:
    ours = tiny_model(scale=5, **changes)
    other, x = hugging_face(ours), some_tokens(2, 31)
    logits = other(x).logits
    assert logits.std() > 0.5, "a model without opinions would agree with anything"
    assert (ours(x) - logits).abs().max() < 1e-4

    (NextTokenLoss(ours)(x[:, :-1], x[:, 1:]) / 60).backward()
    other(x, labels=x).loss.backward()  # type: ignore[operator]
    grads, expected = by_hf_names(ours.config, gradients(ours)), gradients(other)
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        assert (gradient - expected[name]).norm() < 1e-3 * expected[name].norm(), name


def restless(model: LightLLM) -> LightLLM:
    """The model with attention that decides: by itself a tied one of random weights says the same token for ever."""
    with torch.no_grad():
        for block in model.h:
            attn = block.attn
            for gain in (attn.q_norm, attn.k_norm) if model.config.qk_norm else (attn.c_attn,):  # type: ignore[union-attr]
                gain.weight.mul_(5.0)  # type: ignore[union-attr]
            attn.c_proj.weight.mul_(8.0)  # type: ignore[union-attr]
    return model


@EVERY
def test_greedy_texts_are_transformers(changes: dict[str, Any]) -> None:
    """Both with a cache of keys and values; four prompts of one length, as transformers pads others."""
    ours = restless(tiny_model(scale=6, **changes))
    prompts = some_tokens(4, 5)
    texts = hugging_face(ours).generate(  # type: ignore[operator]
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=26, do_sample=False, eos_token_id=None,
        pad_token_id=0, use_cache=True,
    )  # fmt: skip
    rows = decode(ours, prompts.tolist(), seeds=range(4), sampling=Sampling(temperature=0.0), max_new_tokens=26)
    tokens = torch.tensor(list(rows)).T
    assert min(len(row.unique()) for row in tokens) >= 4, "a model that repeats itself would agree with anything"
    assert tokens.tolist() == texts[:, 5:].tolist()
