"""The `config.json` of a model family: written from a ModelConfig, and read into one.

A field that is skipped in silence gives a model that nearly works. So each field is read, known not to change the
logits, or refused by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..config import ModelConfig, repr_short
from ..config.choices import POSITIONS
from ..errors import CheckpointError, ConfigError
from ..layers.positions import HIGH, LOW
from .architectures import FAMILIES, REQUIRED, ConfigField, Family, family_of, has_window

ROPE_TYPES = {"default": "none", "linear": "linear", "llama3": "llama3"}  # in config.json to ours
LLAMA3_FACTORS = {"low_freq_factor": LOW, "high_freq_factor": HIGH}  # Llama 3.1's, the only ones here
LAYER_TYPES = ("full_attention", "sliding_attention")
# Fields that do not change the logits of a causal model in evaluation mode.
IGNORED = (
    # origin, and how the weights are stored
    "_name_or_path architectures model_type transformers_version dtype torch_dtype tokenizer_class name_or_path "
    "unsloth_version unsloth_fixed is_llama_config transformers.js_config torchscript use_bfloat16 light_llm "
    # token ids and settings of sampling
    "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id do_sample max_length min_length "
    "max_new_tokens temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences num_beams num_beam_groups diversity_penalty "
    "early_stopping forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty "
    "suppress_tokens begin_suppress_tokens prefix "
    # outputs, and how they are computed
    "use_cache return_dict return_dict_in_generate output_hidden_states output_attentions output_scores "
    "attn_implementation _attn_implementation _attn_implementation_autoset chunk_size_feed_forward pretraining_tp "
    "gradient_checkpointing is_decoder tie_encoder_decoder tf_legacy_loss "
    # training, and heads of other tasks
    "initializer_range finetuning_task task_specific_params problem_type id2label label2id num_labels _num_labels"
)
# The only accepted value of a field, and the meaning of any other.
_ONLY: dict[str, tuple[Any, str]] = {
    "is_encoder_decoder": (False, "it has an encoder as well"),
    "add_cross_attention": (False, "it attends to a second text"),
    "cross_attention_hidden_size": (None, "it attends to a second text"),
    "pruned_heads": ({}, "some of its heads were pruned"),
    "scale_attn_weights": (True, "its scores are not divided by sqrt(d_k)"),
    "scale_attn_by_inverse_layer_idx": (False, "its scores are divided by the number of the layer"),
    "hidden_act": ("silu", "its MLP has another activation"),
    "partial_rotary_factor": (1.0, "only a part of each head is rotated"),
    "rope_interleaved": (False, "its rotations pair neighbouring numbers"),
}
_UNSUPPORTED = "light-llm has no such model; use it with the program that made it"
_KEEP_ONE = "keep the one that is right"


def write_config(config: ModelConfig, *, separator: int | None, dtype: str) -> dict[str, Any]:
    """Return the content of `config.json`, for transformers 5 and, where names differ, for older versions too.

    Raises ConfigError for a model of no family, or heads that transformers refuses in a Llama.
    """
    family = family_of(config)
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
        values[field.key] = value
    values |= family.also_written(config)
    if POSITIONS[config.positions].rotary:
        values |= _write_rope(config)
    if family.layer_windows:
        values |= _write_windows(config)
    return values


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    """Return the rotation in the form of transformers 5 (rope_parameters) and in the older one (the other two)."""
    scaling: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling != "none":
        scaling = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        scaling |= LLAMA3_FACTORS | {"original_max_position_embeddings": config.rope_trained_on}
    return {
        "rope_parameters": scaling | {"rope_theta": config.rope_base},
        "rope_theta": config.rope_base,
        "rope_scaling": None if config.rope_scaling == "none" else scaling,
    }


def _write_windows(config: ModelConfig) -> dict[str, Any]:
    windows = has_window(config)
    return {
        "use_sliding_window": windows,
        "sliding_window": config.window if windows else None,
        "layer_types": [LAYER_TYPES[bool(config.window_size(layer))] for layer in range(config.n_layer)],
        "max_window_layers": config.n_layer,
    }


class ConfigReader:
    """The fields of a `config.json` that have not been read yet. Messages name the file by `where`."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.unread = dict(values)
        self.where = where

    def take(self, name: str, default: Any = REQUIRED, *, also: str = "") -> Any:
        """Remove a field, under either name, and return its value.

        Raises CheckpointError if it is missing and has no default, or both names are there and disagree.
        """
        values = [self.unread.pop(n) for n in (name, also) if n in self.unread]
        if values[1:] and values[0] != values[1]:
            raise CheckpointError(
                f"{self.where}: {name}={repr_short(values[0])} and {also}={repr_short(values[1])} are one field "
                f"by two names; {_KEEP_ONE}"
            )
        if not values and default is REQUIRED:
            raise CheckpointError(
                f"{self.where} has no {name}, which decides the shape; use a complete copy of the model"
            )
        return values[0] if values else default

    def take_flag(self, name: str, default: Any) -> bool:
        """Take a field that must be true or false. Raises CheckpointError for any other value."""
        value = self.take(name, default)
        if type(value) is not bool:
            raise self.refusal(name, value, "it has to be true or false", "use a complete copy of the model")
        return value

    def read(self, field: ConfigField) -> Any:
        """Take a field and return the setting of ModelConfig that it means. Raises CheckpointError."""
        if isinstance(field.default, bool):
            return self.take_flag(field.key, field.default)
        default = self.unread.get(field.fallback) or field.default
        value = self.take(field.key, default, also=field.also)
        if field.values:
            if not isinstance(value, str) or value not in field.values:
                raise self.refusal(field.key, value, f"it has to be one of {', '.join(field.values)}")
            return field.values[value]
        return 0 if value is None else value  # null there and 0 here: off, or the usual size

    def refusal(self, name: str, value: Any, reason: str, remedy: str = _UNSUPPORTED) -> CheckpointError:
        """Return the error for a value that no model here has."""
        return CheckpointError(f"{self.where}: {name}={repr_short(value)} cannot be imported: {reason}; {remedy}")

    def finish(self, ignored: Iterable[str]) -> None:
        """Raise CheckpointError for an unread field that may change the logits. Null means that a field is off."""
        for name, (only, meaning) in _ONLY.items():
            value = self.unread.pop(name, only)
            if value != only and value is not None:
                raise self.refusal(name, value, meaning)
        for name, value in sorted(self.unread.items()):
            if name not in ignored and value is not None:
                raise self.refusal(
                    name,
                    value,
                    "light-llm does not know this field, which may change what the model computes",
                    "if you are certain that it does not, remove it from the file",
                )


