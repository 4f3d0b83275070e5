"""A folder of a GPT-2, Llama or Qwen3, as Hugging Face lays it out, to a model of ours.

The numbers are the file's own: put in our order, and in float32. Nothing is guessed: a field, a tensor or a tokenizer
that ours cannot be ends the import, by name.
"""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..atomic_io import remove_stale
from ..checkpoint import Files, LoadedModel, ModelFile, contains_run, write_model_file
from ..checkpoint.load import build
from ..checkpoint.tensors import read_tensors
from ..config import ModelConfig, repr_short
from ..data import Tokenizer
from ..errors import CheckpointError
from ..json_io import load_json
from .import_config import config_of
from .import_tokenizer import read_tokenizer
from .import_weights import COMPLETE, renamed, to_ours, without_biases
from .model_card import CARD, hashes, known_hash

WEIGHTS, INDEX, BEST = "model.safetensors", "model.safetensors.index.json", "best_model.pt"
_OTHERS = {  # what a folder without safetensors has instead, and what to do then
    "*.bin": "pickles run code when they are read, so light-llm does not; save them as safetensors first: load the "
    "model with transformers and call model.save_pretrained(FOLDER)",
    "adapter_model.safetensors": "an adapter is no model; merge it into its model first",
    "*.gguf": "GGUF is not read; use the safetensors it was made from",
    "*.h5": "TensorFlow's weights are not read; save them as safetensors with transformers first",
    "*.msgpack": "Flax's weights are not read; save them as safetensors with transformers first",
}


def read_folder(folder: Path, *, tokenizer: str = "", offline: bool = False) -> LoadedModel:
    """The model in a folder: config.json, safetensors in one file or several, and its tokenizer.

    Args:
        tokenizer: empty for the folder's own; none; or another, as `--tokenizer` names it.
        offline: download nothing (GPT-2's vocabulary, where it is asked for by name).

    Returns:
        The model in evaluation mode, float32 on the CPU, and its file: what `write_model` writes.

    Raises:
        CheckpointError: a file that is missing or damaged, or something that ours cannot be: the field, the tensor or
            the part of the tokenizer is named.
        ConfigError: a tokenizer was asked for that does not exist.
        DataError: GPT-2's vocabulary is not here and cannot be downloaded.
    """
    find_weights(folder)
    described = read_object(folder / "config.json")
    family, config = config_of(described, str(folder / "config.json"))
    theirs = renamed(_read_all(folder), family, folder)
    _check_said(folder, described, theirs)
    weights = to_ours(theirs, family, config, folder)
    if family == "gpt2":
        config, weights = without_biases(config, weights)
    found = read_tokenizer(folder, tokenizer, described, offline=offline)
    if found is not None and found.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {found.vocab_size:,} ids and config.json says "
            f"vocab_size={config.vocab_size:,}: they are of two models; {COMPLETE}, or leave the tokenizer out with "
            "--tokenizer none"
        )
    origin: dict[str, Any] = {"format": "huggingface", "family": family, "name": folder.absolute().name}
    origin |= {"ours": True} if "light_llm" in described else {}
    data = {"max_length": _window(folder, config.n_positions), "documents": _documents(described)}
    return as_loaded(folder, weights, config, found, data=data, origin=origin)


