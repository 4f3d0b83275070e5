"""From the `config.json` of a GPT-2, Llama or Qwen3 to a ModelConfig: every field is understood, or named and refused.

A field that is passed over in silence gives a model that nearly works. So what changes the arithmetic is read, what
only matters to training or to sampling is listed here as harmless, and any other field ends the import.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..config import ModelConfig, repr_short
from ..errors import CheckpointError, ConfigError
from ..layers.positions import HIGH, LOW

ARCHITECTURES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "llama": ("LlamaForCausalLM", "LlamaModel"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Model"),
}
TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # one formula, by three names
EXACT = ("gelu", "gelu_python")
ROPES = {"default": "none", "linear": "linear", "llama3": "llama3"}
TURNS = {"low_freq_factor": LOW, "high_freq_factor": HIGH}  # Llama 3.1's, which are ours
# Fields that decide nothing about the logits of a causal model in evaluation mode.
HARMLESS = (
    # where it is from, and in what it is kept
    "_name_or_path architectures model_type transformers_version dtype torch_dtype tokenizer_class name_or_path "
    "unsloth_version unsloth_fixed is_llama_config transformers.js_config torchscript use_bfloat16 light_llm "
    # ids that sampling asks for, and its settings
    "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id do_sample max_length min_length "
    "max_new_tokens temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences num_beams num_beam_groups diversity_penalty "
    "early_stopping forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty "
    "suppress_tokens begin_suppress_tokens prefix "
    # what is returned, and how it is computed
    "use_cache return_dict return_dict_in_generate output_hidden_states output_attentions output_scores "
    "attn_implementation _attn_implementation _attn_implementation_autoset chunk_size_feed_forward pretraining_tp "
    "gradient_checkpointing is_decoder tie_encoder_decoder tf_legacy_loss "
    # training, and heads of other tasks
    "initializer_range finetuning_task task_specific_params problem_type id2label label2id num_labels _num_labels"
)
_OF_GPT2 = (
    " n_ctx reorder_and_upcast_attn summary_type summary_use_proj summary_activation summary_proj_to_labels "
    "summary_first_dropout"
)
_MUST_BE: dict[str, tuple[Any, str]] = {  # what a field has to be, and what it would mean otherwise
    "is_encoder_decoder": (False, "it has an encoder as well"),
    "add_cross_attention": (False, "it looks at a second text"),
    "cross_attention_hidden_size": (None, "it looks at a second text"),
    "pruned_heads": ({}, "heads were taken out of it"),
    "scale_attn_weights": (True, "its scores are not divided by sqrt(d_k)"),
    "scale_attn_by_inverse_layer_idx": (False, "its scores are divided by the number of the layer"),
    "hidden_act": ("silu", "its MLP has another function"),
    "partial_rotary_factor": (1.0, "only a part of each head is turned"),
    "rope_interleaved": (False, "its rotations pair neighbouring numbers"),
}
_NOT_HERE = "light-llm has no such model; use it with the program it is from"


class Fields:
    """The fields of a `config.json`, each taken by whoever understands it; `finish` refuses those that nobody took.

    Args:
        where: the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.left = dict(values)
        self.where = where

    def take(self, name: str, *default: Any, also: str = "") -> Any:
        """The value of a field, by either name. Raises CheckpointError for one that is missing and has no default."""
        found = [self.left.pop(n) for n in (name, also) if n in self.left]
        if found[1:] and found[0] != found[1]:
            raise CheckpointError(
                f"{self.where}: {name}={repr_short(found[0])} and {also}={repr_short(found[1])} are one field by two "
                "names; "
                "keep the one that is right"
            )
        if not found and not default:
            raise CheckpointError(
                f"{self.where} has no {name}, which decides the shape; use a complete copy of the model"
            )
        return found[0] if found else default[0]

    def refuse(self, name: str, value: Any, why: str, way_out: str = _NOT_HERE) -> CheckpointError:
        """The error for a value that cannot be had here."""
        return CheckpointError(f"{self.where}: {name}={repr_short(value)} cannot be imported: {why}; {way_out}")

    def finish(self, harmless: str) -> None:
        """Raise CheckpointError for a field that is left and not known to be harmless; null means that it is off."""
        for name, (wanted, meaning) in _MUST_BE.items():
            value = self.left.pop(name, wanted)
            if value != wanted and value is not None:
                raise self.refuse(name, value, meaning)
        for name, value in sorted(self.left.items()):
            if name not in harmless.split() and value is not None:
                raise self.refuse(
                    name,
                    value,
                    "light-llm does not know this field, which may change what the model computes",
                    "if it is certain that it does not, take it out of the file",
                )


