"""Models of the families whose choices `layers/` has are those of transformers: logits, gradients, greedy texts.

The weights are mapped by a few lines here; `interop/` does it for files. GPT-2 is in test_model.py, Llama and Qwen3 are
in test_families.py.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.config import ModelConfig
from light_llm.generate.decode import decode
from light_llm.generate.sampling import Sampling
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from tests.support.published import CONTEXT, LAYERS, WIDTH, V, reference
from tests.support.tools import gradients, some_tokens

SIZES: dict[str, Any] = {"vocab_size": V, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4}
LLAMA: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_inner": 96}
QWEN2 = LLAMA | {"n_kv_head": 2, "qkv_bias": "yes", "norm_eps": 1e-6, "rope_base": 1e6}
MODELS: dict[str, dict[str, Any]] = {
    "pythia": {"positions": "rope", "rotary_pct": 0.25, "parallel_residual": True, "activation": "gelu"}
    | {"tied_head": False},
    "tinystories": {"attn_scale": 1.0, "qkv_bias": "no", "window": 20, "window_layers": "1"},
    "mistral": LLAMA | {"n_kv_head": 2, "window": 20, "tied_head": False},
    "qwen2.5": QWEN2,
    "qwen2-windows": QWEN2 | {"window": 20, "window_layers": "1", "tied_head": False},
    "gemma3": LLAMA
    | {"n_kv_head": 1, "head_dim": 32, "norm": "rmsnorm1p", "norm_eps": 1e-6, "qk_norm": True, "post_norms": True}
    | {"mlp": "geglu", "scale_embeddings": True, "attn_scale": 48**-0.5, "window": 20, "window_layers": "0"}
    | {"rope_base": 1e6, "rope_local_base": 1e4},
}
EVERY = pytest.mark.parametrize("name", MODELS)

# Our name -> theirs, in a block and outside; several are rows of one of ours.
LLAMA_BLOCK = {
    "attn.c_attn": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "mlp.c_gate": "mlp.gate_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
GEMMA_BLOCK = LLAMA_BLOCK | {
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "ln_1_post": "post_attention_layernorm",
    "ln_2": "pre_feedforward_layernorm",
    "ln_2_post": "post_feedforward_layernorm",
}
NEO_BLOCK = {
    "attn.c_attn": "attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj",
    "attn.c_proj": "attn.attention.out_proj",
    **{part: part for part in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")},
}
NEOX_BLOCK = {
    "attn.c_attn": "attention.query_key_value",
    "attn.c_proj": "attention.dense",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.dense_h_to_4h",
    "mlp.c_proj": "mlp.dense_4h_to_h",
}
LLAMA_REST = {"wte": "model.embed_tokens", "ln_f": "model.norm", "lm_head": "lm_head"}
NEO_REST = {name: f"transformer.{name}" for name in ("wte", "wpe", "ln_f")}
NEOX_REST = {"wte": "gpt_neox.embed_in", "ln_f": "gpt_neox.final_layer_norm", "lm_head": "lm_head"}
NAMES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "pythia": ("gpt_neox.layers", NEOX_BLOCK, NEOX_REST),
    "tinystories": ("transformer.h", NEO_BLOCK, NEO_REST),
    "gemma3": ("model.layers", GEMMA_BLOCK, LLAMA_REST),
}


def by_our_names(name: str, theirs: Mapping[str, Tensor], ours: LightLLM) -> dict[str, Tensor]:
    """Return weights of transformers, or their gradients, by the names and in the shapes of our model."""
    prefix, block, rest = NAMES.get(name, ("model.layers", LLAMA_BLOCK, LLAMA_REST))
    renamed = {}
    for full, parameter in ours.named_parameters():
        part, _, kind = full.rpartition(".")
        if part.startswith("h."):
            _, layer, part = part.split(".", 2)
            others = [f"{prefix}.{layer}.{other}.{kind}" for other in block[part].split()]
        else:
            others = [f"{rest[part]}.{kind}"]
        tensor = torch.cat([theirs[other] for other in others])
        if name == "pythia" and part == "attn.c_attn":  # (H, 3, D) rows -> all of q, of k, of v
            tensor = tensor.unflatten(0, (4, 3, -1)).transpose(0, 1).flatten(0, 2)
        renamed[full] = tensor.view_as(parameter)
    return renamed


def both(name: str) -> tuple[LightLLM, Any]:
    """Return our model with the weights of transformers', and that one."""
    other = reference(name)
    if name == "gemma3":
        # Its embeddings are large, and with a tied head it would say the same token for ever.
        with torch.no_grad():
            for layer in other.model.layers:
                layer.post_attention_layernorm.weight.add_(8.0)
    ours = LightLLM(ModelConfig(**(SIZES | MODELS[name]))).eval()
    ours.load_state_dict(by_our_names(name, other.state_dict(), ours))
    return ours, other


@EVERY
def test_logits_and_gradients_are_transformers(name: str) -> None:
    """Of texts three times as long as the window."""
    # Without id 0: that of padding, whose row of the table has no gradient in transformers' Gemma.
    (ours, other), x = both(name), some_tokens(2, 61, V).clamp(min=1)
    logits = other(x).logits
    assert logits.std() > 0.5, "a model without opinions would agree with anything"
    assert (ours(x) - logits).abs().max() < 1e-4
    (NextTokenLoss(ours)(x[:, :-1], x[:, 1:]) / 120).backward()
    other(x, labels=x).loss.backward()
    expected = by_our_names(name, {n: p.grad for n, p in other.named_parameters()}, ours)
    for part, gradient in gradients(ours).items():
        assert (gradient - expected[part]).norm() < 1e-3 * expected[part].norm(), part


@EVERY
def test_greedy_texts_are_transformers(name: str) -> None:
    """Both with a cache of keys and values, beyond the window."""
    (ours, other), prompts = both(name), some_tokens(3, 9, V)
    texts = other.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=64, do_sample=False, eos_token_id=None,
        pad_token_id=0, use_cache=True,
    )  # fmt: skip
    options: dict[str, Any] = {"seeds": range(3), "sampling": Sampling(temperature=0.0), "max_new_tokens": 64}
    tokens = torch.tensor(list(decode(ours, prompts.tolist(), **options))).T
    assert min(len(row.unique()) for row in tokens) >= 4, "a model that repeats itself would agree with anything"
    assert tokens.tolist() == texts[:, 9:].tolist()
    assert tokens.tolist() == torch.tensor(list(decode(ours, prompts.tolist(), **options, use_cache=False))).T.tolist()


@EVERY
def test_in_bfloat16_it_is_as_right_as_transformers(name: str) -> None:
    """Weights and activations in 16 bits: both against float32."""
    (ours, other), x = both(name), some_tokens(2, 61, V)
    with torch.no_grad():
        exact = other(x).logits
        theirs, found = other.bfloat16()(x).logits, ours.bfloat16()(x)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 1.3 * (theirs - exact).norm() < 0.04 * exact.norm()
