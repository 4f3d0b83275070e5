"""The rotation of queries and keys in a `config.json`: in the form of transformers 5, and in the older one.

Version 5 has one object, `rope_parameters`, with base, scaling and share; Gemma 3's has one for each kind of layer.
Older files have `rope_theta`, `rope_scaling` (also with the key `type`), and a field of the family for the share.
"""

from typing import Any

from ..config import ModelConfig, repr_short
from ..layers.positions import HIGH, LOW
from .family import Rope
from .hf_fields import KEEP_ONE, ConfigReader

TYPES = {"default": "none", "linear": "linear", "llama3": "llama3"}  # in config.json to ours
LLAMA3_FACTORS = {"low_freq_factor": LOW, "high_freq_factor": HIGH}  # Llama 3.1's, the only ones here
FULL, SLIDING = "full_attention", "sliding_attention"


def write_rope(config: ModelConfig, rope: Rope) -> dict[str, Any]:
    """Return the rotation in both forms."""
    scaling: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling != "none":
        scaling = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        scaling |= LLAMA3_FACTORS | {"original_max_position_embeddings": config.rope_trained_on}
    parameters: dict[str, Any] = scaling | {"rope_theta": config.rope_base}
    older = {rope.base: config.rope_base, "rope_scaling": None if config.rope_scaling == "none" else scaling}
    if rope.share:
        parameters["partial_rotary_factor"] = older[rope.share] = config.rotary_pct
    if rope.local_base:
        older[rope.local_base] = local = config.rope_local_base or config.rope_base
        parameters = {FULL: parameters, SLIDING: {"rope_type": "default", "rope_theta": local}}
    return {"rope_parameters": parameters, **older}


def read_rope(reader: ConfigReader, rope: Rope, n_positions: Any) -> dict[str, Any]:
    """Read base, scaling and share in either form. Raises CheckpointError."""
    settings: dict[str, Any] = {}
    new = reader.take("rope_parameters", None)
    if rope.local_base:
        local, new = _split(reader, new)
        base = _agreeing_base(reader, local, rope.local_base, rope.default_local_base, "rope_parameters")
        settings["rope_local_base"] = base
        local.finish({"factor"})
    old = reader.take("rope_scaling", None)
    name = "rope_scaling" if old else "rope_parameters"
    if new and old and _normalized_scaling(new) != _normalized_scaling(old):
        raise reader.refusal("rope_scaling", old, "rope_parameters has other values", KEEP_ONE)
    if rope.local_base and not new and _has_only_the_old_key(old):
        raise reader.refusal(
            "rope_scaling", old, "transformers does not read the key type in this family", "write rope_type instead"
        )
    # As in transformers: of two forms the older one is read, or added to the rotation of one kind of layer.
    inner = _one_rotation(reader, name, old or new or {})
    if rope.local_base and new and old:
        inner.unread = _one_rotation(reader, "rope_parameters", new).unread | inner.unread
    if not rope.local_base:
        _add_trained_context(reader, inner, name)
    settings |= _scaling(inner, n_positions)
    settings["rope_base"] = _agreeing_base(reader, inner, rope.base, rope.default_base, name)
    if rope.share:
        share = inner.take("partial_rotary_factor", None)
        default = rope.default_share if share is None else share
        outer = reader.take(rope.share, default)
        if share not in (None, outer):
            raise reader.refusal(rope.share, outer, f"{name} says {repr_short(share)}", KEEP_ONE)
        settings["rotary_pct"] = _as_float(outer)
        _refuse_other_name(reader, "partial_rotary_factor", rope.share, outer)
    if rope.base != "rope_theta":
        _refuse_other_name(reader, "rope_theta", rope.base, settings["rope_base"])
    inner.finish({"factor"} if settings["rope_scaling"] == "none" else ())
    if new and old:
        _check_newer_form(reader, new, old, settings)
    return settings


def _check_newer_form(reader: ConfigReader, new: dict[str, Any], old: Any, settings: dict[str, Any]) -> None:
    """Raise CheckpointError if `rope_parameters`, which transformers does not read beside the older form, differs."""
    for key, value in (
        ("rope_theta", settings["rope_base"]),
        ("partial_rotary_factor", settings.get("rotary_pct", 1.0)),
    ):
        if (other := new.get(key)) not in (None, value):
            reason = f"transformers then does not read {key}={repr_short(other)} in rope_parameters"
            raise reader.refusal("rope_scaling", old, reason, "remove rope_scaling")


