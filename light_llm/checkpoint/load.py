"""From a path to a model: `best_model.pt`, a step folder or a run folder, checked before a weight is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import ModelConfig, block_shapes, check_range, from_dict, get_model_size, outer_shapes, show
from ..data import Tokenizer, tokenizer_from_dict
from ..errors import CheckpointError, ConfigError, LightLLMError
from ..model import LightLLM
from .commit import check_format, is_complete, read_json, verify_folder
from .model_file import NUMBERS, ModelFileReader
from .run_folder import RunFolder
from .tensors import read_tensors


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds, before anything is built from it."""

    path: Path
    weights: dict[str, Tensor]
    config: ModelConfig
    tokenizer: Tokenizer | None
    data: dict[str, Any]  # what the dataset recorded of itself; empty when it was not ours
    meta: dict[str, Any]  # everything that was stored: step, evaluation, dtype ...


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use, in evaluation mode, and where it came from."""

    model: LightLLM
    file: ModelFile


def load_model(path: str | Path, device: str = "cpu") -> LoadedModel:
    """Build the model stored at path and load its weights. Raises CheckpointError; see `read_model`."""
    file = read_model(path)
    model = build(file)
    return LoadedModel(model.to(device).eval(), file)


def build(file: ModelFile) -> LightLLM:
    """A model with the stored weights. Raises CheckpointError when names or shapes do not fit the stored config."""
    with torch.device("meta"), _NoInitialWeights():  # no time is spent on weights that are replaced at once
        model = LightLLM(file.config)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in file.weights.items()}
    if expected != found:
        odd = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(f"{file.path} does not fit its own config: {', '.join(odd[:3])}; use another checkpoint")
    model.load_state_dict(file.weights, assign=True)
    return model.requires_grad_(True)


class _NoInitialWeights(TorchFunctionMode):
    """Inside, the functions of `torch.nn.init` do nothing.

    On the meta device they have nothing to fill, and drawing normal numbers there takes a second: it imports torch's
    compiler.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def read_model(path: str | Path) -> ModelFile:
    """The model file at path, or the best model of the run folder at path.

    Raises:
        CheckpointError: nothing there, damaged, cut, or of another format.
    """
    given, path = Path(path), find_model(Path(path))
    while True:
        try:
            return _read(path)
        except CheckpointError:
            chosen, path = path, find_model(given)
            if path == chosen:  # damaged, and not a step that a run has removed since it was chosen
                raise


def _read(path: Path) -> ModelFile:
    if path.is_dir():
        verify_folder(path)
        meta = read_json(path / "model.json")
        check_format(meta, path)
        weights = read_tensors(path / "model.safetensors")
        return _interpret(path, weights, meta)
    with ModelFileReader(path) as file:
        described = _interpret(path, file.outline, file.meta)  # before a number is read: they may be far too many
        return replace(described, weights=file.weights())


def find_model(path: Path) -> Path:
    """The model a path means: itself; in a run folder `best_model.pt`, else the newest step. Raises CheckpointError."""
    if path.is_file() or is_complete(path):
        return path
    if path.is_dir():
        folder = RunFolder(path)
        if folder.best_model.is_file():
            return folder.best_model
        if steps := folder.steps():
            return steps[-1]
        raise CheckpointError(f"there is no model in the folder {path}; train one with: python train.py")
    asked_for_file = path.suffix == ".pt" and path.parent.is_dir()
    beside = sorted(p.name for p in path.parent.iterdir() if p.suffix == ".pt") if asked_for_file else []
    where = f"; that folder holds {', '.join(beside)}" if beside else ""
    raise CheckpointError(f"no checkpoint at {path}{where}. Train one with: python train.py")


def _interpret(path: Path, weights: dict[str, Tensor], meta: Mapping[str, Any]) -> ModelFile:
    try:
        config = from_dict(ModelConfig, meta["config"], what="model")
        stored = meta.get("tokenizer")
        tokenizer = tokenizer_from_dict(stored) if stored else None
        data = dict(meta.get("data") or {})
        for name in ("max_length", "documents"):
            if data.get(name) is not None:
                check_range(name, data[name], low=1, integer=True)
    except CheckpointError:
        raise
    except ConfigError as error:
        raise CheckpointError(f"{path} was written by another version of light-llm: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, LightLLMError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be used ({error!r})") from None
    _check_sizes(path, config, weights)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path} is damaged: its tokenizer has {tokenizer.vocab_size:,} ids and its model {config.vocab_size:,}"
        )
    return ModelFile(path, weights, config, tokenizer, data, dict(meta))


def _check_sizes(path: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Count before a model is built: a config can say a billion layers. Names and shapes are for `build`."""
    n_tensors = config.n_layer * len(block_shapes(config)) + len(outer_shapes(config))
    n = sum(t.numel() for t in weights.values())
    if (
        len(weights) != n_tensors
        or n != get_model_size(config)
        or any(t.dtype not in NUMBERS for t in weights.values())
    ):
        raise CheckpointError(
            f"{path} does not fit its own config: it has {n:,} parameters in {len(weights):,} tensors and should have "
            f"{show(get_model_size(config))} in {show(n_tensors)}, floating-point numbers all; use another checkpoint"
        )
