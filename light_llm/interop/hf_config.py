"""The `config.json` of a model family: written from a ModelConfig, and read into one.

A field that is skipped in silence gives a model that nearly works. So each field is read, known not to change the
logits, or refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import ModelConfig, repr_short
from ..config.choices import POSITIONS
from ..errors import CheckpointError, ConfigError
from .architectures import FAMILIES, family_of
from .family import Family
from .hf_fields import UNSUPPORTED, ConfigReader
from .hf_rope import read_rope, write_rope
from .hf_windows import FORMS
from .nearest_family import missing_in

LLAMA_FLAGS = ("attention_bias", "mlp_bias")


def write_config(
    config: ModelConfig, *, separator: int | None, dtype: str, family: Family | None = None
) -> dict[str, Any]:
    """Return the content of `config.json`, for transformers 5 and, where names differ, for older versions too.

    Args:
        family: that the model came from; by default the first that has such a model.

    Raises ConfigError for a model of no family, or heads that transformers refuses in a Llama.
    """
    family = family or family_of(config)
    if family.needs_whole_heads and config.n_embd % config.n_head:
        raise ConfigError(
            f"transformers refuses a {family.title} whose n_embd={config.n_embd} is not a multiple of "
            f"n_head={config.n_head}, whatever head_dim says; train one with "
            f"n_embd={-(-config.n_embd // config.n_head) * config.n_head}, or with qk_norm, which makes it a Qwen3"
        )
    values: dict[str, Any] = {
        "architectures": [family.classes[0]],
        "model_type": family.name,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,  # its older name
    }
    for field in family.fields:
        value = getattr(config, field.written or field.setting)
        if field.values:
            value = next(name for name, setting in field.values.items() if setting == value)
        # 0 is off here, and null there.
        values[field.key] = None if field.default is None and value == 0 else value
        values |= dict.fromkeys(field.copies, values[field.key])
    values |= family.also_written(config)
    if POSITIONS[config.positions].rotary:
        values |= write_rope(config, family.rope)
    write_windows, _ = FORMS[family.windows]
    return values | write_windows(config)


def read_config(values: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """Return the family and the shape that the fields of a `config.json`, `where`, describe.

    Raises CheckpointError for another architecture, a value that no model here has, or an unknown field, by name.
    """
    family, reader = _find_family(values, where), ConfigReader(values, where)
    # Before the fields, so that the message names the cause and not an odd shape that follows from it.
    for name in ("quantization_config", "quantization"):
        if (value := reader.take(name, None)) is not None:
            raise reader.refusal(name, value, "the weights are quantized", "use the model from before it was quantized")
    _, read_windows = FORMS[family.windows]
    settings = dict(family.required) | read_windows(reader)
    settings |= {field.setting: reader.read(field) for field in family.fields}
    if POSITIONS[settings["positions"]].rotary:
        settings |= read_rope(reader, family.rope, settings["n_positions"])
    if family.zero_biases:
        # Where it is true the file may have biases of zeros: read_folder and from_hf_tensors look at them.
        for name in LLAMA_FLAGS:
            reader.take_flag(name, default=False)
    if "attn_scale" in family.free:
        settings["attn_scale"] = _read_scale(reader, settings["head_dim"])
    reader.finish(family.ignored.split())
    try:
        return family, usual_as_zero(ModelConfig(**settings))
    except ConfigError as error:
        raise CheckpointError(f"{where} describes a model that light-llm does not have: {error.message}") from None


def _read_scale(reader: ConfigReader, head_dim: Any) -> float:
    """Return the factor of the scores, 1 / sqrt(query_pre_attn_scalar); 0 for 1 / sqrt(d_k)."""
    scalar = reader.take("query_pre_attn_scalar", 256)
    if type(scalar) not in (int, float) or not scalar >= 1:
        raise reader.refusal("query_pre_attn_scalar", scalar, "it has to be a number at least 1")
    return 0.0 if scalar == head_dim else float(scalar) ** -0.5


def usual_as_zero(config: ModelConfig) -> ModelConfig:
    """Return the same shape with 0 for each size that 0 stands for, as our own configs have it."""
    # Otherwise a re-imported model would not equal its own preset.
    is_usual = {
        "n_kv_head": config.n_kv_head == config.n_head,
        "head_dim": config.head_dim * config.n_head == config.n_embd,
        "n_inner": replace(config, n_inner=0).inner_size == config.n_inner,
        "rope_trained": replace(config, rope_trained=0).rope_trained_on == config.rope_trained,
    }
    usual: dict[str, Any] = dict.fromkeys((name for name, usual in is_usual.items() if usual), 0)
    return replace(config, **usual)


def _find_family(values: Mapping[str, Any], where: str) -> Family:
    """Return the family by model_type and architectures. Raises CheckpointError for others, by name."""
    named = values.get("architectures")
    named = [name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str)]
    of_classes = next((f.name for f in FAMILIES.values() if {*f.classes} & {*named}), None)
    # Very old files have no model_type.
    kind = values.get("model_type") or of_classes
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f"{where}: model_type={repr_short(kind)}{f', architectures={repr_short(named)},' if named else ''} "
            f"cannot be imported{missing_in(kind)}; light-llm reads {', '.join(FAMILIES)}, each with a head for the "
            "next token"
        )
    if others := [name for name in named if name not in FAMILIES[kind].classes]:
        raise CheckpointError(
            f"{where}: architectures={repr_short(named)} cannot be imported: {repr_short(others[0])} is not "
            f"{FAMILIES[kind].classes[0]}, which has a head for the next token; {UNSUPPORTED}"
        )
    return FAMILIES[kind]
