"""Tensors between our names and those of transformers: one mapping per family, used for export and for import.

Three differences break a model without an error where they are forgotten: GPT-2's matrices are stored as (in, out),
GPT-NeoX's queries, keys and values are interleaved by head, and a tied head has no tensor in the file.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..checkpoint.model_file import WEIGHT_DTYPES
from ..config import ModelConfig, block_shapes, outer_shapes, repr_short
from ..errors import CheckpointError
from .architectures import family_of
from .family import Family, TensorNames
from .json_files import COMPLETE as COMPLETE
from .weight_files import StoredTensor

HEAD = "lm_head.weight"
_CHECKED = 1 << 19  # numbers that are compared or tested for NaN at once
# Older files also hold masks and the frequencies of the rotation, which are computed here.
_BUFFERS = re.compile(
    r"h\.\d+\.attn\.(attention\.)?(masked_)?bias|layers\.\d+\.attention\.(masked_)?bias|"
    r"(layers\.\d+\.(self_attn|attention)\.)?rotary_emb(_local)?\.(inv_freq|cos_cached|sin_cached)",
    re.ASCII,
)
_BIASES = re.compile(r"layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.bias", re.ASCII)


@dataclass(frozen=True)
class Mapped:
    """A parameter of ours, and the tensors of transformers that hold its rows."""

    name: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]  # names without prefix, and the shapes of their rows as (out, in)
    transposed: bool  # stored as (in, out)
    heads: int  # H where the rows are interleaved by head, else 0

    def as_stored(self, rows: Tensor) -> Tensor:
        """Return a view of rows of ours in the order of the file: (in, out), or (H, 3, D, ...) for (3 H D, ...)."""
        if self.heads:
            return rows.unflatten(0, (3, self.heads, -1)).transpose(0, 1)
        return rows.T if self.transposed else rows

    def to_theirs(self, rows: Tensor) -> Tensor:
        """Return rows of ours as they are stored."""
        stored = self.as_stored(rows)
        return stored.flatten(0, 2) if self.heads else stored.contiguous()


def tensor_mappings(names: TensorNames, config: ModelConfig) -> Iterator[Mapped]:
    """Yield each parameter of a model of a family."""
    D = config.head_size
    qkv_rows = [config.n_head * D, config.kv_heads * D, config.kv_heads * D]
    shapes = [("", "", name, shape) for name, shape in outer_shapes(config).items()]
    for i in range(config.n_layer):
        shapes += [(f"h.{i}.", f"{names.layers}.{i}.", name, shape) for name, shape in block_shapes(config).items()]
    for our_prefix, hf_prefix, name, shape in shapes:
        parts = names.names[name]
        rows = [shape[0]] if len(parts) == 1 else qkv_rows
        tensors = tuple((hf_prefix + part, (n, *shape[1:])) for part, n in zip(parts, rows, strict=True))
        heads = config.n_head if name in names.interleaved else 0
        yield Mapped(our_prefix + name, tensors, name in names.transposed, heads)


def to_hf_tensors(config: ModelConfig, state: Mapping[str, Tensor], family: Family | None = None) -> dict[str, Tensor]:
    """Return the weights under the names, and in the shapes, that transformers gives them.

    Args:
        family: that the model came from; by default the first that has such a model.
    """
    family = family or family_of(config)
    names = family.tensors
    if family.always_biased:
        config = replace(config, bias=True, qkv_bias=family.required.get("qkv_bias", "auto"))
    tensors = {}
    for mapped in tensor_mappings(names, config):
        rows = [shape[0] for _, shape in mapped.parts]
        # A bias that the model does not have is zero in the file.
        zeros = torch.zeros(sum(rows), dtype=state["wte.weight"].dtype)
        for (part, _), piece in zip(mapped.parts, state.get(mapped.name, zeros).split(rows), strict=True):
            prefix = "" if part == names.head else names.prefix
            tensors[prefix + part] = mapped.to_theirs(piece)
    return tensors


def strip_prefix(tensors: Mapping[str, StoredTensor], names: TensorNames, where: Path) -> dict[str, StoredTensor]:
    """Return the tensors without the prefix of their family, and without buffers.

    Raises CheckpointError for a name with and without the prefix, or a number type that weights do not have.
    """
    stripped: dict[str, StoredTensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(names.prefix)
        if _BUFFERS.fullmatch(name):
            continue
        name = names.head if name == HEAD else name  # as transformers 5 calls it in every family
        if name in stripped:
            raise CheckpointError(f"{where} holds {name} twice, with {names.prefix} and without; {COMPLETE}")
        if tensor.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{tensor.path}: {full} holds numbers of type {str(tensor.dtype).removeprefix('torch.')}; only "
                "float32, float16, bfloat16 and float64 are weights here: use the model from before it was quantized"
            )
        stripped[name] = tensor
    return stripped


def from_hf_tensors(
    tensors: dict[str, StoredTensor], names: TensorNames, config: ModelConfig, where: Path
) -> dict[str, Tensor]:
    """Read all parameters of a model: by our names, in the dtype of the file, each in a storage of its own.

    float64 becomes float32, in which models are computed here.

    Args:
        tensors: from `strip_prefix`; emptied. All names and shapes are checked before a tensor is read.
        where: the folder or file, for messages.

    Raises CheckpointError for a tensor that is missing, unknown, of another shape than the config gives it, or not
    finite.
    """
    # Checked before a name is made for each layer of a config that says a billion.
    if config.n_layer > len(tensors):
        raise CheckpointError(
            f"{where}: its config says {repr_short(config.n_layer)} layers, but it has {len(tensors):,} tensors; "
            + COMPLETE
        )
    # Older files repeat a tied table; it is compared below and not kept.
    head = tensors.pop(names.head, None) if config.tied_head else None
    mappings = list(tensor_mappings(names, config))
    if not config.tied_head and names.head not in tensors:
        raise CheckpointError(
            f"{where} has no tensor {names.head}; if the model's head is its token table, write "
            f'"tie_word_embeddings": true into config.json, and else {COMPLETE}'
        )
    found = [[_take(tensors, part, shape, m.transposed, where) for part, shape in m.parts] for m in mappings]
    _refuse_unknown(tensors, where)
    weights = {mapped.name: _read(mapped, parts) for mapped, parts in zip(mappings, found, strict=True)}
    if head is not None and not same_numbers(head, weights["wte.weight"]):
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true, but {names.head} differs from the token table; if it is meant to "
            "be a separate table, set tie_word_embeddings to false in config.json"
        )
    return weights


def _read(mapped: Mapped, parts: list[StoredTensor]) -> Tensor:
    """Read a parameter. Raises CheckpointError if a number is NaN or infinite, which would show only as bad text."""
    # `strip_prefix` refuses the types that torch does not have.
    dtype = reduce(torch.promote_types, [cast(torch.dtype, part.dtype) for part in parts])
    rows = [shape[0] for _, shape in mapped.parts]
    _, (_, *columns) = mapped.parts[0]
    whole = torch.empty(sum(rows), *columns, dtype=torch.float32 if dtype == torch.float64 else dtype)
    for (name, _), part, ours in zip(mapped.parts, parts, whole.split(rows), strict=True):
        target = mapped.as_stored(ours)
        per_row = part.shape[0] // len(target)  # rows of the file
        for start, piece in part.pieces(per_row):
            if not all_finite(piece):
                raise CheckpointError(f"{part.path} has NaN or infinite numbers in {name}; use another copy")
            first = start // per_row
            target[first : first + len(piece) // per_row] = piece.view(-1, *target.shape[1:])
    return whole


def all_finite(tensor: Tensor) -> bool:
    """Return whether no number is NaN or infinite; in pieces, because the answers take memory too."""
    return all(bool(piece.isfinite().all()) for piece in tensor.detach().flatten().split(_CHECKED))


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


def same_numbers(stored: StoredTensor, table: Tensor) -> bool:
    """Return whether a table in a file holds the same numbers."""
    return stored.shape == table.shape and all(
        torch.equal(piece.float(), table[start : start + len(piece)].float()) for start, piece in stored.pieces(1)
    )


def _take(
    tensors: dict[str, StoredTensor], name: str, shape: tuple[int, ...], transposed: bool, where: Path
) -> StoredTensor:
    """Remove a tensor from the table and return it. Raises CheckpointError if it is missing or has another shape."""
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise CheckpointError(f"{where} has no tensor {name}; {COMPLETE}")
    expected = shape[::-1] if transposed else shape
    if tensor.shape != expected:
        raise CheckpointError(
            f"{tensor.path}: {name} has the shape {repr_short(tensor.shape)}, and its config asks for "
            f"{repr_short(expected)}; {COMPLETE}"
        )
    return tensor


def _refuse_unknown(tensors: Mapping[str, StoredTensor], where: Path) -> None:
    """Raise CheckpointError for unused tensors. Biases of zeros are accepted, because they add nothing."""
    for name in sorted(tensors):
        if _BIASES.fullmatch(name) and any(piece.any() for _, piece in tensors[name].pieces(1)):
            field = "mlp_bias" if ".mlp." in name else "attention_bias"
            raise CheckpointError(
                f"{where}: {field}=True cannot be imported: {name} is not zero, and this family has no such bias "
                "here; use it with the program that made it"
            )
    unknown = sorted(name for name in tensors if not _BIASES.fullmatch(name))
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if unknown[1:] else ""
        raise CheckpointError(
            f"{where} holds tensors that its config does not mention: {repr_short(unknown[0])}{more}; {COMPLETE}"
        )
