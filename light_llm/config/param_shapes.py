"""The name and shape of every parameter, from the config alone: for sizes, plans and the check of model files."""

import math

from ..errors import ConfigError
from .choices import MLPS, NORMS, POSITIONS, NamedShapes
from .model import ModelConfig


def block_shapes(config: ModelConfig) -> NamedShapes:
    """Return the parameters of one block, by their names in it. All blocks are alike."""
    C, D, inner = config.n_embd, config.head_size, config.inner_size
    qkv = (config.n_head + 2 * config.kv_heads) * D
    shapes: NamedShapes = {}

    def linear(name: str, n_in: int, n_out: int, bias: bool = config.bias) -> None:
        shapes[f"{name}.weight"] = (n_out, n_in)
        if bias:
            shapes[f"{name}.bias"] = (n_out,)

    shapes |= norm_shapes(config, "ln_1", C)
    linear("attn.c_attn", C, qkv, config.has_qkv_bias)
    if config.qk_norm:
        shapes |= norm_shapes(config, "attn.q_norm", D) | norm_shapes(config, "attn.k_norm", D)
    linear("attn.c_proj", config.n_head * D, C)
    shapes |= norm_shapes(config, "ln_2", C)
    linear("mlp.c_fc", C, inner)
    if MLPS[config.mlp].gated:
        linear("mlp.c_gate", C, inner)
    linear("mlp.c_proj", inner, C)
    if config.post_norms:
        shapes |= norm_shapes(config, "ln_1_post", C) | norm_shapes(config, "ln_2_post", C)
    return shapes


def norm_shapes(config: ModelConfig, name: str, size: int) -> NamedShapes:
    """Return the gain of a norm, and its bias if it has one."""
    shapes: NamedShapes = {f"{name}.weight": (size,)}
    if NORMS[config.norm].has_bias and config.bias:
        shapes[f"{name}.bias"] = (size,)
    return shapes


def outer_shapes(config: ModelConfig) -> NamedShapes:
    """Return the parameters outside the blocks: embeddings, the final norm, and the output head if it is not tied."""
    shapes: NamedShapes = {"wte.weight": (config.vocab_size, config.n_embd)}
    shapes |= POSITIONS[config.positions].param_shapes(config)
    shapes |= norm_shapes(config, "ln_f", config.n_embd)
    if not config.tied_head:
        shapes["lm_head.weight"] = (config.vocab_size, config.n_embd)
    return shapes


def param_shapes(config: ModelConfig) -> NamedShapes:
    """Return every parameter of a model by its full name: the keys of its state dict."""
    block = block_shapes(config)
    blocks = {f"h.{layer}.{name}": shape for layer in range(config.n_layer) for name, shape in block.items()}
    return outer_shapes(config) | blocks


def count(shapes: NamedShapes) -> int:
    """Return the total number of parameters."""
    return sum(math.prod(shape) for shape in shapes.values())


def get_model_size(config: ModelConfig) -> int:
    """Return the exact number of parameters, without building the model.

    GPT-2's is V d + T_max d + L (12 d^2 + 13 d) + 2 d: a block has 4 d^2 + 4 d in attention, 8 d^2 + 5 d in the MLP
    and 4 d in its two norms; the final norm has 2 d; the tied head shares the token embedding and adds nothing.

    >>> get_model_size(ModelConfig.micro())
    30339456

    Raises:
        ConfigError: no ModelConfig.
    """
    if not isinstance(config, ModelConfig):
        raise ConfigError(
            f"get_model_size takes a ModelConfig, not a {type(config).__name__}; for a model write "
            "get_model_size(model.config)"
        )
    return count(outer_shapes(config)) + config.n_layer * count(block_shapes(config))


def matrix_parameters(config: ModelConfig) -> int:
    """Return the parameters in the matrices of the blocks: those that Muon updates and autocast copies to 16 bits.

    GPT-2 has 12 L d^2 of them.

    >>> matrix_parameters(ModelConfig.micro()) == 12 * 6 * 384**2
    True
    """
    return config.n_layer * count({name: s for name, s in block_shapes(config).items() if len(s) == 2})
