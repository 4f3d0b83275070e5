"""Import a GPT-2, Llama or Qwen3 from a folder of Hugging Face into a model file of ours.

The numbers are those of the files, in our order and in float32. A field, a tensor or a tokenizer that ours cannot
express ends the import, by name.
"""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..atomic_io import Files, remove_stale
from ..checkpoint import LoadedModel, ModelFile, contains_run, write_model_file
from ..checkpoint.load import build
from ..checkpoint.tensors import read_tensors
from ..config import ModelConfig, repr_short
from ..data import Tokenizer
from ..data.download import sha256_of
from ..errors import CheckpointError
from ..json_io import load_json
from .hf_config import read_config
from .hf_mapping import COMPLETE, drop_zero_biases, from_hf_tensors, strip_prefix
from .import_tokenizer import read_tokenizer
from .model_card import CARD, hash_on_card

WEIGHTS, INDEX, BEST = "model.safetensors", "model.safetensors.index.json", "best_model.pt"
_OTHER_FORMATS = {  # a file that a folder without safetensors may have, and what to do
    "*.bin": "pickles run code when they are read, so light-llm does not; save them as safetensors first: load the "
    "model with transformers and call model.save_pretrained(FOLDER)",
    "adapter_model.safetensors": "an adapter is not a model; merge it into its model first",
    "*.gguf": "name the GGUF file itself: light-llm import FILE.gguf",
    "*.h5": "TensorFlow's weights cannot be imported; save them as safetensors with transformers first",
    "*.msgpack": "Flax's weights cannot be imported; save them as safetensors with transformers first",
}


def read_folder(folder: Path, *, tokenizer: str = "", offline: bool = False) -> LoadedModel:
    """Return the model in a folder: config.json, safetensors in one file or several, and its tokenizer.

    Args:
        tokenizer: empty for the folder's own; none; or another, as `--tokenizer` names it.
        offline: download nothing (GPT-2's vocabulary, if it is named).

    Returns:
        The model in evaluation mode, float32 on the CPU, and its file, which `write_model` writes.

    Raises:
        CheckpointError: a file that is missing or damaged, or something that ours cannot express: the field, the
            tensor or the part of the tokenizer is named.
        ConfigError: an unknown tokenizer.
        DataError: GPT-2's vocabulary is not cached and cannot be downloaded.
    """
    # First, so that a folder in another format gets the advice for that format and not a missing config.json.
    weights_path = find_weights(folder)
    config_json = read_object(folder / "config.json")
    family, config = read_config(config_json, str(folder / "config.json"))
    tensors = strip_prefix(_read_shards(weights_path), family.tensors, folder)
    _check_claims(folder, config_json, tensors)
    weights = from_hf_tensors(tensors, family.tensors, config, folder)
    if family.always_biased:
        config, weights = drop_zero_biases(config, weights)
    model_tokenizer = read_tokenizer(folder, tokenizer, config_json, offline=offline)
    if model_tokenizer is not None and model_tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {model_tokenizer.vocab_size:,} ids and config.json says "
            f"vocab_size={config.vocab_size:,}: they belong to two models; {COMPLETE}, or leave the tokenizer out with "
            "{--tokenizer none}"
        )
    origin: dict[str, Any] = {"format": "huggingface", "family": family.name, "name": folder.absolute().name}
    origin |= {"ours": True} if "light_llm" in config_json else {}
    data = {"max_length": _window(folder, config.n_positions), "documents": _documents(config_json)}
    return make_loaded(folder, weights, config, model_tokenizer, data=data, origin=origin)


def _check_claims(folder: Path, config_json: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError if config.json claims missing biases, or the card has another hash of the weights."""
    # A true flag without tensors means that part of the model was lost on the way.
    for field, part in (("attention_bias", ".self_attn."), ("mlp_bias", ".mlp.")):
        if config_json.get(field) and not any(part in name and name.endswith(".bias") for name in tensors):
            path, value = folder / "config.json", repr_short(config_json[field])
            raise CheckpointError(f"{path}: {field}={value}, and there are no such tensors; {COMPLETE}")
    weights, sha = folder / WEIGHTS, hash_on_card(folder, WEIGHTS)
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
    if odd := next((name for name, t in weights.items() if not bool(t.isfinite().all())), None):
        raise CheckpointError(f"{path} has NaN or infinite numbers in {odd}; use another copy")
    meta = {
        "config": asdict(config),
        "tokenizer": tokenizer.to_dict() if tokenizer else None,
        "data": data,
        "step": step,
        "dtype": "float32",
        "evaluation": None,
        "light_llm": __version__,
        "imported": origin,
    }
    file = ModelFile(path, weights, config, tokenizer, data, meta)
    return LoadedModel(build(file).eval(), file)


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


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError if it is missing, damaged or no object."""
    try:
        values = load_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {COMPLETE}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or not JSON: {error}; {COMPLETE}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it has no fields; {COMPLETE}")
    return values


def find_weights(folder: Path) -> Path:
    """Return the file with the weights, or the index of several.

    Raises CheckpointError if there is neither; it names a file in another format, and what to do with it.
    """
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; a model of the Hugging Face hub has to be downloaded first, as with: "
            "hf download NAME --local-dir FOLDER"
        )
    for pattern, advice in _OTHER_FORMATS.items():
        if paths := sorted(folder.glob(pattern)):
            raise CheckpointError(f"{folder} has no {WEIGHTS}, only {paths[0].name}: {advice}")
    raise CheckpointError(f"{folder} has no {WEIGHTS}; {COMPLETE}")


def _read_shards(path: Path) -> dict[str, Tensor]:
    """Return the tensors of model.safetensors, or of all files that an index names. Raises CheckpointError."""
    if path.name == WEIGHTS:
        return read_tensors(path)
    folder = path.parent
    shard_of = read_object(path).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{path} is damaged: it has no weight_map; {COMPLETE}")
    shards, tensors = sorted({*shard_of.values()}), dict[str, Tensor]()
    for shard in shards:
        # A name with folders in it could point anywhere on the disk.
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{path} names {repr_short(shard)}, which is not a safetensors file in that folder; {COMPLETE}"
            )
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder} lacks {shard}, one of the {len(shards):,} files of its weights; {COMPLETE}"
            )
        part = read_tensors(folder / shard)
        expected = {name for name, file in shard_of.items() if file == shard}
        if odd := sorted(expected ^ part.keys()):
            raise CheckpointError(f"{folder / shard} and the index differ in {repr_short(odd[0])}; {COMPLETE}")
        tensors |= part
    return tensors
