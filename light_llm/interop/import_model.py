"""Import a model from a folder of Hugging Face into a model file of ours.

The numbers are those of the files, in our order and in the dtype of the files. A field, a tensor or a tokenizer that
ours cannot express ends the import, by name.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..atomic_io import Files, remove_stale
from ..checkpoint import LoadedModel, ModelFile, contains_run, read_carried_files, write_model_file
from ..checkpoint.carried_files import TOKENIZER_JSON
from ..checkpoint.load import build
from ..config import ModelConfig, repr_short
from ..data import Tokenizer
from ..data.download import sha256_of
from ..data.hf_tokenizer import HuggingFaceTokenizer
from ..errors import CheckpointError
from .hf_config import LLAMA_FLAGS, read_config
from .hf_fields import without_fields
from .hf_mapping import all_finite, drop_zero_biases, from_hf_tensors, strip_prefix
from .import_tokenizer import read_tokenizer
from .json_files import COMPLETE, read_object
from .model_card import CARD, hash_on_card
from .weight_files import WEIGHTS, StoredTensor, find_weights, open_weights

BEST = "best_model.pt"
GENERATION = "generation_config.json"
MAX_CONFIG = 1 << 16  # characters of a config.json that is kept for an export; longer ones list the labels of a task


def read_folder(
    folder: Path,
    *,
    tokenizer: str = "",
    offline: bool = False,
    ignore_fields: Collection[str] = (),
    source: Mapping[str, str] = MappingProxyType({}),
) -> LoadedModel:
    """Return the model in a folder: config.json, safetensors in one file or several, and its tokenizer.

    Args:
        tokenizer: empty for the folder's own; none; or another, as `--tokenizer` names it.
        offline: download nothing (GPT-2's vocabulary, if it is named).
        ignore_fields: of config.json, which are not read although they may change what the model computes.
        source: the `name` and the `revision` on the hub, for the record.

    Returns:
        The model in evaluation mode on the CPU, in the dtype of the files, and its file, which `write_model` writes.

    Raises:
        CheckpointError: a file that is missing or damaged, or something that ours cannot express: the field, the
            tensor or the part of the tokenizer is named.
        ConfigError: an unknown tokenizer, or a field to ignore that is not there.
        DataError: GPT-2's vocabulary is not cached and cannot be downloaded.
    """
    # First, so that a folder in another format gets the advice for that format and not a missing config.json.
    weights_path, config_path = find_weights(folder), folder / "config.json"
    config_json = read_object(config_path)
    family, config = read_config(without_fields(config_json, ignore_fields, str(config_path)), str(config_path))
    tensors = strip_prefix(open_weights(weights_path), family.tensors, folder)
    if family.zero_biases:
        _check_claims(config_path, config_json, tensors)
    _check_hash(folder / WEIGHTS)
    # Before the weights, which take longer to read.
    model_tokenizer = read_tokenizer(folder, tokenizer, config_json, offline=offline)
    if model_tokenizer is not None and model_tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {model_tokenizer.vocab_size:,} ids and config.json says "
            f"vocab_size={config.vocab_size:,}: they belong to two models; {COMPLETE}, or leave the tokenizer out with "
            "{--tokenizer none}"
        )
    weights = from_hf_tensors(tensors, family.tensors, config, folder)
    if family.always_biased:
        config, weights = drop_zero_biases(config, weights)
    origin: dict[str, Any] = {"format": "huggingface", "family": family.name, "name": folder.absolute().name, **source}
    origin |= {"ours": True} if "light_llm" in config_json else {}
    origin |= {"ignored_fields": {name: config_json[name] for name in ignore_fields}} if ignore_fields else {}
    if len(json.dumps(config_json)) <= MAX_CONFIG:
        origin["config_json"] = config_json
    data = {"max_length": _window(folder, config.n_positions), "documents": _documents(config_json)}
    loaded = make_loaded(folder, weights, config, model_tokenizer, data=data, origin=origin)
    # Another tokenizer than the folder's has nothing to do with its files.
    files = read_carried_files(folder, (GENERATION,)) if tokenizer else read_carried_files(folder)
    # A tokenizer of older files, or of another folder, is not among these files.
    if isinstance(model_tokenizer, HuggingFaceTokenizer):
        files[TOKENIZER_JSON] = model_tokenizer.data
    return replace(loaded, file=replace(loaded.file, files=files))


def _check_claims(path: Path, config_json: dict[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError if config.json claims biases that are missing: a part of the model was lost on the way."""
    for field, part in zip(LLAMA_FLAGS, (".self_attn.", ".mlp."), strict=True):
        if config_json.get(field) and not any(part in name and name.endswith(".bias") for name in tensors):
            value = repr_short(config_json[field])
            raise CheckpointError(f"{path}: {field}={value}, and there are no such tensors; {COMPLETE}")


def _check_hash(weights: Path) -> None:
    """Raise CheckpointError if the card of an export lists another hash of the weights."""
    sha = hash_on_card(weights.parent, WEIGHTS)
    if sha and not (weights.is_file() and sha256_of(weights) == sha):
        raise CheckpointError(
            f"{weights} does not have the SHA-256 that {CARD} lists for it: it is damaged, or was changed; "
            f"copy it again, or, if it was changed on purpose, delete its line from {CARD}"
        )


def _documents(config_json: dict[str, Any]) -> int:
    """Return the number of documents in its text, if an export of ours says so; else 2.

    Two or more mean that the model has seen the separator, which an empty prompt then begins with.
    """
    export = config_json.get("light_llm")
    documents = export.get("documents") if isinstance(export, dict) else None
    return documents if type(documents) is int and documents > 0 else 2


def _window(folder: Path, n_positions: int) -> int:
    """Return the tokens of its training windows, T, if its tokenizer says so; else n_positions."""
    path = folder / "tokenizer_config.json"
    window = read_object(path).get("model_max_length") if path.exists() else None
    return window if type(window) is int and 0 < window < n_positions else n_positions


def make_loaded(
    path: Path,
    weights: dict[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    *,
    data: dict[str, Any],
    origin: dict[str, Any],
    step: int = 0,
) -> LoadedModel:
    """Return an imported model with the metadata of a model file of ours.

    Args:
        path: the file or folder, for messages.
        weights: by our names.
        data: max_length (T) and documents of the text it was trained on, if known.
        origin: plain values that describe the source.

    Raises CheckpointError if a weight is NaN or infinite.
    """
    # NaN would show only later, as text without sense.
    if odd := next((name for name, t in weights.items() if not all_finite(t)), None):
        raise CheckpointError(f"{path} has NaN or infinite numbers in {odd}; use another copy")
    meta = {
        "config": asdict(config),
        "tokenizer": tokenizer.to_dict() if tokenizer else None,
        "data": data,
        "step": step,
        "dtype": "float32",
        "evaluation": None,
        "light_llm": __version__,
        # What an export goes back to, by default.
        "imported": origin | ({"weights": dtypes_of(weights)} if "family" in origin else {}),
    }
    file = ModelFile(path, weights, config, tokenizer, data, meta)
    return LoadedModel(build(file).eval(), file)


def dtypes_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the dtype of most of the numbers, and those of the other tensors by our names."""
    n_numbers = Counter[torch.dtype]()
    for tensor in weights.values():
        n_numbers[tensor.dtype] += tensor.numel()
    [(most, _)] = n_numbers.most_common(1)
    others = {name: str(t.dtype).removeprefix("torch.") for name, t in weights.items() if t.dtype != most}
    return {"dtype": str(most).removeprefix("torch.")} | ({"others": others} if others else {})


def output_path(out: Path, *, overwrite: bool = False) -> Path:
    """Return the file to write: `best_model.pt` in the folder `out`, or `out` itself if it ends in .pt.

    Raises CheckpointError if it exists and may not be replaced, or the folder is that of a run.
    """
    path = out if out.suffix == ".pt" else out / BEST
    # A folder with nothing but a model is an earlier import, and may be replaced.
    is_import = path.parent.is_dir() and [p.name for p in path.parent.iterdir() if p.name[0] != "."] == [BEST]
    if path.name == BEST and contains_run(path.parent) and not is_import:
        raise CheckpointError(f"{path.parent} holds a run, and {BEST} is its model; name another folder with {{--out}}")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} already exists; name another with {{--out}}, or replace it: {{--overwrite}}")
    return path


def write_model(loaded: LoadedModel, path: Path) -> None:
    """Write a model to the result of `output_path`. Raises CheckpointError if it cannot be written."""
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        write_model_file(path, loaded.file.weights, loaded.file.meta, Files(), loaded.file.files)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}; name another path with {{--out}}"
        ) from None
    finally:
        if is_new:
            with suppress(OSError):  # rmdir fails, as it should, once the model is in the folder
                path.parent.rmdir()
