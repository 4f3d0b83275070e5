"""The shape of a model from the fields of a GGUF file.

As with config.json, a field that is skipped in silence gives a model that nearly works: each field under the name of
the architecture is read, known not to change the logits, or refused by name and value. What llama.cpp computes from a
field was read in its source: src/llama-model.cpp and src/models.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig, repr_short
from ..errors import CheckpointError, ConfigError, did_you_mean
from ..layers.positions import HIGH, LOW
from .architectures import FAMILIES, Family
from .gguf_mapping import rope_factors
from .hf_config import usual_as_zero

HEAD = "output.weight"
TABLE = "token_embd.weight"
NO_EFFECT = (
    "vocab_size",
    "tensor_data_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "attention.value_length",
)
# The only accepted value of a field.
ONLY: dict[str, Any] = {
    "attention.causal": True,
    "attention.max_alibi_bias": 0,
    "attention.clamp_kqv": 0,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "nextn_predict_layers": 0,
    "pooling_type": 0,
    "rope.scaling.attn_factor": 1,
}
MAX_COUNT = 1 << 31
SCALINGS = ("none", "linear")
HIDDEN_ACTIVATION = "hidden_activation"  # written where llama.cpp's converter would mean another
GEMMA_PERIOD, GEMMA_LOCAL_BASE = 6, 10000.0  # if the file does not say
GEMMA_27B = 62  # layers: llama.cpp divides the scores by the square root of n_embd / n_head, and not of the head's size


class FieldReader:
    """The fields of an architecture that have not been read yet, by their names without it."""

    def __init__(self, fields: Mapping[str, Any], architecture: str, where: str) -> None:
        prefix = f"{architecture}."
        self.unread = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
        self.prefix, self.where = prefix, where

    def count(self, name: str, default: int | None = None) -> int:
        """Remove a field and return it: a whole number above 0, or a list of the same one for all layers."""
        value = self._take(name, default)
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            value = value[0]
        if type(value) is not int or not 0 < value < MAX_COUNT:
            raise self.refusal(name, value, "it has to be a whole number above 0, the same for all layers")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Remove a field and return it: the shortest decimal number with the same float32."""
        value = self._take(name, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.refusal(name, value, "it has to be a number")
        # 1e-05 is stored as 9.999999747378752e-06.
        return float(str(np.float32(value))) if float(np.float32(value)) == value else float(value)

    def choice(self, name: str, choices: tuple[Any, ...], *, required: bool = False) -> Any:
        """Remove a field and return it: one of the choices; the first if the file may and does not have it."""
        value = self._take(name, None if required else choices[0])
        if type(value) is not type(choices[0]) or value not in choices:
            raise self.refusal(name, value, f"it has to be {' or '.join(map(str, choices))}")
        return value

    def _take(self, name: str, default: Any) -> Any:
        """Remove a field and return it. Raises CheckpointError for one that is missing and has no default."""
        value = self.unread.pop(name, default)
        if value is None:
            raise CheckpointError(
                f"{self.where} has no field {self.prefix}{name}, without which the model cannot be computed; use a "
                "complete copy"
            )
        return value

    def drop_window(self, n_positions: int) -> None:
        """Remove a window that hides nothing in the context."""
        window = self.unread.get("attention.sliding_window")
        if type(window) is int and not 0 < window < n_positions:
            del self.unread["attention.sliding_window"]

    def refusal(self, name: str, value: Any, reason: str, remedy: str = "use it with llama.cpp") -> CheckpointError:
        """Return the error for a value that no model here has."""
        return CheckpointError(f"{self.where}: {self.prefix}{name}={repr_short(value)}: {reason}; {remedy}")

    def finish(self) -> None:
        """Raise CheckpointError for a field that was not read and may change the logits."""
        for name, value in sorted(self.unread.items()):
            if name in NO_EFFECT or (name in ONLY and value == ONLY[name]):
                continue
            raise self.refusal(
                name,
                value,
                "it may change what the model computes, and light-llm does not have it",
                f"if you are certain that it does not: {{--ignore-field {self.prefix}{name}}}",
            )


def read_shape(
    fields: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    where: str,
    *,
    tied: bool,
) -> tuple[Family, ModelConfig]:
    """Return the family and the shape of the model in a file.

    Args:
        fields: of the file.
        tensors: the shape of each tensor by name.
        where: the file, for messages.
        tied: whether the head is the token table.

    Raises CheckpointError for another architecture, a field with a value that no model here has, or an unknown field.
    """
    family, architecture = _find_family(fields, where)
    reader = FieldReader(fields, architecture, where)
    settings = _sizes(reader, family) | {"vocab_size": _rows(reader, tensors), "tied_head": tied}
    # Checked before a name is made for each layer of a file that says a billion.
    if settings["n_layer"] > len(tensors):
        raise reader.refusal("block_count", settings["n_layer"], f"it has {len(tensors):,} tensors", "use another copy")
    settings |= _choices(reader, family, settings)
    reader.drop_window(settings["n_positions"])
    reader.finish()
    required = {name: value for name, value in family.required.items() if name not in settings}
    try:
        return family, usual_as_zero(ModelConfig(**required, **settings))
    except ConfigError as error:
        raise CheckpointError(f"{where} describes a model that light-llm does not have: {error.message}") from None


def _find_family(fields: Mapping[str, Any], where: str) -> tuple[Family, str]:
    """Return the family by general.architecture. Raises CheckpointError for another, by name."""
    name, kind = fields.get("general.architecture"), fields.get("general.type", "model")
    if kind != "model":
        raise CheckpointError(f"{where} holds no model: general.type={repr_short(kind)}; name a file with a model")
    families: dict[str, Family] = {}
    for family in FAMILIES.values():
        if family.gguf:
            families.setdefault(family.gguf.architecture or family.name, family)
    if not isinstance(name, str) or name not in families:
        raise CheckpointError(
            f"{where}: general.architecture={repr_short(name)} cannot be imported; light-llm reads "
            f"{', '.join(sorted(families))}{did_you_mean(str(name), families)}"
        )
    return families[name], name


def _sizes(reader: FieldReader, family: Family) -> dict[str, Any]:
    """Read the sizes, and the epsilon of the norms."""
    kind = "layer_norm" if family.required["norm"] == "layernorm" else "layer_norm_rms"
    settings: dict[str, Any] = {
        "n_positions": reader.count("context_length"),
        "n_embd": reader.count("embedding_length"),
        "n_layer": reader.count("block_count"),
        "n_inner": reader.count("feed_forward_length"),
        "n_head": (n_head := reader.count("attention.head_count")),
        "n_kv_head": reader.count("attention.head_count_kv", n_head),
        "norm_eps": reader.number(f"attention.{kind}_epsilon"),
    }
    D = reader.count("attention.key_length", max(1, settings["n_embd"] // n_head))
    if (other := reader.unread.get("attention.value_length", D)) != D:
        raise reader.refusal("attention.value_length", other, f"keys have {D} numbers")
    return settings | {"head_dim": D}


def _rows(reader: FieldReader, tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Return the rows of the token table. Raises CheckpointError without one, or if a field says another number."""
    table = tensors.get(TABLE)
    if table is None or len(table) != 2:
        raise CheckpointError(
            f"{reader.where} has no tensor {TABLE}, the token table; use a complete copy of the model"
        )
    if (claimed := reader.unread.get("vocab_size", table[0])) != table[0]:
        raise reader.refusal("vocab_size", claimed, f"{TABLE} has {table[0]:,} rows", "use a complete copy")
    return table[0]


def _choices(reader: FieldReader, family: Family, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read what is open in a family, besides its sizes."""
    traits = family.gguf
    assert traits
    choices: dict[str, Any] = {}
    if family.required["positions"] == "rope":
        choices |= _rotation(reader, settings, partial=traits.partial_rotation)
    if traits.windows:
        choices |= _windows(reader, settings)
        if settings["n_layer"] == GEMMA_27B:
            choices |= {"attn_scale": (settings["n_embd"] / settings["n_head"]) ** -0.5}
    if activations := traits.supported.get("activation"):
        choices |= {"activation": reader.choice(HIDDEN_ACTIVATION, activations)}
    if traits.parallel_residual:
        # llama.cpp does not open a file without it.
        choices |= {"parallel_residual": reader.choice("use_parallel_residual", (True, False), required=True)}
    return choices


def _rotation(reader: FieldReader, settings: Mapping[str, Any], *, partial: bool) -> dict[str, Any]:
    """Read base, scaling and the rotated share of a head."""
    D = settings["head_dim"]
    kind = reader.unread.pop("rope.scaling.type", "linear")  # llama.cpp's default
    if kind not in SCALINGS:
        raise reader.refusal("rope.scaling.type", kind, f"light-llm scales rotations by {', '.join(SCALINGS)}")
    older = reader.number("rope.scale_linear", 0.0)
    factor = reader.number("rope.scaling.factor", older)
    # The type none turns a factor off, and without a factor there is no scaling.
    kind = "none" if factor in (0.0, 1.0) else kind
    rotated = reader.count("rope.dimension_count", D)
    rotation: dict[str, Any] = {"rope_base": reader.number("rope.freq_base", 10000.0), "rope_scaling": kind}
    rotation |= {"rope_factor": factor} if kind == "linear" else {}
    if rotated != D and not (partial and rotated < D):
        raise reader.refusal("rope.dimension_count", rotated, f"the {D} numbers of a head are rotated")
    if partial:
        rotation |= {"rotary_pct": rotated / D}
    return rotation


def _windows(reader: FieldReader, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the size of the window, the layers that have it, and the base of their rotation: Gemma 3's."""
    size, period = reader.unread.pop("attention.sliding_window", 0), GEMMA_PERIOD
    pattern = reader.unread.pop("attention.sliding_window_pattern", period)
    base = reader.number("rope.freq_base_swa", GEMMA_LOCAL_BASE)
    if not size:
        return {}
    n = settings["n_layer"]
    if isinstance(pattern, list) and len(pattern) >= n and all(isinstance(entry, bool) for entry in pattern):
        layers = [i for i in range(n) if pattern[i]]
    elif type(pattern) is int and pattern >= 0:
        # A period of 0 gives all layers the window.
        layers = [i for i in range(n) if not pattern or i % pattern < pattern - 1]
    else:
        raise reader.refusal("attention.sliding_window_pattern", pattern, "it has to be a number or a list of booleans")
    if not layers:
        return {}
    return {
        "window": size,
        "window_layers": "all" if len(layers) == n else ",".join(map(str, layers)),
        "rope_local_base": base,
    }


def has_divisors(family: Family) -> bool:
    """Return whether llama.cpp divides the frequencies of the family by a tensor of the file."""
    return family.gguf is not None and "llama3" in family.gguf.supported.get("rope_scaling", ())


def with_llama3_scaling(config: ModelConfig, factors: Tensor, where: str) -> ModelConfig:
    """Return the config with Llama 3's scaling that gives these divisors of the frequencies.

    The largest divisor is the factor. One between 1 and the factor tells how many turns its frequency makes in the
    trained context, and so the context.

    Raises CheckpointError if no such scaling gives them.
    """
    if bool((factors == 1).all()):
        return config
    factor = float(factors.max())
    theta = config.rope_base ** -(torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size)
    candidates = [8192, round(config.n_positions / max(factor, 1.0))]
    if factors.shape == theta.shape and factor > 1:
        share = (1 / factors.double() - 1 / factor) / (1 - 1 / factor)  # 1: unchanged, 0: divided by the factor
        between = (share > 1e-3) & (share < 1 - 1e-3)
        turns = LOW + (HIGH - LOW) * share[between]
        candidates = [round(float(n)) for n in turns * 2 * math.pi / theta[between]] + candidates
        for trained in candidates:
            scaled: dict[str, Any] = {
                "rope_scaling": "llama3",
                "rope_factor": float(np.float32(factor)),
                "rope_trained": trained,
            }
            found = replace(config, **scaled) if 0 < trained < MAX_COUNT else config
            if torch.allclose(rope_factors(found), factors, rtol=1e-4, atol=0):
                return usual_as_zero(found)
    raise CheckpointError(
        f"{where}: rope_freqs.weight holds divisors up to {factor:g} that are not those of Llama 3's scaling, the only "
        "one with divisors here; use it with llama.cpp"
    )