def _check_said(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError where the folder has not what is said of it: biases, or the weights that its card knows."""
    for field, part in (("attention_bias", ".self_attn."), ("mlp_bias", ".mlp.")):
        if described.get(field) and not any(part in name and name.endswith(".bias") for name in tensors):
            raise CheckpointError(
                f"{folder / 'config.json'}: {field}={repr_short(described[field])}, and there are no such tensors; "
                f"{COMPLETE}"
            )
    sha = known_hash(folder, WEIGHTS)
    if sha and sha != hashes(folder, WEIGHTS).get(WEIGHTS):
        raise CheckpointError(
            f"{folder / WEIGHTS} is not the file whose SHA-256 stands in {CARD} there: it is damaged, or was changed; "
            f"copy it again, or, if it was changed on purpose, take its line out of {CARD}"
        )


def _documents(described: dict[str, Any]) -> int:
    """Documents of its text, as an export of ours says; else two: what an empty prompt of such models begins with is
    the separator."""
    ours = described.get("light_llm")
    said = ours.get("documents") if isinstance(ours, dict) else None
    return said if type(said) is int and said > 0 else 2


def _window(folder: Path, n_positions: int) -> int:
    """T, tokens of the windows the model was trained on, where its tokenizer says so; else all positions."""
    path = folder / "tokenizer_config.json"
    said = read_object(path).get("model_max_length") if path.exists() else None
    return said if type(said) is int and 0 < said < n_positions else n_positions


def as_loaded(
    path: Path,
    weights: dict[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    *,
    data: dict[str, Any],
    origin: dict[str, Any],
    step: int = 0,
) -> LoadedModel:
    """A model that was read elsewhere, with the description that a model file of ours has.

    Args:
        path: what was read, for messages.
        weights: by our names.
        data: max_length (T) and documents of the text it was trained on, as far as they are known.
        origin: plain values on where it is from.

    Raises:
        CheckpointError: a weight is no number.
    """
    if odd := next((name for name, t in weights.items() if not bool(t.isfinite().all())), None):
        raise CheckpointError(f"{path} holds what is no number, NaN or infinite, in {odd}; use another copy")
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


def place_for(out: Path, *, overwrite: bool = False) -> Path:
    """The file an import is written to: `best_model.pt` in the folder out, or out itself where that ends in .pt.

    Raises:
        CheckpointError: it is there already and may not be replaced, or the folder is that of a run.
    """
    path = out if out.suffix == ".pt" else out / BEST
    alone = path.parent.is_dir() and [p.name for p in path.parent.iterdir() if p.name[0] != "."] == [BEST]
    if path.name == BEST and contains_run(path.parent) and not alone:  # a model alone is an import from before
        raise CheckpointError(f"{path.parent} is the folder of a run, whose model {BEST} is; name another with --out")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} is there already; name another place with --out, or replace it with --overwrite")
    return path


def write_model(loaded: LoadedModel, path: Path) -> None:
    """Write a model where `place_for` said. Raises CheckpointError when it cannot be written."""
    new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        write_model_file(path, loaded.file.weights, loaded.file.meta, Files())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}; name another with --out") from None
    finally:
        with suppress(OSError):  # where there is a model in it, it cannot be
            if new:
                path.parent.rmdir()


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError when it is missing, damaged or something else."""
    try:
        values = load_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {COMPLETE}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or no JSON: {error}; {COMPLETE}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it holds no fields; {COMPLETE}")
    return values


def find_weights(folder: Path) -> Path:
    """The file with the weights, or the index of several. Raises CheckpointError: what is there instead, what to do."""
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; a model of the Hugging Face hub has to be downloaded first, as with: "
            "hf download NAME --local-dir FOLDER"
        )
    for pattern, advice in _OTHERS.items():
        if found := sorted(folder.glob(pattern)):
            raise CheckpointError(f"{folder} has no {WEIGHTS}, only {found[0].name}: {advice}")
    raise CheckpointError(f"{folder} has no {WEIGHTS}; {COMPLETE}")


def _read_all(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, or of all files that its index names."""
    path = find_weights(folder)
    if path.name == WEIGHTS:
        return read_tensors(path)
    places = read_object(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{path} is damaged: it has no weight_map; {COMPLETE}")
    shards, tensors = sorted(set(places.values())), dict[str, Tensor]()
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{path} names {repr_short(shard)}, which is no safetensors file beside it; {COMPLETE}"
            )
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder} lacks {shard}, one of the {len(shards):,} files of its weights; {COMPLETE}"
            )
        part = read_tensors(folder / shard)
        named = {name for name, place in places.items() if place == shard}
        if odd := sorted(named ^ part.keys()):
            raise CheckpointError(
                f"{folder / shard} does not hold what the index says: {repr_short(odd[0])}; {COMPLETE}"
            )
        tensors |= part
    return tensors
