"""Which models of other programs ours can be: GPT-2, Llama or Qwen3, and nothing between them.

Another program knows a family by name and fills in what the name means. A mix of choices that no family has cannot be
said in its files, and a file that says nearly the right thing gives nearly the right text.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..config import ModelConfig, repr_short
from ..errors import ConfigError

FAMILIES = {"gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3"}  # and how they are written
_LLAMA: dict[str, Any] = {"norm": "rmsnorm", "mlp": "swiglu", "bias": False, "logit_cap": 0.0}
_FIXED: dict[str, dict[str, Any]] = {  # what the family has, where ours could choose
    "gpt2": {"norm": "layernorm", "mlp": "gelu", "qk_norm": False, "logit_cap": 0.0},
    "llama": _LLAMA,
    "qwen3": _LLAMA,
}


def family_of(config: ModelConfig) -> str:
    """The family of a model: gpt2, llama or qwen3.

    GPT-2 has learned positions, LayerNorm, a GELU (either form) and one head of keys for each of queries; its biases
    may be off here, zeros are written then. Llama has rotary positions, RMSNorm, SwiGLU and no bias; Qwen3 is that with
    normed queries and keys, and windows. The head is tied or not in all of them.

    Raises:
        ConfigError: no family has this mix; the message names each field that does not fit the nearest one.

    >>> [family_of(ModelConfig.preset(name)) for name in ("micro", "llama-micro")]
    ['gpt2', 'llama']
    """
    family = "gpt2" if config.positions == "learned" else "qwen3" if config.qk_norm else "llama"
    strangers = list(_strangers(config, family))
    if strangers:
        shown = f"positions={config.positions}{' and qk_norm' if family == 'qwen3' else ''}"
        raise ConfigError(
            f"other programs have no such model: with {shown} it would be {FAMILIES[family]}'s, and there "
            f"{'; '.join(strangers)}. It can be used with light-llm; for another program, train one with "
            f"--preset {'micro' if family == 'gpt2' else 'llama-micro'} and change sizes alone"
        )
    return family


def _strangers(config: ModelConfig, family: str) -> Iterator[str]:
    """What the family does not have, a clause for each field."""
    for name, value in _FIXED[family].items():
        if (found := getattr(config, name)) != value:
            yield f"{name}={repr_short(found)} has to be {repr_short(value)}"
    if family == "gpt2" and config.kv_heads != config.n_head:
        yield f"n_kv_head={config.n_kv_head} has to be n_head={config.n_head}"
    if family == "gpt2" and config.head_size * config.n_head != config.n_embd:
        yield f"head_dim={config.head_size} has to be n_embd / n_head, which is {config.n_embd / config.n_head:g}"
    if family != "qwen3" and has_windows(config):
        yield f"window={config.window} has to be 0: windows need qk_norm as well, as Qwen3 has them"


def has_windows(config: ModelConfig) -> bool:
    """Whether a layer sees less than all."""
    return any(config.window_size(layer) for layer in range(config.n_layer))


def cut_config(loaded: LoadedModel) -> ModelConfig:
    """The config with as many ids as the tokenizer has.

    A table may have been padded to a round number of rows. No text gives those ids, and nothing was learnt for them.
    """
    tokenizer, config = loaded.file.tokenizer, loaded.model.config
    return replace(config, vocab_size=tokenizer.vocab_size) if tokenizer else config


def cut_to_tokenizer(loaded: LoadedModel) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and state of a model without the ids that its tokenizer lacks: what other programs call one vocabulary.

    Returns:
        The config with vocab_size (V,) of the tokenizer, and the tensors by our names, float32 on the CPU.
    """
    config = cut_config(loaded)
    state = {name: t.detach().to("cpu", torch.float32) for name, t in loaded.model.state_dict().items()}
    for name in state.keys() & {"wte.weight", "lm_head.weight"}:
        state[name] = state[name][: config.vocab_size].contiguous()
    return config, state
