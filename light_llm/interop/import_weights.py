"""Weights under other programs' names, in their shapes, to the parameters of a model of ours: the same numbers."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoint.model_file import WEIGHT_DTYPES
from ..config import ModelConfig, block_shapes, outer_shapes, repr_short
from ..errors import CheckpointError

COMPLETE = "use a complete copy of the model"
PREFIX = {"gpt2": "transformer.", "nanogpt": "transformer.", "llama": "model.", "qwen3": "model."}
_TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # GPT-2's are (in, out)
_Q, _K, _V = (f"self_attn.{part}_proj.weight" for part in "qkv")
_LLAMA = {  # our names, in a block and outside, and theirs: several are rows of one of ours, in this order
    "ln_1.weight": ("input_layernorm.weight",),
    "attn.c_attn.weight": (_Q, _K, _V),
    "attn.q_norm.weight": ("self_attn.q_norm.weight",),
    "attn.k_norm.weight": ("self_attn.k_norm.weight",),
    "attn.c_proj.weight": ("self_attn.o_proj.weight",),
    "ln_2.weight": ("post_attention_layernorm.weight",),
    "mlp.c_gate.weight": ("mlp.gate_proj.weight",),
    "mlp.c_fc.weight": ("mlp.up_proj.weight",),
    "mlp.c_proj.weight": ("mlp.down_proj.weight",),
    "wte.weight": ("embed_tokens.weight",),
    "ln_f.weight": ("norm.weight",),
    "lm_head.weight": ("lm_head.weight",),
}
# What older files hold besides weights: masks, and the angles of the rotation.
_BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq", re.ASCII)
_BIASES = re.compile(r"layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.bias", re.ASCII)


class Wanted(NamedTuple):
    """A parameter of ours, and the tensors of theirs that are its rows."""

    name: str
    parts: list[tuple[str, tuple[int, ...]]]  # names, and the shapes they have as rows of ours
    turned: bool  # theirs are (in, out)


def own(tensor: Tensor) -> Tensor:
    """The same numbers in float32, in a storage that no other tensor has a part of: a file holds whole storages."""
    wide = tensor.to(torch.float32).contiguous()
    return wide if wide.untyped_storage().nbytes() == wide.nbytes else wide.clone()


def renamed(tensors: Mapping[str, Tensor], family: str, where: Path) -> dict[str, Tensor]:
    """Without the prefix that one half of all files has, and without what is no weight.

    Raises:
        CheckpointError: a name that is there twice then, or numbers of a type that weights do not have.
    """
    found: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(PREFIX[family])
        if _BUFFERS.fullmatch(name):
            continue
        if name in found:
            raise CheckpointError(f"{where} holds {name} twice, with {PREFIX[family]} and without; {COMPLETE}")
        if tensor.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{where}: {full} holds numbers of type {str(tensor.dtype).removeprefix('torch.')}; only float32, "
                "float16, bfloat16 and float64 are weights here: use the model from before it was quantized"
            )
        found[name] = tensor
    return found


def to_ours(theirs: dict[str, Tensor], family: str, config: ModelConfig, where: Path) -> dict[str, Tensor]:
    """All parameters of a model, float32 by our names.

    Args:
        theirs: what `renamed` gave; it is used up.
        family: gpt2, nanogpt, llama or qwen3.
        where: the folder or file, for messages.

    Raises:
        CheckpointError: a tensor that is missing, too much, or of another shape than the config makes it.
    """
    if config.n_layer > len(theirs):  # before a name is made for each layer of a config that says a billion
        raise CheckpointError(
            f"{where}: its config says {repr_short(config.n_layer)} layers, and there are {len(theirs):,} tensors; "
            f"{COMPLETE}"
        )
    head = theirs.pop("lm_head.weight", None) if config.tied_head else None
    weights = {}
    for wanted in _plan(family, config):
        found = [_take(theirs, part, shape, wanted.turned, where) for part, shape in wanted.parts]
        weights[wanted.name] = own(found[0] if len(found) == 1 else torch.cat([part.float() for part in found]))
    if head is not None and not same(head, weights["wte.weight"]):
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true, but lm_head.weight is not the token table again; if it is meant to "
            "be a table of its own, set tie_word_embeddings to false in config.json"
        )
    _refuse_rest(theirs, where)
    return _apart(weights)


def without_biases(config: ModelConfig, weights: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A GPT-2 whose biases are all zero though its norms were trained: it was trained without, and has none here.

    transformers' GPT-2 always has them, so a model without is written with zeros there. One that was never trained has
    zeros as well, and norms whose gains are all 1: it keeps its biases.
    """
    biases = [name for name in weights if name.endswith(".bias")]
    gains = [name for name in weights if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight"))]
    if any(weights[name].any() for name in biases) or all(bool((weights[name] == 1).all()) for name in gains):
        return config, weights
    return replace(config, bias=False), {name: t for name, t in weights.items() if name not in biases}


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each in a storage of its own, where a file had one for two: ours are refused then."""
    seen: set[int] = set()
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        weights[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return weights


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tables hold the same numbers."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())


def _plan(family: str, config: ModelConfig) -> Iterator[Wanted]:
    D, kv = config.head_size, config.kv_heads * config.head_size
    rows = {_Q: config.n_head * D, _K: kv, _V: kv}
    blocks = (("h", "layers", layer) for layer in range(config.n_layer))
    for ours, others, layer in chain([("", "", -1)], blocks):
        before, theirs = (f"{ours}.{layer}.", f"{others}.{layer}.") if ours else ("", "")
        for name, shape in (block_shapes(config) if ours else outer_shapes(config)).items():
            if family in ("gpt2", "nanogpt"):
                yield Wanted(before + name, [(before + name, shape)], family == "gpt2" and name in _TURNED)
            else:
                parts = [(theirs + part, (rows.get(part, shape[0]), *shape[1:])) for part in _LLAMA[name]]
                yield Wanted(before + name, parts, turned=False)


def _take(theirs: dict[str, Tensor], name: str, shape: tuple[int, ...], turned: bool, where: Path) -> Tensor:
    tensor = theirs.pop(name, None)
    if tensor is None:
        raise CheckpointError(f"{where} has no tensor {name}; {COMPLETE}")
    wanted, found = shape[::-1] if turned else shape, tuple(tensor.shape)
    if found != wanted:
        raise CheckpointError(
            f"{where}: {name} has the shape {repr_short(found)}, and its config makes it {repr_short(wanted)}; "
            f"{COMPLETE}"
        )
    return tensor.t() if turned else tensor


def _refuse_rest(theirs: Mapping[str, Tensor], where: Path) -> None:
    """Raise CheckpointError for tensors that no parameter of ours is made of; a bias of zeros adds nothing."""
    rest = sorted(theirs)
    for name in rest:
        if _BIASES.fullmatch(name) and theirs[name].any():
            field = "mlp_bias" if ".mlp." in name else "attention_bias"
            raise CheckpointError(
                f"{where}: {field}=True cannot be imported: {name} is not zero, and a Llama has no such bias here; "
                "use it with the program it is from"
            )
    rest = [name for name in rest if not _BIASES.fullmatch(name)]
    if rest:
        more = f" and {len(rest) - 1:,} more" if rest[1:] else ""
        raise CheckpointError(
            f"{where} holds what its config says nothing of: the tensor {repr_short(rest[0])}{more}; {COMPLETE}"
        )
