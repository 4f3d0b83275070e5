"""The names of tensors in the safetensors files of each family, by the names that they have here."""

from dataclasses import replace

from ..config import ModelConfig, block_shapes, outer_shapes
from .family import TensorNames

# All names that a GPT-2 can have; transformers uses ours, because ours are GPT-2's.
_UNTIED = ModelConfig(tied_head=False)
GPT2 = TensorNames(
    prefix="transformer.",
    layers="h",
    names={name: (name,) for name in (*outer_shapes(_UNTIED), *block_shapes(_UNTIED))},
    # transformers' Conv1D computes x W.
    transposed=("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
)
NANOGPT = replace(GPT2, transposed=())  # the same names over nn.Linear
LLAMA = TensorNames(
    prefix="model.",
    layers="layers",
    names={
        "wte.weight": ("embed_tokens.weight",),
        "ln_1.weight": ("input_layernorm.weight",),
        "attn.c_attn.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
        "attn.c_attn.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
        "attn.q_norm.weight": ("self_attn.q_norm.weight",),
        "attn.k_norm.weight": ("self_attn.k_norm.weight",),
        "attn.c_proj.weight": ("self_attn.o_proj.weight",),
        "ln_2.weight": ("post_attention_layernorm.weight",),
        "mlp.c_gate.weight": ("mlp.gate_proj.weight",),
        "mlp.c_fc.weight": ("mlp.up_proj.weight",),
        "mlp.c_proj.weight": ("mlp.down_proj.weight",),
        "ln_f.weight": ("norm.weight",),
        "lm_head.weight": ("lm_head.weight",),
    },
)
# Its name for the norm before the MLP is not Llama's: that one is the norm after attention.
GEMMA3 = replace(
    LLAMA,
    names=dict(LLAMA.names)
    | {
        "ln_1_post.weight": ("post_attention_layernorm.weight",),
        "ln_2.weight": ("pre_feedforward_layernorm.weight",),
        "ln_2_post.weight": ("post_feedforward_layernorm.weight",),
    },
)


def _both(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    """Return the names of a weight and of its bias."""
    return {f"{ours}.{part}": (f"{theirs}.{part}",) for part in ("weight", "bias")}


GPT_NEOX = TensorNames(
    prefix="gpt_neox.",
    layers="layers",
    names={
        "wte.weight": ("embed_in.weight",),
        **_both("ln_1", "input_layernorm"),
        **_both("attn.c_attn", "attention.query_key_value"),
        **_both("attn.c_proj", "attention.dense"),
        **_both("ln_2", "post_attention_layernorm"),
        **_both("mlp.c_fc", "mlp.dense_h_to_4h"),
        **_both("mlp.c_proj", "mlp.dense_4h_to_h"),
        **_both("ln_f", "final_layer_norm"),
        "lm_head.weight": ("embed_out.weight",),
    },
    interleaved=("attn.c_attn.weight", "attn.c_attn.bias"),
)
GPT_NEO = TensorNames(
    prefix="transformer.",
    layers="h",
    names=dict(GPT2.names)
    | {
        "attn.c_attn.weight": tuple(f"attn.attention.{part}_proj.weight" for part in "qkv"),
        **_both("attn.c_proj", "attn.attention.out_proj"),
    },
)
