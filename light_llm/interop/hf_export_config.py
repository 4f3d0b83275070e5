"""The `config.json` of an export: the one that a model was imported with, where that still describes it."""

from dataclasses import replace
from typing import Any

from ..checkpoint import LoadedModel
from ..config import ModelConfig
from .architectures import family_of_model, origin_of
from .exporter import MIXED
from .hf_config import read_config, write_config
from .hf_fields import IGNORED_NAMES, without_fields

_DTYPE_FIELDS = ("dtype", "torch_dtype")


def config_json(loaded: LoadedModel, config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the fields of `config.json`.

    A model that was imported, or fine-tuned from one, keeps the fields that it came with. If its shape was changed
    since then, it keeps only those that do not decide the shape: token ids, and what the model was called.

    Args:
        config: of the exported weights.
        dtype: of the weights.
    """
    family, origin = family_of_model(loaded), origin_of(loaded)
    original, separator = origin.get("config_json"), loaded.file.tokenizer.separator if loaded.file.tokenizer else None
    written = write_config(config, separator=separator, dtype="float32" if dtype == MIXED else dtype, family=family)
    if original is None:
        # For our own import, which decides by the documents how an empty prompt begins.
        documents = loaded.file.data.get("documents")
        return written | ({"light_llm": {"documents": documents}} if documents else {})
    known = without_fields(original, origin.get("ignored_fields", {}), "config.json")
    found, described = read_config(known, "config.json")
    # Biases that are all zero were dropped by the import, and are written as zeros.
    unchanged = found == family and replace(described, bias=config.bias) == config
    values = dict(original)
    if not unchanged:
        values = written | {name: value for name, value in original.items() if name in IGNORED_NAMES}
    if dtype != origin["weights"]["dtype"] and dtype != MIXED:
        values |= {name: dtype for name in _DTYPE_FIELDS if name in values}
    return values
