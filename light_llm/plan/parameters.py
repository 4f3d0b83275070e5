"""What a model's parameters are, by part and by role: exact, from its config alone."""

from ..config import ModelConfig


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the model. They add up to `get_model_size`.

    >>> parameters_by_part(ModelConfig.micro())["token table, and head"]
    19298688
    """
    C, L = config.n_embd, config.n_layer
    return {
        "token table, and head": config.vocab_size * C,
        "position table": config.n_positions * C,
        "attention": L * (4 * C**2 + 4 * C),
        "MLP": L * (8 * C**2 + 5 * C),
        "norms": (2 * L + 1) * 2 * C,
    }


def matrix_parameters(config: ModelConfig) -> int:
    """Parameters in the matrices of the blocks, which Muon moves and half a format's copy is made of: 12 L C^2."""
    return 12 * config.n_layer * config.n_embd**2
