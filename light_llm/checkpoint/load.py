"""Load a model from `best_model.pt`, a step folder or a run folder, and check it before a weight is used."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import ModelConfig, block_shapes, check_range, from_dict, get_model_size, outer_shapes, repr_short
from ..data import Tokenizer, tokenizer_from_dict
from ..errors import CheckpointError, ConfigError, LightLLMError, did_you_mean
from ..model import LightLLM
from ..runtime import expand_path
from .carried_files import CARRIED_FILES, read_carried_files
from .commit import check_format, is_complete, read_json, verify_folder
from .foreign_files import advice_for_folder
from .model_file import WEIGHT_DTYPES, ModelFileReader
from .run_folder import RunFolder
from .tensors import read_parts


@dataclass(frozen=True)
class ModelFile:
    """The contents of a model file, before a model is built from them."""

    path: Path
    weights: dict[str, Tensor]
    config: ModelConfig
    tokenizer: Tokenizer | None
    data: dict[str, Any]  # the record of the training text; empty for a custom loader
    meta: dict[str, Any]  # everything stored beside the weights: step, evaluation, dtype ...
    # Those that travel with a published model, byte for byte: tokenizer.json, generation_config.json ...
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def training_window(self) -> int:
        """Return the tokens of the windows that the model was trained on: later positions were never trained."""
        n_positions = self.config.n_positions
        return min(self.data.get("max_length") or n_positions, n_positions)

    @property
    def knows_separator(self) -> bool:
        """Return whether its text had several documents: only then has the model seen the separator between them."""
        return (self.data.get("documents") or 1) > 1


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and the file that it was loaded from."""

    model: LightLLM
    file: ModelFile


def missing_tokenizer(file: ModelFile, also: str = "") -> CheckpointError:
    """Return the error for a model file without a tokenizer, with what to do. `also`: another way out."""
    if origin := file.meta.get("imported"):
        why = f"it was imported without one; import {origin.get('name') or 'it'} again, with {{--tokenizer NAME|PATH}}"
    else:
        why = "it was trained from a loader of your own; give the Trainer its tokenizer: Trainer(..., tokenizer=...)"
    return CheckpointError(f"{file.path} has no tokenizer: {why}{also}")