def read_config(values: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """Return the family and the shape that the fields of a `config.json`, `where`, describe.

    Raises CheckpointError for another architecture, a value that no model here has, or an unknown field, by name.
    """
    family, reader = _find_family(values, where), ConfigReader(values, where)
    # Before the fields, so that the message names the cause and not an odd shape that follows from it.
    for name in ("quantization_config", "quantization"):
        if (value := reader.take(name, None)) is not None:
            raise reader.refusal(name, value, "the weights are quantized", "use the model from before it was quantized")
    if (code := reader.take("auto_map", None)) is not None:
        raise reader.refusal("auto_map", code, "the model comes with its own code, which is not run here")
    # `window` is 0 by default, and a family without windows has no field for it.
    settings = {name: value for name, value in family.required.items() if name != "window"}
    if family.layer_windows:
        settings |= _read_windows(reader)
    settings |= {field.setting: reader.read(field) for field in family.fields}
    if POSITIONS[settings["positions"]].rotary:
        settings |= _read_rope(reader, settings["n_positions"])
        # Where it is true the file may have biases of zeros: read_folder and from_hf_tensors look at them.
        for name in ("attention_bias", "mlp_bias"):
            reader.take_flag(name, default=False)
    reader.finish({*IGNORED.split(), *family.ignored.split()})
    try:
        return family, usual_as_zero(ModelConfig(**settings))
    except ConfigError as error:
        raise CheckpointError(f"{where} describes a model that light-llm does not have: {error}") from None


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
            f"cannot be imported; light-llm reads {', '.join(FAMILIES)}, each with a head for the next token"
        )
    if others := [name for name in named if name not in FAMILIES[kind].classes]:
        raise CheckpointError(
            f"{where}: architectures={repr_short(named)} cannot be imported: {repr_short(others[0])} is not "
            f"{FAMILIES[kind].classes[0]}, which has a head for the next token; {_UNSUPPORTED}"
        )
    return FAMILIES[kind]


