"""Tensors between our names and those of transformers: one mapping per family, used for export and for import.

Two differences break a model without an error where they are forgotten: GPT-2's matrices are stored as (in, out), and a
tied head has no tensor in the file.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.model_file import WEIGHT_DTYPES
from ..config import ModelConfig, block_shapes, outer_shapes, repr_short
from ..errors import CheckpointError
from .architectures import TensorNames, family_of

COMPLETE = "use a complete copy of the model"
HEAD = "lm_head.weight"
# Older files also hold masks and the frequencies of the rotation, which are computed here.
_BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq", re.ASCII)
_BIASES = re.compile(r"layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.bias", re.ASCII)


def tensor_mappings(
    names: TensorNames, config: ModelConfig
) -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]], bool]]:
    """Yield for each parameter its name, the tensors of its rows in transformers, and whether they are transposed.

    A tensor in transformers is its name without prefix, and the shape of its rows as (out, in).
    """
    D = config.head_size
    qkv_rows = [config.n_head * D, config.kv_heads * D, config.kv_heads * D]
    shapes = [("", "", name, shape) for name, shape in outer_shapes(config).items()]
    for i in range(config.n_layer):
        shapes += [(f"h.{i}.", f"{names.layers}.{i}.", name, shape) for name, shape in block_shapes(config).items()]
    for our_prefix, hf_prefix, name, shape in shapes:
        parts = names.names[name]
        rows = [shape[0]] if len(parts) == 1 else qkv_rows
        tensors = [(hf_prefix + part, (n, *shape[1:])) for part, n in zip(parts, rows, strict=True)]
        yield our_prefix + name, tensors, name in names.transposed


def to_hf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names, and in the shapes, that transformers gives them."""
    family = family_of(config)
    with_biases = replace(config, bias=config.bias or family.always_biased)
    tensors = {}
    for name, parts, transposed in tensor_mappings(family.tensors, with_biases):
        rows = [shape[0] for _, shape in parts]
        # A bias that the model does not have is zero in the file.
        tensor = state[name] if name in state else torch.zeros(sum(rows))
        for (part, _), piece in zip(parts, tensor.split(rows), strict=True):
            prefix = "" if part == HEAD else family.tensors.prefix
            tensors[prefix + part] = piece.T.contiguous() if transposed else piece
    return tensors


def strip_prefix(tensors: Mapping[str, Tensor], names: TensorNames, where: Path) -> dict[str, Tensor]:
    """Return the tensors without the prefix of their family, and without buffers.

    Raises CheckpointError for a name with and without the prefix, or a number type that weights do not have.
    """
    stripped: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(names.prefix)
        if _BUFFERS.fullmatch(name):
            continue
        if name in stripped:
            raise CheckpointError(f"{where} holds {name} twice, with {names.prefix} and without; {COMPLETE}")
        if tensor.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{where}: {full} holds numbers of type {str(tensor.dtype).removeprefix('torch.')}; only float32, "
                "float16, bfloat16 and float64 are weights here: use the model from before it was quantized"
            )
        stripped[name] = tensor
    return stripped


def from_hf_tensors(
    tensors: dict[str, Tensor], names: TensorNames, config: ModelConfig, where: Path
) -> dict[str, Tensor]:
    """Return all parameters of a model, float32 by our names, each in a storage of its own.

    Args:
        tensors: from `strip_prefix`; emptied, so that each is freed once it is converted.
        where: the folder or file, for messages.

    Raises CheckpointError for a tensor that is missing, unknown, or of another shape than the config gives it.
    """
    # Checked before a name is made for each layer of a config that says a billion.
    if config.n_layer > len(tensors):
        raise CheckpointError(
            f"{where}: its config says {repr_short(config.n_layer)} layers, but it has {len(tensors):,} tensors; "
            + COMPLETE
        )
    # Older files repeat a tied table; it is checked below and not loaded twice.
    head = tensors.pop(HEAD, None) if config.tied_head else None
    weights = {}
    for name, parts, transposed in tensor_mappings(names, config):
        # torch.cat copies even a single piece: a model file holds whole storages, and refuses shared ones.
        weights[name] = torch.cat([_take(tensors, part, shape, transposed, where).float() for part, shape in parts])
    if head is not None and not same_numbers(head, weights["wte.weight"]):
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true, but lm_head.weight differs from the token table; if it is meant to "
            "be a separate table, set tie_word_embeddings to false in config.json"
        )
    _refuse_unknown(tensors, where)
    return weights


def drop_zero_biases(config: ModelConfig, weights: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Drop the biases of a trained GPT-2 if all of them are zero: it was trained without.

    transformers' GPT-2 always has biases, so a model without them is exported with zeros. An untrained GPT-2 has zeros
    too, but norms whose gains are all 1: it keeps its biases.
    """
    biases = [name for name in weights if name.endswith(".bias")]
    gains = [name for name in weights if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight"))]
    if any(weights[name].any() for name in biases) or all(bool((weights[name] == 1).all()) for name in gains):
        return config, weights
    return replace(config, bias=False), {name: t for name, t in weights.items() if name not in biases}


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Return whether two tables hold the same numbers."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())


def _take(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], transposed: bool, where: Path) -> Tensor:
    """Remove a tensor from the table and return it as (out, in). Raises CheckpointError."""
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise CheckpointError(f"{where} has no tensor {name}; {COMPLETE}")
    expected, actual = shape[::-1] if transposed else shape, tuple(tensor.shape)
    if actual != expected:
        raise CheckpointError(
            f"{where}: {name} has the shape {repr_short(actual)}, and its config asks for {repr_short(expected)}; "
            + COMPLETE
        )
    return tensor.t() if transposed else tensor


def _refuse_unknown(tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raise CheckpointError for unused tensors. Biases of zeros are accepted, because they add nothing."""
    for name in sorted(tensors):
        if _BIASES.fullmatch(name) and tensors[name].any():
            field = "mlp_bias" if ".mlp." in name else "attention_bias"
            raise CheckpointError(
                f"{where}: {field}=True cannot be imported: {name} is not zero, and a Llama has no such bias here; "
                "use it with the program that made it"
            )
    unknown = sorted(name for name in tensors if not _BIASES.fullmatch(name))
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if unknown[1:] else ""
        raise CheckpointError(
            f"{where} holds tensors that its config does not mention: {repr_short(unknown[0])}{more}; {COMPLETE}"
        )
