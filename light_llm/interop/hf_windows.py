"""The sliding windows of a `config.json`, which each family describes in its own form.

A form is a pair of functions: the fields of a ModelConfig, and the settings of a ModelConfig from the fields.
"""

from collections.abc import Callable
from typing import Any

from ..config import ModelConfig
from .family import has_window
from .hf_fields import ConfigReader
from .hf_rope import FULL, SLIDING

LAYER_TYPES = (FULL, SLIDING)
_NEO_TYPES = ("global", "local")


def _layer_types(config: ModelConfig) -> list[str]:
    return [LAYER_TYPES[bool(config.window_size(layer))] for layer in range(config.n_layer)]


def _settings(size: Any, windows: list[bool]) -> dict[str, Any]:
    """Return the settings for a window of `size` in the layers of the list."""
    layers = [i for i, window in enumerate(windows) if window]
    if not layers:
        return {}
    return {"window": size, "window_layers": "all" if len(layers) == len(windows) else ",".join(map(str, layers))}


def _types(reader: ConfigReader, n: int, default: Callable[[int], bool]) -> list[bool]:
    """Read `layer_types`, n names; by default the layers that `default` returns true for have a window."""
    types = reader.take("layer_types", None)
    if types is None:
        return [default(i) for i in range(n)]
    if not isinstance(types, list) or len(types) != n or any(kind not in LAYER_TYPES for kind in types):
        raise reader.refusal("layer_types", types, f"it has to name {' or '.join(LAYER_TYPES)} for each of {n} layers")
    return [kind == SLIDING for kind in types]


def _read_qwen(reader: ConfigReader) -> dict[str, Any]:
    """Read Qwen's: `use_sliding_window`; layers by `layer_types`, or in older files from `max_window_layers` on."""
    size, used = reader.take("sliding_window", 4096), reader.take_flag("use_sliding_window", default=False)
    first = reader.take("max_window_layers", 28)
    types = _types(reader, reader.count("num_hidden_layers"), lambda i: isinstance(first, int) and i >= first)
    return _settings(size, types) if used and size is not None else {}


def _write_qwen(config: ModelConfig) -> dict[str, Any]:
    windows = has_window(config)
    return {
        "use_sliding_window": windows,
        "sliding_window": config.window if windows else None,
        "layer_types": _layer_types(config),
        "max_window_layers": config.n_layer,
    }


def _read_mistral(reader: ConfigReader) -> dict[str, Any]:
    """Read Mistral's: all layers have the window, unless it is null."""
    size = reader.take("sliding_window", 4096)
    return {"window": size} if size is not None else {}


def _read_gemma(reader: ConfigReader) -> dict[str, Any]:
    """Read Gemma 3's: all layers but every sixth, in files without `layer_types`."""
    size, pattern = reader.take("sliding_window", 4096), reader.take("sliding_window_pattern", 6)
    if type(pattern) is not int or pattern < 1:
        raise reader.refusal("sliding_window_pattern", pattern, "it has to be a number of layers")
    types = _types(reader, reader.count("num_hidden_layers"), lambda i: bool((i + 1) % pattern))
    if any(types) and size is None:
        raise reader.refusal("sliding_window", size, "it has layers with a window, and no size")
    return _settings(size, types)


def _write_gemma(config: ModelConfig) -> dict[str, Any]:
    size = config.window if has_window(config) else 4096  # transformers has a default and no null
    return {"sliding_window": size, "layer_types": _layer_types(config)}


def _read_neo(reader: ConfigReader) -> dict[str, Any]:
    """Read GPT-Neo's `attention_types`: pairs of a list of types and how often it is repeated."""
    n = reader.count("num_hidden_layers" if "num_layers" not in reader.unread else "num_layers")
    given = reader.take("attention_types", [[[*_NEO_TYPES], 12]])
    types: list[str] = []
    for item in given if isinstance(given, list) else [[]]:
        names, repeats = item if isinstance(item, list) and len(item) == 2 else ([], -1)
        valid = isinstance(names, list) and type(repeats) is int
        if not valid or not 0 <= repeats * len(names) <= n - len(types):
            raise reader.refusal(
                "attention_types", given, f"it has to name {n} layers, as in [[['global', 'local'], 2]]"
            )
        types += names * repeats
    if len(types) != n or any(kind not in _NEO_TYPES for kind in types):
        raise reader.refusal("attention_types", given, f"it has to name {' or '.join(_NEO_TYPES)} for {n} layers")
    if (listed := reader.take("attention_layers", None)) not in (None, types):
        raise reader.refusal("attention_layers", listed, "attention_types has other values", "keep the right one")
    return _settings(reader.take("window_size", 256), [kind == "local" for kind in types])


def _write_neo(config: ModelConfig) -> dict[str, Any]:
    types = [_NEO_TYPES[bool(config.window_size(layer))] for layer in range(config.n_layer)]
    size = config.window if has_window(config) else 256
    return {"attention_types": [[types, 1]], "attention_layers": types, "window_size": size}


FORMS: dict[str, tuple[Callable[[ModelConfig], dict[str, Any]], Callable[[ConfigReader], dict[str, Any]]]] = {
    "": (lambda config: {}, lambda reader: {}),
    "every layer": (lambda config: {"sliding_window": config.window or None}, _read_mistral),
    "layer types or first layer": (_write_qwen, _read_qwen),
    "layer types or pattern": (_write_gemma, _read_gemma),
    "attention types": (_write_neo, _read_neo),
}