def _read_windows(reader: ConfigReader) -> dict[str, Any]:
    """Read the size of the window and the layers that have it."""
    size, used = reader.take("sliding_window", 4096), reader.take_flag("use_sliding_window", default=False)
    first, types = reader.take("max_window_layers", 28), reader.take("layer_types", None)
    n = reader.unread.get("num_hidden_layers")
    # A list is made of n entries below, so n is bounded before ModelConfig can check it.
    if not isinstance(n, int) or not 0 < n <= 1 << 16:
        raise reader.refusal("num_hidden_layers", n, "it has to be a whole number of layers")
    if types is None:  # the older form: windows from a layer on
        types = [LAYER_TYPES[isinstance(first, int) and i >= first] for i in range(n)]
    if not isinstance(types, list) or len(types) != n or any(kind not in LAYER_TYPES for kind in types):
        raise reader.refusal("layer_types", types, f"it has to name {' or '.join(LAYER_TYPES)} for each of {n} layers")
    layers = [i for i, kind in enumerate(types) if kind == LAYER_TYPES[1]] if used and size is not None else []
    if not layers:
        return {}
    return {"window": size, "window_layers": "all" if len(layers) == n else ",".join(map(str, layers))}


def _read_rope(reader: ConfigReader, n_positions: Any) -> dict[str, Any]:
    """Read base and scaling, in the form of transformers 5 (rope_parameters) or older (rope_theta and rope_scaling)."""
    new, old, base = (reader.take(name, None) for name in ("rope_parameters", "rope_scaling", "rope_theta"))
    name = "rope_parameters" if new else "rope_scaling"
    if new and old and _normalized_scaling(new) != _normalized_scaling(old):
        raise reader.refusal("rope_scaling", old, "rope_parameters has other values", _KEEP_ONE)
    given = new or old or {}
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise reader.refusal(name, given, "it has to be one rotation for all layers")
    rope = ConfigReader({k: v for k, v in given.items() if v is not None}, f"{reader.where}: {name}")
    kind = rope.take("rope_type", "default", also="type")
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise rope.refusal("rope_type", kind, f"light-llm scales by {', '.join(ROPE_TYPES)}")
    inner_base = rope.take("rope_theta", None)
    if None not in (inner_base, base) and inner_base != base:
        raise reader.refusal("rope_theta", base, f"{name} says {repr_short(inner_base)}", _KEEP_ONE)
    base = next((value for value in (inner_base, base) if value is not None), 10000.0)
    settings = {"rope_base": _as_float(base), "rope_scaling": ROPE_TYPES[kind]}
    trained_on = rope.take("original_max_position_embeddings", 0)
    if kind != "default":
        settings["rope_factor"] = _as_float(rope.take("factor"))
    if kind == "llama3":
        for factor, only in LLAMA3_FACTORS.items():
            if (value := rope.take(factor, only)) != only:
                raise rope.refusal(factor, value, f"it has to be {only:g}")
        settings["rope_trained"] = trained_on or n_positions
    rope.finish({"factor"} if kind == "default" else ())
    return settings


def _normalized_scaling(rope: Any) -> Any:
    """Return the scaling without the base and by its new name, so that both forms compare equal."""
    if not isinstance(rope, dict):
        return rope
    return {"rope_type" if k == "type" else k: v for k, v in rope.items() if k != "rope_theta" and v is not None}


def _as_float(value: Any) -> Any:
    """Return a whole number as a float, if it has one. Other types are left to the checks of ModelConfig."""
    return float(value) if isinstance(value, int) and abs(value) < 1 << 53 else value
