"""The nearest families to those that are not here, for the message that refuses them."""

from typing import Any

from ..errors import did_you_mean
from .architectures import FAMILIES

# By model_type: the nearest family here, and what it lacks.
_RELATIVES = {
    "bloom": ("gpt2", "positions by ALiBi and a norm after the embeddings"),
    "cohere": ("llama", "LayerNorm without biases, parallel branches and scaled logits"),
    "deepseek_v2": ("llama", "latent attention and experts"),
    "deepseek_v3": ("llama", "latent attention and experts"),
    "falcon": ("gpt_neox", "one head of keys in a fused matrix, or ALiBi"),
    "gemma": ("gemma3_text", "blocks without norms after their branches"),
    "gemma2": ("gemma3_text", "caps of the attention scores"),
    "gemma3": ("gemma3_text", "its part for images: import a text model, such as gemma-3-270m or gemma-3-1b"),
    "gpt_bigcode": ("gpt2", "one head of keys for all heads of queries"),
    "gptj": ("gpt_neox", "rotations of neighbouring numbers and one norm for both branches"),
    "granite": ("llama", "factors of embeddings, scores, branches and logits"),
    "llama4": ("llama", "experts, and layers without positions"),
    "ministral": ("mistral", "windows in some layers"),
    "mixtral": ("mistral", "experts"),
    "mpt": ("gpt2", "positions by ALiBi"),
    "olmo": ("llama", "LayerNorm without parameters"),
    "olmo2": ("llama", "norms after the branches only, and over all heads at once"),
    "opt": ("gpt2", "positions that start at 2, and ReLU"),
    "phi": ("gpt_neox", "one norm for both branches, and a head with a bias"),
    "phi3": ("llama", "fused matrices, and scaling by longrope"),
    "qwen2_moe": ("qwen2", "experts"),
    "qwen3_moe": ("qwen3", "experts"),
    "qwen2_vl": ("qwen2", "a part for images"),
    "qwen2_5_vl": ("qwen2", "a part for images"),
    "smollm3": ("llama", "layers without positions"),
    "stablelm": ("llama", "LayerNorm with biases, and rotations of a part of each head"),
    "starcoder2": ("mistral", "LayerNorm with biases, and an MLP without a gate"),
}
_OTHER_KINDS = {  # words in a model_type that no family here has
    **dict.fromkeys(("t5", "bart", "whisper", "marian", "pegasus"), "it has an encoder as well"),
    **dict.fromkeys(("bert", "electra", "deberta", "mpnet"), "its tokens attend to later ones"),
    **dict.fromkeys(("mamba", "rwkv", "jamba", "recurrent_gemma", "xlstm"), "it has recurrent layers"),
}


def missing_in(kind: Any) -> str:
    """Return a clause: the nearest family and what it lacks, or a family of a similar name; empty if none is known."""
    if not isinstance(kind, str):
        return ""
    if kind in _RELATIVES:
        nearest, lacks = _RELATIVES[kind]
        return f"; the nearest family is {nearest}, and light-llm does not have {lacks}"
    if reason := next((reason for word, reason in _OTHER_KINDS.items() if word in kind), ""):
        return f": {reason}"
    return did_you_mean(kind, FAMILIES).rstrip("?.")
