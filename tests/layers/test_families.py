"""Models of the families Llama, Qwen3 and GPT-2 are those of transformers: logits, every gradient, greedy texts."""

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
from tests.test_model import as_conv1d

LLAMA: dict[str, Any] = {
    "n_head": 4,
    "n_kv_head": 2,
    "head_dim": 8,  # 4 heads of 8 are wider than the stream, 24
    "n_inner": 40,
    "positions": "rope",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "bias": False,
}
QWEN3 = LLAMA | {"qk_norm": True, "norm_eps": 1e-6}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama, a key for each query": LLAMA | {"n_kv_head": 0},
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


def theirs(model: LightLLM) -> torch.nn.Module:
    """`LlamaForCausalLM` or `Qwen3ForCausalLM` with our weights."""
    import transformers

    settings = their_settings(model.config)
    kind = "Qwen3" if model.config.qk_norm else "Llama"
    found = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    weights = by_their_names(model.config, model.state_dict())
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])  # tied: the table again
    found.load_state_dict(weights)
    return found


def their_settings(c: ModelConfig) -> dict[str, Any]:
    """A config in transformers' words."""
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


def by_their_names(c: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or their gradients, under transformers' names; c_attn is cut into the three it holds."""
    D, found = c.head_size, {}
    for name, tensor in tensors.items():
        short = name.removesuffix(".weight")
        if short in OUTSIDE:
            found[f"{OUTSIDE[short]}.weight"] = tensor
            continue
        _, layer, part = short.split(".", 2)
        if part == "attn.c_attn":
            three = zip("qkv", tensor.split([c.n_head * D, c.kv_heads * D, c.kv_heads * D]), strict=True)
            found |= {f"model.layers.{layer}.self_attn.{letter}_proj.weight": rows for letter, rows in three}
        else:
            found[f"model.layers.{layer}.{INSIDE[part]}.weight"] = tensor
    return found


@EVERY
def test_logits_and_gradients_are_transformers(changes: dict[str, Any]) -> None:
    ours = tiny_model(scale=5, **changes)
    other, x = theirs(ours), some_tokens(2, 31)
    logits = other(x).logits
    assert logits.std() > 0.5, "a model without opinions would agree with anything"
    assert (ours(x) - logits).abs().max() < 1e-4

    (NextTokenLoss(ours)(x[:, :-1], x[:, 1:]) / 60).backward()
    other(x, labels=x).loss.backward()  # type: ignore[operator]
    found, expected = by_their_names(ours.config, gradients(ours)), gradients(other)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
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
    texts = theirs(ours).generate(  # type: ignore[operator]
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=26, do_sample=False, eos_token_id=None,
        pad_token_id=0, use_cache=True,
    )  # fmt: skip
    rows = decode(ours, prompts.tolist(), seeds=range(4), sampling=Sampling(temperature=0.0), max_new_tokens=26)
    found = torch.tensor(list(rows)).T
    assert min(len(row.unique()) for row in found) >= 4, "a model that repeats itself would agree with anything"
    assert found.tolist() == texts[:, 5:].tolist()


def test_a_gpt2_of_other_choices_is_transformers() -> None:
    """A head of its own, the exact GELU, another width inside and another eps; the usual one is in test_model.py."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = tiny_model(scale=5, tied_head=False, activation="gelu", n_inner=40, norm_eps=1e-3)
    c = ours.config
    other = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.n_positions,
            n_embd=c.n_embd,
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_inner=c.n_inner,
            activation_function="gelu",
            layer_norm_epsilon=c.norm_eps,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()

    def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n if n.startswith("lm_") else f"transformer.{n}": as_conv1d(n, t) for n, t in tensors.items()}

    other.load_state_dict(named(ours.state_dict()))
    x = some_tokens(2, 30)
    assert (ours(x) - other(x).logits).abs().max() < 1e-4
    (NextTokenLoss(ours)(x[:, :-1], x[:, 1:]) / 58).backward()
    other(x, labels=x).loss.backward()
    found, expected = named(gradients(ours)), gradients(other)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() < 1e-3 * expected[name].norm(), name
