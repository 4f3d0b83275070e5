"""`best_model.pt`: a model in one portable file, with its config, tokenizer and origin, under a digest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..atomic_io import Files, atomic_write
from ..errors import CheckpointError
from ..json_io import check_depth
from .commit import FORMAT, check_format
from .safe_pickle import UnsafeModelFile, inspect_archive

KIND = "light-llm model"
NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def write_model_file(path: Path, weights: Mapping[str, Tensor], meta: Mapping[str, Any], files: Files) -> None:
    """Write a model so that `torch.load(path, weights_only=True)` reads it, whole or not at all.

    Args:
        weights: the plain model's state, by name.
        meta: plain values: config, tokenizer, data, step, evaluation.
    """
    # Through JSON and back, every string is an object of its own: the archive's bytes then depend on values alone, not
    # on which equal strings happened to be one object.
    names, meta = json.loads(json.dumps([sorted(weights), meta], sort_keys=True))
    tensors = {name: weights[name].detach().cpu().contiguous() for name in names}
    payload = {"kind": KIND, "format": FORMAT, "meta": meta, "model": tensors, "digest": digest(tensors, meta)}
    # Given a file object and not a path, torch names nothing in the archive after the file: same model, same bytes.
    atomic_write(path, lambda file: torch.save(payload, file), files)


class ModelFileReader:
    """A model file that has been looked at: what it says of itself, and no weight read yet.

    A file can be made by anyone, so each look bounds the next: first the archive and its pickle, of which nothing is
    built; then names, types and shapes, without storage; and `weights` at last reads the numbers and checks the digest.

    Raises:
        CheckpointError: not a model file of ours, of another format, damaged or cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = open(path, "rb")  # noqa: SIM115  (all looks are at one file, whatever takes its name meanwhile)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {_WAY_OUT}") from None
        try:
            self._look()
        except BaseException:
            self.file.close()
            raise

    def _look(self) -> None:
        path = self.path
        try:
            storages = inspect_archive(self.file)
        except UnsafeModelFile as error:
            raise CheckpointError(f"{path} is not a light-llm model file: {error}; {_WAY_OUT}") from None
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged or cut, or no model file at all: {error}; {_WAY_OUT}") from None
        payload = self._loaded("meta")
        if not isinstance(payload, dict) or payload.get("kind") != KIND:
            raise CheckpointError(f"{path} is not a light-llm model file; {_WAY_OUT}")
        check_format(payload, path)
        self.meta: dict[str, Any] = payload.get("meta") or {}
        self.outline: dict[str, Tensor] = payload.get("model") or {}  # on the meta device: shapes and types
        self.digest = payload.get("digest")
        sound = _are_plain(self.meta) and isinstance(self.outline, dict)
        if not sound or not all(isinstance(n, str) and _is_whole(t) for n, t in self.outline.items()):
            raise CheckpointError(f"{path} is damaged: what it holds is not a model's; {_WAY_OUT}")
        if sorted(t.nbytes for t in self.outline.values()) != storages:
            raise CheckpointError(f"{path} is damaged: its tensors do not have the sizes it says; {_WAY_OUT}")

    def weights(self) -> dict[str, Tensor]:
        """The weights, on the CPU. Raises CheckpointError when they or the plain values are not what was written."""
        payload = self._loaded("cpu")
        weights = cast(dict[str, Tensor], payload["model"])
        if digest(weights, self.meta) != self.digest:
            raise CheckpointError(f"{self.path} is damaged: its contents do not match its digest; {_WAY_OUT}")
        return weights

    def _loaded(self, device: str) -> Any:
        """What the archive holds. For the meta device torch.load reads no number."""
        try:
            self.file.seek(0)
            return torch.load(self.file, map_location=device, weights_only=True)
        except Exception as error:  # truncated and foreign files raise several unrelated types
            raise CheckpointError(f"{self.path} cannot be read as a model ({_first_line(error)}); {_WAY_OUT}") from None

    def __enter__(self) -> "ModelFileReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def read_model_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and plain values of a model file, on the CPU. Runs no code from it. Raises CheckpointError."""
    with ModelFileReader(path) as file:
        return file.weights(), file.meta


def digest(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """SHA-256 over the plain values and over every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


_WAY_OUT = "use another checkpoint, or train again"


def _is_whole(tensor: Any) -> bool:
    """Whether a tensor is one of numbers, with a storage of its own in the usual order: no view of a smaller one."""
    return isinstance(tensor, Tensor) and tensor.dtype in NUMBERS and tensor.is_contiguous()


def _are_plain(meta: Any) -> bool:
    """Whether values can be written as JSON, as ours were."""
    try:
        check_depth(meta)
        return isinstance(meta, dict) and bool(json.dumps(meta, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
