"""A model's parameters by part, exact, from its config alone; and the presets of its kind."""

from typing import Any

from ..config import PRESETS, ModelConfig, block_shapes, outer_shapes, preset_settings
from ..config.param_shapes import count


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Return the parameters of each part of the model. They add up to `get_model_size`.

    >>> parameters_by_part(ModelConfig.micro())["token table, and head"]
    19298688
    """
    block, outer = block_shapes(config), outer_shapes(config)

    def of(shapes: dict[str, tuple[int, ...]], *prefixes: str) -> int:
        return count({name: shape for name, shape in shapes.items() if name.startswith(prefixes)})

    parts = {
        "token table, and head" if config.tied_head else "token table": of(outer, "wte"),
        "head": of(outer, "lm_head"),
        "position table": of(outer, "wpe"),
        "attention": config.n_layer * of(block, "attn"),
        "MLP": config.n_layer * of(block, "mlp"),
        "norms": of(outer, "ln_") + config.n_layer * of(block, "ln_"),
    }
    return {name: n for name, n in parts.items() if n}


def presets_of_kind(model: ModelConfig) -> list[str]:
    """Return the presets with a model's position encoding, by default all, the smallest first.

    >>> presets_of_kind(ModelConfig.micro()), presets_of_kind(ModelConfig.preset("llama-nano"))
    (['nano', 'micro', 'small'], ['llama-nano', 'llama-micro', 'llama-small'])
    """
    names = [name for name in PRESETS if preset_settings(name)["positions"] == model.positions]
    return sorted(names or PRESETS, key=lambda name: int(preset_settings(name)["n_embd"]))


SIZES = ("n_embd", "n_layer", "n_head", "n_kv_head", "n_inner")


def overridden_sizes(model: ModelConfig) -> list[str]:
    """Return the sizes in which a model differs from the preset that it is most like: the user set them.

    >>> overridden_sizes(ModelConfig.micro()), overridden_sizes(ModelConfig.micro(n_layer=20))
    ([], ['n_layer'])
    """
    presets = [preset_settings(name) for name in presets_of_kind(model)]
    differ = [[size for size in SIZES if getattr(model, size) != preset[size]] for preset in presets]
    return min(differ, key=len)


def resize_to_preset(name: str, model: ModelConfig) -> dict[str, Any]:
    """Return the settings, by `part__name`, that give a model the size of a preset and leave its other choices alone.

    Windows in layers that the preset does not have are dropped.

    >>> resize_to_preset("nano", ModelConfig.small(window=64, window_layers="0,7"))["model__window_layers"]
    '0'
    """
    preset = preset_settings(name)
    changes = {f"model__{size}": preset[size] for size in SIZES}
    if model.window and model.window_layers != "all":
        layers = [layer for layer in model.window_layers.split(",") if int(layer) < preset["n_layer"]]
        changes |= {"model__window_layers": ",".join(layers) or "all", "model__window": model.window if layers else 0}
    return changes
