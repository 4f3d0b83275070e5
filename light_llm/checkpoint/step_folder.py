"""Read and write a step folder: the complete state of a run for an exact resume, and a model that is usable alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..atomic_io import Files, WriteFn
from ..errors import CheckpointError
from .carried_files import CARRIED_FILES, check_carried_files, read_carried_files
from .commit import FORMAT, as_json, check_format, commit_folder, read_json, verify_folder
from .tensors import read_tensors, write_tensors

SETTINGS = "settings.json"
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")  # name parts added by DDP, compile and FSDP


@dataclass(frozen=True)
class StepState:
    """The progress of a run after `step` updates, as plain values."""

    step: int
    tokens: int  # trained on so far
    batches: int  # the data counter: batches taken from the loader, skipped ones included
    lr_horizon: int  # the step the schedule ends at
    best: float | None = None  # nats per token, held out
    best_step: int | None = None
    rollbacks: int = 0  # so far
    recent_losses: tuple[float, ...] = ()  # the loss-spike guard compares the next loss with these


def plain_name(name: str) -> str:
    """Return the name of a parameter in the unwrapped model.

    >>> plain_name("module._orig_mod.h.0.ln_1.weight")
    'h.0.ln_1.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def write_step(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: Mapping[str, Tensor],
    state: StepState,
    meta: Mapping[str, Any],
    run: Mapping[str, Any],
    disk: Files,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Commit a step folder: model, optimizer, generators, state, and a manifest over them.

    Args:
        meta: the model's config, tokenizer, data and step, so that it can be used alone.
        run: the contents of run.json, so that a run can be resumed from the step folder alone.
        files: of the model, such as tokenizer.json; see `carried_files`.
    """
    check_carried_files(files)
    weights = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    contents: dict[str, WriteFn] = {
        "model.safetensors": partial(write_tensors, tensors=weights),
        "model.json": as_json({"format": FORMAT, **meta}),
        "optimizer.safetensors": partial(write_tensors, tensors=_flatten(model, optimizer)),
        "rng.safetensors": partial(write_tensors, tensors=rng),
        "state.json": as_json({"format": FORMAT, **asdict(state)}),
        SETTINGS: as_json(run),
    }
    contents |= {name: partial(_write_bytes, data=data) for name, data in files.items()}
    commit_folder(path, contents, disk)


def _write_bytes(file: BinaryIO, *, data: bytes) -> None:
    file.write(data)


def read_step(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], StepState, dict[str, Any]]:
    """Read weights, optimizer tensors, generators, state and meta of a step folder after verifying it.

    Raises:
        CheckpointError: a file is missing, altered or of another format.
    """
    verify_folder(path)
    state, meta = read_json(path / "state.json"), read_json(path / "model.json")
    for values in (state, meta):
        check_format(values, path)
        del values["format"]
    weights, moments, rng = (read_tensors(path / f"{name}.safetensors") for name in ("model", "optimizer", "rng"))
    try:
        state["recent_losses"] = tuple(state.get("recent_losses", ()))
        return weights, moments, rng, StepState(**state), meta
    except TypeError as error:
        raise CheckpointError(f"{path / 'state.json'} is damaged ({error}); use another checkpoint") from None


def read_step_files(path: Path) -> dict[str, bytes]:
    """Return the files that travel with the model of a step folder, after verifying them. Raises CheckpointError."""
    return read_carried_files(path, verify_folder(path, only=CARRIED_FILES))


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Move tensors into an optimizer by parameter name; they leave `tensors`, so that no two copies of all are held.

    Raises CheckpointError when a parameter does not exist.
    """
    owners = {plain_name(name): p for name, p in model.named_parameters()}
    for key in list(tensors):
        tensor = tensors.pop(key)
        name, _, entry = key.rpartition("/")
        if name not in owners:
            raise CheckpointError(f"the optimizer state of {name!r} belongs to no parameter of this model")
        # The fused kernel of Adam needs its step counter on the parameter's device.
        optimizer.state[owners[name]][entry] = tensor.to(owners[name].device, copy=True)


def _flatten(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors under the names `parameter/entry`."""
    names: dict[Tensor, str] = {p: plain_name(name) for name, p in model.named_parameters()}
    return {
        f"{names[p]}/{entry}": value
        for p, values in optimizer.state.items()
        for entry, value in values.items()
        if isinstance(value, Tensor)
    }