def load_model(path: str | Path, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> LoadedModel:
    """Build the model stored at path and load its weights.

    Args:
        dtype: of the weights; None for those of the file, which can be mixed.

    Raises:
        CheckpointError: see `read_model`.
    """
    file = read_model(path, dtype)
    model = build(file)
    return LoadedModel(model.to(device).eval(), file)


def build(file: ModelFile) -> LightLLM:
    """Return a model whose parameters are the weights themselves, in their dtypes.

    Raises:
        CheckpointError: names or shapes do not fit the config.
    """
    # The initial weights would be replaced at once, so none are drawn.
    with torch.device("meta"), _SkipInit():
        model = LightLLM(file.config)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    stored = {name: tuple(t.shape) for name, t in file.weights.items()}
    if expected != stored:
        wrong = sorted(n for n in expected.keys() | stored.keys() if expected.get(n) != stored.get(n))
        raise CheckpointError(
            f"{file.path} does not fit its own config: {', '.join(wrong[:3])}; use another checkpoint"
        )
    model.load_state_dict(file.weights, assign=True)
    model.seed = None  # no seed gives these weights
    return model.requires_grad_(True)


class _SkipInit(TorchFunctionMode):
    """A context in which the functions of `torch.nn.init` do nothing.

    On the meta device there is nothing to fill, but drawing normal numbers there imports torch's compiler: one second.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_model(path: str | Path, dtype: torch.dtype | None = None) -> ModelFile:
    """Read the model file at a path, or the best model of the run folder at a path.

    Args:
        dtype: convert each weight as soon as it is read; by default the weights keep the dtypes of the file.

    Raises:
        CheckpointError: nothing there, damaged, truncated, or of another format.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise CheckpointError(f"a {type(path).__name__} is not the path of a model; give a run folder or a model file")
    given = expand_path(path)
    path = find_model(given)
    while True:
        try:
            return _read(path, dtype)
        except CheckpointError:
            # A running training may have removed the step folder since it was chosen: choose again.
            failed, path = path, find_model(given)
            if path == failed:
                raise


def read_meta(path: Path) -> dict[str, Any]:
    """Return the metadata of a model file after checking its digest, without holding its weights.

    Raises CheckpointError.
    """
    with ModelFileReader(path) as file:
        file.verify()
        return file.meta


def describe_model(path: str | Path) -> ModelFile:
    """Return what the model file at a path says about its model, without weights, whose damage is not noticed.

    Raises CheckpointError; see `read_model`.
    """
    path = find_model(expand_path(path))
    if path.is_dir():
        files = read_carried_files(path, verify_folder(path, only=["model.json", *CARRIED_FILES]))
        meta = read_json(path / "model.json")
        check_format(meta, path)
        return _with_tokenizer(_interpret(path, meta), files)
    with ModelFileReader(path) as file:
        return _with_tokenizer(_interpret(path, file.meta), file.read_files())


def _read(path: Path, dtype: torch.dtype | None) -> ModelFile:
    if path.is_dir():
        names = verify_folder(path)
        files = read_carried_files(path, names)
        meta = read_json(path / "model.json")
        check_format(meta, path)
        description, weights = _interpret(path, meta), read_parts(path, "model", names)
        _check_sizes(path, description.config, weights)
        # Copied, because the library maps the file: a plan takes the weights of a model for memory in use.
        for name in weights if dtype else ():
            weights[name] = weights[name].to(dtype, copy=True)
        return _with_tokenizer(replace(description, weights=weights), files)
    with ModelFileReader(path) as file:
        # Check sizes against the config before reading numbers: the file may claim far too many.
        description = _interpret(path, file.meta)
        _check_sizes(path, description.config, file.shapes)
        weights, files = file.read(dtype)
        return _with_tokenizer(replace(description, weights=weights), files)


def find_model(path: Path) -> Path:
    """Return the path itself, or in a run folder the best model, else the latest step. Raises CheckpointError."""
    if path.is_file() or is_complete(path):
        return path
    if path.is_dir():
        folder = RunFolder(path)
        if best := folder.best():
            return best
        if steps := folder.steps():
            return steps[-1]
        raise CheckpointError(f"there is no model in the folder {path}: {advice_for_folder(path)}")
    is_model_name = path.suffix == ".pt" and path.parent.is_dir()
    siblings = sorted(p.name for p in path.parent.iterdir() if p.suffix == ".pt") if is_model_name else []
    if siblings:
        hint = f"; that folder holds {', '.join(siblings)}."
    elif path.parent.is_dir():
        runs = [p.parent.name for p in path.parent.glob("*/best_model.pt")]
        hint = did_you_mean(path.name, runs)
    else:
        hint = "."
    raise CheckpointError(
        f"no checkpoint at {path}{hint} Train one with: light-llm train, or import one: light-llm import"
    )


def _interpret(path: Path, meta: Mapping[str, Any]) -> ModelFile:
    """Return a model file without weights and tokenizer. Raises CheckpointError."""
    try:
        config = from_dict(ModelConfig, meta["config"], what="model")
        data = dict(meta.get("data") or {})
        for name in ("max_length", "documents"):
            if data.get(name) is not None:
                check_range(name, data[name], low=1, integer=True)
    except ConfigError as error:
        raise CheckpointError(f"{path} was written by another version of light-llm: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, LightLLMError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be used ({error!r})") from None
    return ModelFile(path, {}, config, None, data, dict(meta))


def _with_tokenizer(file: ModelFile, files: Mapping[str, bytes]) -> ModelFile:
    """Return a model file with the files that travel with it, and its tokenizer. Raises CheckpointError."""
    path, config, stored = file.path, file.config, file.meta.get("tokenizer")
    try:
        tokenizer = tokenizer_from_dict(stored, files) if stored else None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}") from None
    except (KeyError, TypeError, ValueError, AttributeError, LightLLMError) as error:
        raise CheckpointError(f"{path} is damaged: its tokenizer cannot be used ({error!r})") from None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path} is damaged: its tokenizer has {tokenizer.vocab_size:,} ids and its model {config.vocab_size:,}"
        )
    return replace(file, tokenizer=tokenizer, files=files)


def _check_sizes(path: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the weights are as many as the config asks for; `build` checks names and shapes.

    Counting comes first because a damaged config can ask for a billion layers, which must not be built.
    """
    n_tensors = config.n_layer * len(block_shapes(config)) + len(outer_shapes(config))
    n = sum(t.numel() for t in weights.values())
    if (
        len(weights) != n_tensors
        or n != get_model_size(config)
        or any(t.dtype not in WEIGHT_DTYPES for t in weights.values())
    ):
        raise CheckpointError(
            f"{path} does not fit its own config: it has {n:,} parameters in {len(weights):,} tensors and should have "
            f"{repr_short(get_model_size(config))} in {repr_short(n_tensors)}, floating-point numbers all; use "
            "another checkpoint"
        )
