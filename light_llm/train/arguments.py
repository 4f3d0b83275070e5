"""Check the model, the loader and the settings that a Trainer is given, and build those that are given as configs."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from ..checkpoint.carried_files import CARRIED_FILES, TOKENIZER_JSON
from ..config import DEFAULT_SEED, EPOCHS, ModelConfig, TrainConfig, explain_alias, param_shapes, repr_short
from ..data import DataLoader, TokenDataset, Tokenizer, create_dataloader
from ..data.python_inputs import own_tokenizer
from ..errors import ConfigError
from ..model import LightLLM
from ..runtime import World, choose_device, in_world, join_world, joined_world, leave_world

if TYPE_CHECKING:
    from .saved_run import ResumeState

ModelLike = LightLLM | ModelConfig
LoaderLike = DataLoader | TokenDataset | Iterable[tuple[Tensor, Tensor]]
_WRAPPERS = ("_orig_mod", "module")  # where torch.compile, and DataParallel and DDP, keep the model
MAX_NAMED = 3  # parameters in a message


def find_world(config: Any, changes: Mapping[str, Any]) -> World:
    """Return the world of this process: that which it has joined, or joins now if it was started as one of several."""
    joined = joined_world()
    if joined is not None and joined.is_broken:
        raise ConfigError("an earlier run of this process ended with an error on one rank; start all processes again")
    if not in_world() or joined is not None:
        return joined or World()
    asked = changes.get("device", getattr(config, "device", "auto"))
    world = join_world(choose_device(asked).value)
    # Without this, gloo may abort the process at its end.
    atexit.register(leave_world, world)
    return world


def unwrap(model: Any) -> tuple[Any, list[str]]:
    """Return the model inside torch.compile, DataParallel or DDP, and a note for each wrapper."""
    notes = []
    while isinstance(model, nn.Module) and not isinstance(model, LightLLM):
        inner = next((child for name, child in model.named_children() if name in _WRAPPERS), None)
        if inner is None:
            break
        advice = ", and {--compile on} compiles the step" if hasattr(model, "_orig_mod") else ""
        notes.append(f"the model inside {type(model).__name__} is trained, without this wrapper{advice}")
        model = inner
    return model, notes


def check_arguments(model: Any, loader: Any, config: Any) -> None:
    """Raise ConfigError for an argument of the wrong kind, or a model that could not be loaded after training."""
    if isinstance(config, ModelConfig):
        raise ConfigError(
            "the third argument of Trainer is a TrainConfig; the ModelConfig goes to the model: LightLLM(config)"
        )
    if config is not None and not isinstance(config, TrainConfig):
        raise ConfigError(
            f"config={repr_short(config)} is not a TrainConfig; settings can be given by name: "
            "Trainer(..., max_steps=100)"
        )
    if isinstance(loader, (nn.Module, ModelConfig)):
        raise ConfigError("the arguments are in the wrong order: Trainer(model, loader)")
    if not isinstance(model, (LightLLM, ModelConfig)):
        raise ConfigError(
            f"a Trainer trains a LightLLM, and this is a {type(model).__name__}; make one with LightLLM(config)"
        )
    if not isinstance(loader, (DataLoader, TokenDataset, Iterable)):
        raise ConfigError(
            f"{repr_short(loader)} is not a loader; give create_dataloader(dataset, batch_size), or any iterable of "
            "(tokens, targets)"
        )
    if isinstance(loader, (str, bytes)):
        raise ConfigError(
            f"{repr_short(loader)} is not a loader; open a text with prepare_dataset({repr_short(loader)})"
        )
    if isinstance(model, LightLLM):
        _check_parameters(model)


def check_outputs(out: Any, guards: Any, sinks: Any) -> None:
    """Raise ConfigError for a run folder that is not a path or is empty, and for guards or sinks not in a list."""
    if out is not None and (not isinstance(out, (str, os.PathLike)) or not os.fspath(out)):
        raise ConfigError(f"out={repr_short(out)} is not the path of a run folder; give one such as out='my-run'")
    for name, functions in (("guards", guards), ("sinks", sinks)):
        if not isinstance(functions, Sequence) or not all(map(callable, functions)):
            raise ConfigError(f"{name}={repr_short(functions)} cannot be used; give a list of functions")


def check_companions(model: ModelLike, loader: Any, tokenizer: Any, val_loader: Any) -> Tokenizer | None:
    """Return the tokenizer as one of ours. Raises ConfigError if it or the held-out loader cannot be used here."""
    if isinstance(loader, (DataLoader, TokenDataset)) and (tokenizer is not None or val_loader is not None):
        raise ConfigError(
            "this dataset has its own tokenizer and held-out text; tokenizer= and val_loader= belong to a loader of "
            "your own"
        )
    if tokenizer is not None:
        tokenizer, model = own_tokenizer(tokenizer), model.config if isinstance(model, LightLLM) else model
        if tokenizer.vocab_size > model.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size:,} ids and the model only vocab_size={model.vocab_size:,}; "
                f"build the model with ModelConfig(vocab_size={tokenizer.vocab_size})"
            )
    if isinstance(val_loader, TokenDataset):
        raise ConfigError(
            "val_loader is a dataset; give batches of it: torch.utils.data.DataLoader(dataset, batch_size=8)"
        )
    if val_loader is not None and (not isinstance(val_loader, Iterable) or iter(val_loader) is val_loader):
        raise ConfigError(
            "val_loader is read at every evaluation, so it must be iterable again: a list or a DataLoader"
        )
    return cast("Tokenizer | None", tokenizer)


def files_of_model(
    resumed: ResumeState | None, given: Mapping[str, bytes] | None, tokenizer: Tokenizer | None
) -> dict[str, bytes]:
    """Return the files that travel with the model, with that of its tokenizer. Raises ConfigError for another file.

    Args:
        resumed: its checkpoint's files replace those that were given.
    """
    files = resumed.files if resumed else given or {}
    if unknown := sorted(files.keys() - set(CARRIED_FILES)):
        raise ConfigError(
            f"model_files has {repr_short(unknown[0])}, which does not travel with a model; there are "
            f"{', '.join(CARRIED_FILES)}"
        )
    # The bytes that a tokenizer of a published model was made from.
    data = getattr(tokenizer, "data", None)
    return {**files, TOKENIZER_JSON: data} if isinstance(data, bytes) else {**files}


def _check_parameters(model: LightLLM) -> None:
    """Raise ConfigError unless the model has exactly the parameters of its config, and some that can be trained."""
    expected = param_shapes(model.config)
    actual = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [name for name in expected | actual if expected.get(name) != actual.get(name)]
    if wrong:
        listed = ", ".join(
            f"{name} is {_shape(actual, name)}, not {_shape(expected, name)}" for name in wrong[:MAX_NAMED]
        )
        more = f", and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        raise ConfigError(
            f"this model is not as its config says: {listed}{more}. Its checkpoints could not be loaded. Build "
            "it with LightLLM(config) and a config that fits, and merge adapters first"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "every parameter of this model is frozen, so there is nothing to train; model.requires_grad_(True) "
            "makes them trainable"
        )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(shapes[name]) if name in shapes else "absent"


def choose_settings(
    config: TrainConfig | None, changes: Mapping[str, Any], model: ModelLike, loader: Any
) -> TrainConfig:
    """Return the settings of a new run: `config`, the changes by name, and the seed and batch size of the loader.

    Raises:
        ConfigError: an unknown setting, or a seed that the model or the loader do not have.
    """
    refuse_epochs(changes, loader)
    settings = (config or TrainConfig()).with_changes(changes)
    named = "seed" in changes
    chosen = named or settings.seed != DEFAULT_SEED
    if isinstance(model, LightLLM) and model.seed is not None and model.seed != settings.seed:
        if chosen:
            raise ConfigError(
                f"seed={settings.seed}, and the weights of the model were drawn with seed={model.seed}; build it with "
                f"LightLLM(config, seed={settings.seed}), or give the Trainer the config in place of the model"
            )
        # The record of the run names the seed that the weights were drawn with.
        settings = replace(settings, seed=model.seed)
    if isinstance(loader, DataLoader) and named and loader.seed != settings.seed:
        raise ConfigError(
            f"seed={settings.seed}, and the loader orders its windows by seed={loader.seed}; make it with "
            f"create_dataloader(dataset, {loader.batch_size}, seed={settings.seed}), or give the Trainer the dataset "
            "in place of the loader"
        )
    return settings


def refuse_epochs(changes: Mapping[str, Any], loader: Any) -> None:
    """Raise ConfigError for a number of passes over the text, with its number of steps if the loader knows it."""
    for name, value in changes.items():
        if name in EPOCHS:
            steps = len(loader) if isinstance(loader, DataLoader) else None
            raise ConfigError(f"{name}={repr_short(value)}: {explain_alias(name, value, steps_per_pass=steps)}")


def build(
    model: ModelLike, loader: LoaderLike, config: TrainConfig, data_seed: int
) -> tuple[LightLLM, DataLoader | Iterable[tuple[Tensor, Tensor]]]:
    """Return the model of a ModelConfig and the loader of a dataset; ready ones unchanged.

    Args:
        data_seed: of the order of the windows.
    """
    if isinstance(model, ModelConfig):
        model = LightLLM(model, seed=config.seed)
    if isinstance(loader, TokenDataset):
        loader = create_dataloader(loader, config.batch_size, seed=data_seed)
    return model, loader
