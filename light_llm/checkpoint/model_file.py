"""Read and write `best_model.pt`: a model in one file, with its config, tokenizer and origin, under a digest."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..atomic_io import Files, NullFiles, atomic_write
from ..data import TokenDataset, Tokenizer
from ..errors import CheckpointError
from ..json_io import check_depth
from ..model import LightLLM
from .carried_files import CARRIED_FILES, MAX_FILE, check_carried_files
from .commit import FORMAT, check_format
from .foreign_files import not_a_model
from .safe_pickle import UnsafeModelFile, inspect_archive
from .tensors import Gather, whole

KIND = "light-llm model"
_REMEDY = "use another checkpoint, or train again"
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def model_meta(
    model: LightLLM,
    dataset: TokenDataset | None,
    *,
    step: int,
    dtype: str,
    evaluation: Mapping[str, Any] | None,
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """Return the metadata of a model file: enough to use the model alone, and to evaluate it again.

    Args:
        tokenizer: of a loader without a dataset.
    """
    tokenizer = dataset.tokenizer if dataset else tokenizer
    return {
        "config": asdict(model.config),
        "tokenizer": tokenizer.to_dict() if tokenizer else None,
        "data": dataset.record() if dataset else None,
        "step": step,
        "dtype": dtype,
        "evaluation": dict(evaluation) if evaluation else None,
        "light_llm": __version__,
    }


def write_model_file(
    path: Path,
    weights: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    disk: Files,
    files: Mapping[str, bytes] = MappingProxyType({}),
    gather: Gather = whole,
) -> None:
    """Write a model atomically, readable by `torch.load(path, weights_only=True)`.

    With several ranks all call it, the first with the real `disk` and the others with `NullFiles`. The first rank holds
    all weights on the CPU, because torch.save needs them; they are gathered before anything is written.

    Args:
        weights: the state dict of the unwrapped model, in any of WEIGHT_DTYPES.
        meta: plain values: config, tokenizer, data, step, evaluation.
        files: of the model, such as tokenizer.json; see `carried_files`.
        gather: returns a whole tensor; called on each weight, by name.
    """
    check_carried_files(files)
    # A round trip through JSON makes every string an object of its own. Pickle stores a shared object once, so the
    # bytes would otherwise depend on which equal strings happen to be one object.
    names, file_names, meta = json.loads(json.dumps([sorted(weights), sorted(files), meta], sort_keys=True))
    tensors = {}
    for name in names:
        tensor = gather(weights[name])
        if not isinstance(disk, NullFiles):
            tensors[name] = _with_own_storage(tensor.detach().cpu().contiguous())
    if isinstance(disk, NullFiles):
        return
    payload = {"kind": KIND, "format": FORMAT, "meta": meta, "model": tensors}
    payload |= {
        "files": {name: _as_tensor(files[name]) for name in file_names},
        "digest": digest(tensors.items(), meta, files),
    }
    # Given a path, torch would name the folder in the archive after it: the same model would give other bytes.
    atomic_write(path, lambda file: torch.save(payload, file), disk)


class ModelFileReader:
    """An opened and checked model file: `meta` and the shapes of its weights; `read` reads the numbers.

    The file may come from a stranger, so each check bounds the next: first the zip and the pickle's instructions,
    without building anything; then names, types and shapes on the meta device; last the numbers, tensor by tensor, and
    their digest.

    Raises:
        CheckpointError: no light-llm model file, another format, damaged or truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Kept open: a running training may replace the file between two checks.
            self.file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {_REMEDY}") from None
        try:
            self._check()
        except BaseException:
            self.file.close()
            raise

    def _check(self) -> None:
        path = self.path
        if other := not_a_model(path):
            raise other
        try:
            records = inspect_archive(self.file)
        except UnsafeModelFile as error:
            raise CheckpointError(f"{path} is not a light-llm model file: {error}; {_REMEDY}") from None
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged or truncated, or not a model file: {error}; {_REMEDY}") from None
        payload = self._load()
        if not isinstance(payload, dict) or payload.get("kind") != KIND:
            nanogpt = isinstance(payload, dict) and "model_args" in payload
            remedy = (
                f"it is one of nanoGPT's; import it first: light-llm import {shlex.quote(str(path))}"
                if nanogpt
                else _REMEDY
            )
            raise CheckpointError(f"{path} is not a light-llm model file; {remedy}")
        check_format(payload, path)
        self.meta: dict[str, Any] = payload.get("meta") or {}
        self.shapes: dict[str, Tensor] = payload.get("model") or {}  # on the meta device: shapes and types only
        self.files: dict[str, Tensor] = payload.get("files") or {}
        self.digest = payload.get("digest")
        valid = _is_json(self.meta) and isinstance(self.shapes, dict) and isinstance(self.files, dict)
        if not valid or not all(isinstance(n, str) and _is_weight(t) for n, t in self.shapes.items()):
            raise CheckpointError(f"{path} is damaged: its contents are not those of a model; {_REMEDY}")
        if not all(isinstance(n, str) and _is_bytes(t) for n, t in self.files.items()):
            raise CheckpointError(f"{path} is damaged: the files in it are not bytes; {_REMEDY}")
        # The records are in the order of the pickle, and so are the keys of the payload.
        parts = [payload[key] or {} for key in payload if key in ("model", "files")]
        tensors = [tensor for part in parts for tensor in part.values()]
        if [t.nbytes for t in tensors] != [record.size for record in records]:
            raise CheckpointError(f"{path} is damaged: the sizes of its tensors are not the recorded ones; {_REMEDY}")
        self._records = {id(tensor): record for tensor, record in zip(tensors, records, strict=True)}

    def read(self, dtype: torch.dtype | None = None) -> tuple[dict[str, Tensor], dict[str, bytes]]:
        """Read the weights, on the CPU, and the files that travel with the model.

        Args:
            dtype: convert each weight as soon as it is read, so that no second copy of the model is held.

        Raises:
            CheckpointError: they or `meta` do not match the digest.
        """
        weights = dict[str, Tensor]()

        def read_all() -> Iterator[tuple[str, Tensor]]:
            for name in sorted(self.shapes):
                tensor = self._read_tensor(self.shapes[name])
                yield name, tensor
                weights[name] = tensor if dtype is None else tensor.to(dtype)

        files = self._verify(read_all())
        return weights, {name: data for name, data in files.items() if name in CARRIED_FILES}

    def read_files(self) -> dict[str, bytes]:
        """Return the files in the model file, whose digest is not checked."""
        return {name: self._read_tensor(tensor).numpy().tobytes() for name, tensor in self.files.items()}

    def verify(self) -> None:
        """Check the digest, one tensor at a time. Raises CheckpointError."""
        self._verify((name, self._read_tensor(self.shapes[name])) for name in sorted(self.shapes))

    def _verify(self, weights: Iterable[tuple[str, Tensor]]) -> dict[str, bytes]:
        """Return the files. Raises CheckpointError when the contents do not match the digest."""
        files = self.read_files()
        if digest(weights, self.meta, files) != self.digest:
            raise CheckpointError(f"{self.path} is damaged: its contents do not match its digest; {_REMEDY}")
        return files

    def _read_tensor(self, shape: Tensor) -> Tensor:
        """Return the tensor that a tensor on the meta device stands for."""
        tensor, record = torch.empty(shape.shape, dtype=shape.dtype), self._records[id(shape)]
        self.file.seek(record.start)
        if self.file.readinto(as_bytes(tensor)) != record.size:
            raise CheckpointError(f"{self.path} is damaged or truncated: a tensor is missing; {_REMEDY}")
        return tensor

    def _load(self) -> Any:
        """Load the pickle onto the meta device, without reading a number."""
        try:
            self.file.seek(0)
            # torch 2.10 would read all numbers even for the meta device.
            with torch.serialization.skip_data():
                return torch.load(self.file, map_location="meta", weights_only=True)
        # torch raises many unrelated types for truncated and foreign files.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise CheckpointError(f"{self.path} cannot be read as a model ({reason}); {_REMEDY}") from None

    def __enter__(self) -> "ModelFileReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def digest(
    weights: Iterable[tuple[str, Tensor]], meta: Mapping[str, Any], files: Mapping[str, bytes] = MappingProxyType({})
) -> str:
    """Return the SHA-256 over the meta values, every tensor's name, type, shape and bytes, and the files.

    Args:
        weights: names and tensors in the order of the names.
    """
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, tensor in weights:
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(as_bytes(tensor))
    for name in sorted(files):
        sha.update(f"{name} file {len(files[name])}".encode())
        sha.update(files[name])
    return sha.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def _is_weight(tensor: Any) -> bool:
    return _is_whole(tensor) and tensor.dtype in WEIGHT_DTYPES


def _is_whole(tensor: Any) -> bool:
    """Return whether a value is a tensor and no view; an expanded one could be far larger than the file."""
    return isinstance(tensor, Tensor) and tensor.is_contiguous() and not tensor.storage_offset()


def _is_bytes(tensor: Any) -> bool:
    return _is_whole(tensor) and tensor.dtype == torch.uint8 and tensor.ndim == 1 and tensor.numel() <= MAX_FILE


def _with_own_storage(tensor: Tensor) -> Tensor:
    """Return a tensor whose storage has its own numbers alone: torch.save would write all of a larger one."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _is_json(meta: Any) -> bool:
    """Return whether values can be written as JSON, as those that we write can."""
    try:
        check_depth(meta)
        return isinstance(meta, dict) and bool(json.dumps(meta, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        return False
