"""Import a model from a GGUF file, in any format of numbers that the package `gguf` can dequantise.

F32, F16 and BF16 stay as they are. Other formats become float32, which holds their numbers exactly.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..config import ModelConfig, repr_short
from ..data import Tokenizer
from ..data.hf_tokenizer import HuggingFaceTokenizer
from ..errors import CheckpointError
from .architectures import Family
from .gguf import without_padding
from .gguf_config import HEAD, TABLE, has_divisors, read_shape, with_llama3_scaling
from .gguf_file import GGUFFile
from .gguf_mapping import ROPE_FREQS, Part, parts_of
from .gguf_vocabulary import tokenizer_config_from_gguf, tokenizer_from_gguf
from .hf_fields import without_fields
from .hf_mapping import COMPLETE, drop_zero_biases
from .import_model import make_loaded
from .import_tokenizer import named_tokenizer

TOKENIZER = "tokenizer.ggml."


def read_gguf(
    path: Path, *, tokenizer: str = "", offline: bool = False, ignore_fields: Collection[str] = ()
) -> LoadedModel:
    """Return the model in a GGUF file.

    Args:
        tokenizer: empty for the file's own; none; or another, as `--tokenizer` names it.
        offline: download nothing (GPT-2's vocabulary, if it is named).
        ignore_fields: fields that are not read, although they may change what the model computes.

    Returns:
        The model in evaluation mode on the CPU, in the dtypes of the file, and what `write_model` writes. Norms are
        float32 beside matrices in 16 bits, so such a model computes only after `load_model`, which widens all of it.

    Raises:
        CheckpointError: a file that is damaged, or something that light-llm does not have: the field, the tensor or the
            part of the tokenizer is named.
        ConfigError: an unknown tokenizer, or a field to ignore that is not there.
        DataError: GPT-2's vocabulary is not cached and cannot be downloaded.
        MissingDependency: the package `gguf` is not installed.
    """
    with GGUFFile(path) as file:
        ignored = {name: file.fields.get(name) for name in ignore_fields}
        file.fields = without_fields(file.fields, ignore_fields, str(path))
        family, config = _read_config(file)
        model_tokenizer = _read_tokenizer(file, tokenizer, offline=offline)
        if model_tokenizer is not None and model_tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{path}: its tokenizer has {model_tokenizer.vocab_size:,} ids and {TABLE} {config.vocab_size:,} rows: "
                f"they belong to two models; {COMPLETE}, or leave the tokenizer out with {{--tokenizer none}}"
            )
        weights = _read_weights(file, family, config)
    if family.always_biased:
        config, weights = drop_zero_biases(config, weights)
    origin: dict[str, Any] = {"format": "gguf", "family": family.name, "name": path.name, "dtype": file.kinds}
    origin |= {"ignored_fields": ignored} if ignored else {}
    data = {"max_length": config.n_positions, "documents": 2}
    loaded = make_loaded(path, weights, config, model_tokenizer, data=data, origin=origin)
    return replace(loaded, file=replace(loaded.file, files=_files(file, model_tokenizer, is_own=not tokenizer)))


def _read_config(file: GGUFFile) -> tuple[Family, ModelConfig]:
    """Return family and shape. A head with the bytes of the token table is a tied one."""
    tensors = file.tensors
    tied = HEAD not in tensors or (TABLE in tensors and file.same_bytes(HEAD, TABLE))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    family, config = read_shape(file.fields, shapes, str(file.path), tied=tied)
    if ROPE_FREQS in tensors and has_divisors(family):
        config = with_llama3_scaling(config, file.read(ROPE_FREQS).float(), str(file.path))
    return family, config


def _read_weights(file: GGUFFile, family: Family, config: ModelConfig) -> dict[str, Tensor]:
    """Return the parameters by our names, each read into a storage of its own.

    Raises CheckpointError for a tensor that is missing, unknown, or of another shape than the fields give it.
    """
    mapping = dict(parts_of(config, family))
    known = {part.name for parts in mapping.values() for part in parts}
    known |= {ROPE_FREQS} if has_divisors(family) else set()
    known |= {HEAD} if config.tied_head else set()
    if unknown := sorted(file.tensors.keys() - known):
        more = f" and {len(unknown) - 1:,} more" if unknown[1:] else ""
        raise CheckpointError(
            f"{file.path} holds tensors that a {family.title} here does not have: {repr_short(unknown[0])}{more}; "
            "use it with llama.cpp"
        )
    for part in (part for parts in mapping.values() for part in parts):
        _check(file, part)
    return {name: _read_parameter(file, parts) for name, parts in mapping.items()}


def _check(file: GGUFFile, part: Part) -> None:
    """Raise CheckpointError for a tensor that is missing or has another shape."""
    stored = file.tensors.get(part.name)
    if stored is None:
        raise CheckpointError(f"{file.path} has no tensor {part.name}; {COMPLETE}")
    if stored.shape != part.shape:
        raise CheckpointError(
            f"{file.path}: {part.name} has the shape {repr_short(stored.shape)}, and its fields ask for "
            f"{repr_short(part.shape)}; {COMPLETE}"
        )


def _read_parameter(file: GGUFFile, parts: list[Part]) -> Tensor:
    """Return one of our parameters from the tensors that hold its rows."""
    if len(parts) == 1:
        return parts[0].from_file(file.read(parts[0].name)).contiguous()
    dtype = file.tensors[parts[0].name].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, file.tensors[part.name].dtype)
    rows = sum(part.shape[0] for part in parts)
    whole = torch.empty((rows, *parts[0].shape[1:]), dtype=dtype)
    # Part by part, so that no second copy of the whole is made.
    for piece, part in zip(whole.split([part.shape[0] for part in parts]), parts, strict=True):
        piece.copy_(part.from_file(file.read(part.name)))
    return whole


def _read_tokenizer(file: GGUFFile, spec: str, *, offline: bool) -> Tokenizer | None:
    """Return the tokenizer that `spec` names, or the file's own if it is empty.

    Documents end with its eos_token_id, and texts begin with bos_token_id where llama.cpp puts it there.
    """
    if spec == "none":
        return None
    if spec:
        return named_tokenizer(spec, offline=offline)
    if file.fields.get(f"{TOKENIZER}model", "none") in ("no_vocab", "none"):
        return None
    try:
        return tokenizer_from_gguf(without_padding(file.fields))
    except CheckpointError as error:
        raise CheckpointError(
            f"{file.path}: {error.message}; name another tokenizer with {{--tokenizer PATH}}, or import only the "
            "weights with {--tokenizer none}"
        ) from None


def _files(file: GGUFFile, tokenizer: Tokenizer | None, *, is_own: bool) -> dict[str, bytes]:
    """Return the files that travel with the model: its tokenizer.json, what describes it, and its chat template."""
    files = {"tokenizer.json": tokenizer.data} if isinstance(tokenizer, HuggingFaceTokenizer) else {}
    if files and is_own:
        files["tokenizer_config.json"] = tokenizer_config_from_gguf(file.fields)
    template = file.fields.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": template.encode()} if isinstance(template, str) and template else {})
