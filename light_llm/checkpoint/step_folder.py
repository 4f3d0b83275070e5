"""Read and write a step folder: the complete state of a run for an exact resume, and a model that is usable alone."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..atomic_io import Files, WriteFn
from ..errors import CheckpointError
from ..runtime import World
from .across_ranks import all_see
from .carried_files import CARRIED_FILES, check_carried_files, read_carried_files
from .commit import FORMAT, as_json, check_format, commit_folder, read_json, verify_folder
from .tensors import Gather, TensorWriter, read_parts, split_by_bytes, whole

SETTINGS = "settings.json"
FILE_PARAMETERS = 2_000_000_000  # of the largest model whose weights are in one file
FLOAT32_BYTES = 4
Place = Callable[[Tensor, Tensor], Tensor]  # (a whole tensor, the tensor that it belongs to) -> as that one is placed
StandIn = Callable[[str, Tensor], Tensor]
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


def itself(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor: the `stand_in` of ranks whose tensors have the shape of the whole."""
    return tensor


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
    gather: Gather = whole,
    stand_in: StandIn = itself,
    world: World = World(),
    file_parameters: int = FILE_PARAMETERS,
) -> None:
    """Commit a step folder: model, optimizer, generators, state, and a manifest over them.

    With several ranks all call it, rank 0 with the real `disk` and the others with `NullFiles`. If the disk fails,
    all tensors are gathered before the error is raised.

    Args:
        rng: states of the generators; see `gather_rng`.
        meta: the model's config, tokenizer, data and step, so that it can be used alone.
        run: the contents of run.json, so that a run can be resumed from the step folder alone.
        files: of the model, such as tokenizer.json; see `carried_files`.
        gather: returns a whole tensor; called on each weight and each tensor of the optimizer, in file order.
        stand_in: returns what `gather` takes for the tensor of a name, with the type and shape of the whole.
        world: as in `commit_folder`. If all ranks see the folder, each writes some of the several files.
        file_parameters: a model with more has several files, of at most as many bytes as these have in float32.
    """
    check_carried_files(files)
    weights = {plain_name(name): tensor for name, tensor in model.state_dict().items()}
    moments = _flatten(model, optimizer)
    weights, moments = ({name: stand_in(name, t) for name, t in part.items()} for part in (weights, moments))
    n = sum(tensor.numel() for tensor in weights.values())
    limit = FLOAT32_BYTES * file_parameters if n > file_parameters else sys.maxsize
    model_files, optimizer_files = (
        {name: TensorWriter(part, gather) for name, part in split_by_bytes(stem, tensors, limit).items()}
        for stem, tensors in (("model", weights), ("optimizer", moments))
    )
    contents: dict[str, WriteFn] = {
        **model_files,
        **optimizer_files,
        "model.json": as_json({"format": FORMAT, **meta}),
        "rng.safetensors": TensorWriter(rng),
        "state.json": as_json({"format": FORMAT, **asdict(state)}),
        SETTINGS: as_json(run),
    }
    contents |= {name: partial(_write_bytes, data=data) for name, data in files.items()}
    # Rank 0 alone writes a smaller model, and one whose folder is on a disk of its own.
    several = len(model_files) > 1 and world.size > 1 and all_see(world, path.parent)
    commit_folder(path, contents, disk, world, [*model_files, *optimizer_files] if several else ())


def _write_bytes(file: BinaryIO, *, data: bytes) -> None:
    file.write(data)


def read_step(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], StepState, dict[str, Any]]:
    """Read weights, optimizer tensors, generators, state and meta of a step folder after verifying it.

    Raises:
        CheckpointError: a file is missing, altered or of another format.
    """
    names = verify_folder(path)
    state, meta = read_json(path / "state.json"), read_json(path / "model.json")
    for values in (state, meta):
        check_format(values, path)
        del values["format"]
    weights, moments, rng = (read_parts(path, stem, names) for stem in ("model", "optimizer", "rng"))
    try:
        state["recent_losses"] = tuple(state.get("recent_losses", ()))
        return weights, moments, rng, StepState(**state), meta
    except TypeError as error:
        raise CheckpointError(f"{path / 'state.json'} is damaged ({error}); use another checkpoint") from None


def read_step_files(path: Path) -> dict[str, bytes]:
    """Return the files that travel with the model of a step folder, after verifying them. Raises CheckpointError."""
    return read_carried_files(path, verify_folder(path, only=CARRIED_FILES))


def copy_to_device(tensor: Tensor, owner: Tensor) -> Tensor:
    """Return a copy on the device of the tensor that it belongs to: the `place` of one process."""
    return tensor.to(owner.device, copy=True)


def restore_weights(
    model: nn.Module, tensors: dict[str, Tensor] | Iterable[tuple[str, Tensor]], place: Place = copy_to_device
) -> None:
    """Move weights into a model by plain name, one at a time; they leave `tensors` if that is a dictionary.

    Args:
        place: returns a whole tensor as the weight of that name is placed: on its device, or as its shard.

    Raises:
        CheckpointError: the names or shapes are not those of the model.
    """
    # The parameters themselves, by which `place` knows them.
    waiting = {plain_name(name): weight for name, weight in model.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for name, tensor in _taken(tensors):
            weight = waiting.pop(name, None)
            part = tensor if weight is None else place(tensor, weight)
            if weight is None or part.shape != weight.shape:
                raise CheckpointError(f"the weight {name!r} of shape {tuple(tensor.shape)} is not one of this model")
            weight.copy_(part)
    if waiting:
        raise CheckpointError(f"the weights {', '.join(sorted(waiting)[:3])} of this model are not in the checkpoint")


def restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor] | Iterable[tuple[str, Tensor]],
    place: Place = copy_to_device,
) -> None:
    """Move tensors into an optimizer by parameter name, one at a time; they leave `tensors` if that is a dictionary.

    Args:
        place: returns a whole tensor of a parameter's shape as the parameter is placed. Step counters stay as they are.

    Raises:
        CheckpointError: a parameter does not exist.
    """
    owners = {plain_name(name): p for name, p in model.named_parameters()}
    for key, tensor in _taken(tensors):
        name, _, entry = key.rpartition("/")
        if name not in owners:
            raise CheckpointError(f"the optimizer state of {name!r} belongs to no parameter of this model")
        owner = owners[name]
        # The fused kernel of Adam needs its step counter on the parameter's device.
        move = place if tensor.ndim == owner.ndim else copy_to_device
        optimizer.state[owner][entry] = move(tensor, owner)


def _taken(tensors: dict[str, Tensor] | Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors; take them out of a dictionary, so that no two copies of all are held."""
    if isinstance(tensors, dict):
        for name in list(tensors):
            yield name, tensors.pop(name)
    else:
        yield from tensors


def _flatten(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors under the names `parameter/entry`."""
    names: dict[Tensor, str] = {p: plain_name(name) for name, p in model.named_parameters()}
    return {
        f"{names[p]}/{entry}": value
        for p, values in optimizer.state.items()
        for entry, value in values.items()
        if isinstance(value, Tensor)
    }