def _has_only_the_old_key(scaling: Any) -> bool:
    """Return whether a scaling is named by `type` alone, as in older files."""
    given = scaling if isinstance(scaling, dict) else {}
    return given.get("rope_type") is None and given.get("type", "default") != "default"


def _add_trained_context(reader: ConfigReader, inner: ConfigReader, name: str) -> None:
    """Move `original_max_position_embeddings` into the scaling, where other files have it. Raises CheckpointError."""
    key = "original_max_position_embeddings"
    if (outside := reader.take(key, None)) is None:
        return
    if (inside := inner.unread.setdefault(key, outside)) != outside:
        raise reader.refusal(key, outside, f"{name} says {repr_short(inside)}", KEEP_ONE)


def _refuse_other_name(reader: ConfigReader, name: str, right: str, value: Any) -> None:
    """Raise CheckpointError if a name that transformers does not read in this family has another value."""
    if (other := reader.take(name, None)) not in (None, value):
        reason = f"transformers does not read it in this family, and has {right}={repr_short(value)}"
        raise reader.refusal(name, other, reason, f"write {right} with the right value")


def _one_rotation(reader: ConfigReader, name: str, given: Any) -> ConfigReader:
    """Return the fields of an object that holds one rotation. Raises CheckpointError for any other value."""
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise reader.refusal(name, given, "it has to be one rotation for all layers")
    return ConfigReader({k: v for k, v in given.items() if v is not None}, f"{reader.where}: {name}")


def _split(reader: ConfigReader, given: Any) -> tuple[ConfigReader, Any]:
    """Return the rotation of layers with a window, which is not scaled, and that of the others."""
    by_layer = given or {}
    if not isinstance(by_layer, dict) or not {*by_layer} <= {FULL, SLIDING}:
        raise reader.refusal("rope_parameters", given, f"it has to be a rotation for {FULL} and {SLIDING}")
    local = _one_rotation(reader, "rope_parameters", by_layer.get(SLIDING) or {})
    if (kind := local.take("rope_type", "default", also="type")) != "default":
        raise local.refusal("rope_type", kind, "the rotation of layers with a window is not scaled here")
    return local, by_layer.get(FULL)


def _agreeing_base(reader: ConfigReader, inner: ConfigReader, key: str, default: float, name: str) -> Any:
    """Return the base of a rotation, which both forms may name. Raises CheckpointError if they disagree."""
    inside, outside = inner.take("rope_theta", None), reader.take(key, None)
    if None not in (inside, outside) and inside != outside:
        raise reader.refusal(key, outside, f"{name} says {repr_short(inside)}", KEEP_ONE)
    return _as_float(next((value for value in (inside, outside) if value is not None), default))


def _scaling(rope: ConfigReader, n_positions: Any) -> dict[str, Any]:
    """Read how the context was extended."""
    kind = rope.take("rope_type", "default", also="type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise rope.refusal("rope_type", kind, f"light-llm scales by {', '.join(TYPES)}")
    settings: dict[str, Any] = {"rope_scaling": TYPES[kind]}
    trained_on = rope.take("original_max_position_embeddings", 0)
    if kind != "default":
        settings["rope_factor"] = _as_float(rope.take("factor"))
    if kind == "llama3":
        for factor, only in LLAMA3_FACTORS.items():
            if (value := rope.take(factor, only)) != only:
                raise rope.refusal(factor, value, f"it has to be {only:g}")
        settings["rope_trained"] = trained_on or n_positions
    return settings


def _normalized_scaling(rope: Any) -> Any:
    """Return the scaling without base and share and by its new name, so that both forms compare equal."""
    if not isinstance(rope, dict):
        return rope
    outside = ("rope_theta", "partial_rotary_factor")
    return {"rope_type" if k == "type" else k: v for k, v in rope.items() if k not in outside and v is not None}


def _as_float(value: Any) -> Any:
    """Return a whole number as a float, if it has one. Other types are left to the checks of ModelConfig."""
    return float(value) if type(value) is int and abs(value) < 1 << 53 else value