def config_of(values: Any, where: str) -> tuple[str, ModelConfig]:
    """The family and the shape that a `config.json` describes.

    Args:
        values: what the file holds.
        where: the file, for messages.

    Raises:
        CheckpointError: another architecture, a value that ours cannot have, a field that nobody knows; each named.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} holds no fields; use a complete copy of the model")
    family, fields = _family_of(values, where), Fields(values, where)
    for name in ("quantization_config", "quantization"):
        if (value := fields.take(name, None)) is not None:
            raise fields.refuse(name, value, "the weights are rounded", "use the weights it was made from")
    if (code := fields.take("auto_map", None)) is not None:
        raise fields.refuse("auto_map", code, "the model has code of its own, which is not run here")
    shape = _READERS[family](fields)
    fields.finish(HARMLESS + (_OF_GPT2 if family == "gpt2" else ""))
    try:
        return family, _usual(ModelConfig(**shape))
    except ConfigError as error:
        raise CheckpointError(f"{where} describes no model of ours: {error}") from None


def _usual(config: ModelConfig) -> ModelConfig:
    """The same shape, with 0 wherever that means it: how ours are written."""
    usual: dict[str, Any] = {}
    if config.n_kv_head == config.n_head:
        usual["n_kv_head"] = 0
    if config.head_dim * config.n_head == config.n_embd:
        usual["head_dim"] = 0
    if replace(config, n_inner=0).inner_size == config.n_inner:
        usual["n_inner"] = 0
    if replace(config, rope_trained=0).rope_trained_on == config.rope_trained:
        usual["rope_trained"] = 0
    return replace(config, **usual)


def _family_of(values: Mapping[str, Any], where: str) -> str:
    """By model_type and architectures. Raises CheckpointError for others, by name."""
    named = values.get("architectures")
    named = [name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str)]
    kind = values.get("model_type") or next((f for f, known in ARCHITECTURES.items() if {*known} & {*named}), None)
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: model_type={repr_short(kind)}{f', architectures={repr_short(named)},' if named else ''} "
            "cannot be imported; "
            f"light-llm reads {', '.join(ARCHITECTURES)}, each with a head for the next token"
        )
    if strange := [name for name in named if name not in ARCHITECTURES[kind]]:
        raise CheckpointError(
            f"{where}: architectures={repr_short(named)} cannot be imported: {repr_short(strange[0])} is not "
            f"{ARCHITECTURES[kind][0]}, which has a head for the next token; {_NOT_HERE}"
        )
    return kind


def _gpt2(fields: Fields) -> dict[str, Any]:
    activation = fields.take("activation_function", "gelu_new")
    if activation not in (*TANH, *EXACT):
        raise fields.refuse("activation_function", activation, f"it has to be one of {', '.join((*TANH, *EXACT))}")
    context = (fields.left.get("n_ctx"),) if fields.left.get("n_ctx") else ()
    fields.take("embd_pdrop", 0.1)  # there is one dropout here, and this one acts in training alone
    return {
        "vocab_size": fields.take("vocab_size"),
        "n_positions": fields.take("n_positions", *context, also="max_position_embeddings"),
        "n_embd": fields.take("n_embd", also="hidden_size"),
        "n_layer": fields.take("n_layer", also="num_hidden_layers"),
        "n_head": fields.take("n_head", also="num_attention_heads"),
        "dropout": fields.take("resid_pdrop", 0.1) or 0.0,
        "attn_dropout": fields.take("attn_pdrop", 0.1) or 0.0,
        "norm_eps": fields.take("layer_norm_epsilon", 1e-5),
        "tied_head": _flag(fields, "tie_word_embeddings", default=True),
        "activation": "gelu_tanh" if activation in TANH else "gelu",
        "n_inner": _or_zero(fields.take("n_inner", None)),
    }


def _llama(fields: Fields) -> dict[str, Any]:
    for name in ("attention_bias", "mlp_bias"):  # where it is true, the tensors have to be zeros: see import_model
        _flag(fields, name, default=False)
    shape = {
        "vocab_size": fields.take("vocab_size"),
        "n_positions": fields.take("max_position_embeddings"),
        "n_embd": fields.take("hidden_size"),
        "n_layer": fields.take("num_hidden_layers"),
        "n_head": fields.take("num_attention_heads"),
        "n_kv_head": _or_zero(fields.take("num_key_value_heads", None)),
        "head_dim": _or_zero(fields.take("head_dim", None)),
        "n_inner": fields.take("intermediate_size"),
        "norm_eps": fields.take("rms_norm_eps", 1e-6),
        "attn_dropout": fields.take("attention_dropout", 0.0) or 0.0,
        "tied_head": _flag(fields, "tie_word_embeddings", default=False),
        "bias": False,
        "positions": "rope",
        "norm": "rmsnorm",
        "mlp": "swiglu",
    }
    return shape | _rope(fields, shape["n_positions"])


def _qwen3(fields: Fields) -> dict[str, Any]:
    fields.left.setdefault("head_dim", 128)  # what Qwen3 means where the field is left out
    if "num_key_value_heads" not in fields.left:
        fields.take("num_key_value_heads")  # is missing: what Qwen3 means then is 32, whatever the other sizes
    windows = _windows(fields)
    return _llama(fields) | {"qk_norm": True} | windows


def _windows(fields: Fields) -> dict[str, Any]:
    """The window, and the layers that have it."""
    size, wanted = fields.take("sliding_window", 4096), _flag(fields, "use_sliding_window", default=False)
    first, kinds = fields.take("max_window_layers", 28), fields.take("layer_types", None)
    n = fields.left.get("num_hidden_layers")
    if not isinstance(n, int) or not 0 < n <= 1 << 16:
        raise fields.refuse("num_hidden_layers", n, "it has to be a whole number of layers")
    names = ("full_attention", "sliding_attention")
    if kinds is None:
        kinds = [names[isinstance(first, int) and i >= first] for i in range(n)]
    if not isinstance(kinds, list) or len(kinds) != n or any(kind not in names for kind in kinds):
        raise fields.refuse("layer_types", kinds, f"it has to name {' or '.join(names)} for each of {n} layers")
    chosen = [i for i, kind in enumerate(kinds) if kind == names[1]] if wanted and size is not None else []
    if not chosen:
        return {}
    return {"window": size, "window_layers": "all" if len(chosen) == n else ",".join(map(str, chosen))}


def _rope(fields: Fields, n_positions: Any) -> dict[str, Any]:
    """Base and scaling, in the form of transformers 5 (rope_parameters) or older (rope_theta and rope_scaling)."""
    new, old, base = (fields.take(name, None) for name in ("rope_parameters", "rope_scaling", "rope_theta"))
    name = "rope_parameters" if new else "rope_scaling"
    if new and old and _scaling(new) != _scaling(old):
        raise fields.refuse("rope_scaling", old, "rope_parameters says something else", "keep the one that is right")
    given = new or old or {}
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise fields.refuse(name, given, "it has to be one rotation for all layers")
    rope = Fields({k: v for k, v in given.items() if v is not None}, f"{fields.where}: {name}")
    kind = rope.take("rope_type", "default", also="type")
    if not isinstance(kind, str) or kind not in ROPES:
        raise rope.refuse("rope_type", kind, f"light-llm turns by {', '.join(ROPES)}")
    inner = rope.take("rope_theta", None)
    if None not in (inner, base) and inner != base:
        raise fields.refuse("rope_theta", base, f"{name} says {repr_short(inner)}", "keep the one that is right")
    base = next((value for value in (inner, base) if value is not None), 10000.0)
    found = {"rope_base": _float(base), "rope_scaling": ROPES[kind]}
    trained = rope.take("original_max_position_embeddings", 0)
    if kind != "default":
        found["rope_factor"] = _float(rope.take("factor"))
    if kind == "llama3":
        for part, wanted in TURNS.items():
            if (value := rope.take(part, wanted)) != wanted:
                raise rope.refuse(part, value, f"it has to be {wanted:g}")
        found["rope_trained"] = trained or n_positions
    rope.finish("factor" if kind == "default" else "")
    return found


def _scaling(rope: Any) -> Any:
    """What both forms say, in one way."""
    if not isinstance(rope, dict):
        return rope
    return {"rope_type" if k == "type" else k: v for k, v in rope.items() if k != "rope_theta" and v is not None}


def _flag(fields: Fields, name: str, *, default: bool) -> bool:
    value = fields.take(name, default)
    if type(value) is not bool:
        raise fields.refuse(name, value, "it has to be true or false", "use a complete copy of the model")
    return value


def _or_zero(value: Any) -> Any:
    """0, which here means the usual size, for null, which means it there."""
    return 0 if value is None else value


def _float(value: Any) -> Any:
    """A whole number as a float, where there is one; what is no number is left to the check of the config."""
    return float(value) if isinstance(value, int) and abs(value) < 1 << 53 else value


_READERS: dict[str, Callable[[Fields], dict[str, Any]]] = {"gpt2": _gpt2, "llama": _llama, "qwen3": _qwen3}
