"""The fields of a `config.json`, read one by one: each is used, known not to change the logits, or refused by name."""

from collections.abc import Collection, Mapping
from typing import Any

from ..config import repr_short
from ..errors import CheckpointError, ConfigError, did_you_mean
from .family import REQUIRED, ConfigField

# Fields that do not change the logits of a causal model in evaluation mode, by the reason.
IGNORED = {
    "where the model and its files come from": "_name_or_path name_or_path architectures model_type "
    "transformers_version _commit_hash tokenizer_class unsloth_version unsloth_fixed is_llama_config "
    "transformers.js_config light_llm",
    "code of other programs, which is never run: a known model_type needs none": "auto_map custom_pipelines",
    "how the numbers are stored; the weights themselves say it": "dtype torch_dtype torchscript use_bfloat16",
    "token ids, which the tokenizer and the generation use": "bos_token_id eos_token_id pad_token_id sep_token_id "
    "unk_token_id cls_token_id mask_token_id decoder_start_token_id",
    "settings of generation, which older files hold": "do_sample max_length min_length max_new_tokens temperature "
    "top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
    "bad_words_ids num_return_sequences num_beams num_beam_groups diversity_penalty early_stopping forced_bos_token_id "
    "forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
    "prefix",
    "what is returned and cached, and how the same numbers are computed": "use_cache cache_implementation return_dict "
    "return_dict_in_generate output_hidden_states output_attentions output_scores attn_implementation "
    "_attn_implementation _attn_implementation_autoset chunk_size_feed_forward pretraining_tp gradient_checkpointing "
    "output_past _flash_attn_2_enabled is_decoder tie_encoder_decoder tf_legacy_loss _sliding_window_pattern",
    "training: initial weights, dropout of other programs and heads": "initializer_range initializer_factor "
    "classifier_dropout classifier_dropout_prob attention_probs_dropout_prob hidden_dropout_prob neftune_noise_alpha",
    "the context once more; max_position_embeddings decides": "max_sequence_length model_max_length",
    "heads of other tasks": "finetuning_task task_specific_params problem_type id2label label2id num_labels "
    "_num_labels",
}
IGNORED_NAMES = {name for names in IGNORED.values() for name in names.split()}
# The only accepted value of a field, or a tuple of values that mean the same, and the meaning of any other.
_ONLY: dict[str, tuple[Any, str]] = {
    "is_encoder_decoder": (False, "it has an encoder as well"),
    "add_cross_attention": (False, "it attends to a second text"),
    "cross_attention_hidden_size": (None, "it attends to a second text"),
    "pruned_heads": ({}, "some of its heads were pruned"),
    "scale_attn_weights": (True, "its scores are not divided by sqrt(d_k)"),
    "scale_attn_by_inverse_layer_idx": (False, "its scores are divided by the number of the layer"),
    "partial_rotary_factor": (1.0, "only a part of each head is rotated"),
    "rope_interleaved": (False, "its rotations pair neighbouring numbers"),
    "hidden_act": (("silu", "swish"), "its MLP has another activation"),
    "attention_bias": (True, "its attention has no biases, and its MLPs have"),
    "use_mrope": (False, "its positions are those of images as well"),
    "attn_logit_softcapping": (None, "its scores are capped"),
    "use_bidirectional_attention": (False, "its tokens attend to later ones"),
}
UNSUPPORTED = "light-llm has no such model; use it with the program that made it"
KEEP_ONE = "keep the one that is right"


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
                f"by two names; {KEEP_ONE}"
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

    def count(self, key: str) -> int:
        """Return the number of layers, which is not taken: lists of so many entries are made before it is checked."""
        n = self.unread.get(key)
        if not isinstance(n, int) or not 0 < n <= 1 << 16:
            raise self.refusal(key, n, "it has to be a whole number of layers")
        return n

    def refusal(self, name: str, value: Any, reason: str, remedy: str = UNSUPPORTED) -> CheckpointError:
        """Return the error for a value that no model here has."""
        return CheckpointError(f"{self.where}: {name}={repr_short(value)} cannot be imported: {reason}; {remedy}")

    def finish(self, ignored: Collection[str] = ()) -> None:
        """Raise CheckpointError for an unread field that may change the logits. Null means that a field is off."""
        for name, (only, meaning) in _ONLY.items():
            value, accepted = self.unread.pop(name, None), only if isinstance(only, tuple) else (only,)
            if value is not None and value not in accepted and name not in ignored:
                raise self.refusal(name, value, meaning)
        for name, value in sorted(self.unread.items()):
            if name not in IGNORED_NAMES and name not in ignored and value is not None:
                raise self.refusal(
                    name,
                    value,
                    "light-llm does not know this field, which may change what the model computes",
                    f"if you are certain that it does not, {{--ignore-field {name}}}",
                )


def without_fields(values: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
    """Return the fields without those that the user wants ignored. Raises ConfigError for one that is not there."""
    for name in names:
        if name not in values:
            raise ConfigError(
                f"{where} has no field {repr_short(name)}, which {{--ignore-field}} names"
                f"{did_you_mean(name, values) or '.'}"
            )
    return {name: value for name, value in values.items() if name not in names}
