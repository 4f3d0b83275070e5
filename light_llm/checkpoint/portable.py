"""`best_model.pt`: a model in one portable file, with its config, tokenizer and origin, under a digest."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import Files, commit_file
from .files import FORMAT, check_format

KIND = "light-llm model"


def write_portable(path: Path, weights: Mapping[str, Tensor], meta: Mapping[str, Any], files: Files) -> None:
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
    commit_file(path, lambda file: torch.save(payload, file), files)


def read_portable(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and plain values of a model file, on the CPU. Runs no code from it.

    Raises:
        CheckpointError: not a model file of ours, of another format, damaged or cut.
    """
    try:
        with open(path, "rb") as file:  # once: a run may put a newer model in its place between two looks
            _check_archive(path, file)
            payload = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # truncated and foreign files raise several unrelated types
        raise CheckpointError(f"{path} cannot be read as a model ({_first_line(error)}); {_WAY_OUT}") from None
    if not isinstance(payload, dict) or payload.get("kind") != KIND:
        raise CheckpointError(f"{path} is not a light-llm model file; {_WAY_OUT}")
    check_format(payload, path)
    weights, meta = payload.get("model"), payload.get("meta")
    sound = (
        isinstance(weights, dict) and isinstance(meta, dict) and all(isinstance(t, Tensor) for t in weights.values())
    )
    if not sound or digest(cast(Any, weights), cast(Any, meta)) != payload.get("digest"):
        raise CheckpointError(f"{path} is damaged: its contents do not match its digest; {_WAY_OUT}")
    return cast(dict[str, Tensor], weights), cast(dict[str, Any], meta)


def digest(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """SHA-256 over the plain values and over every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


_WAY_OUT = "use another checkpoint, or train again"


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuse what torch would unpack to more than the file holds: deflated records, sizes beyond the file's."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        # What one flipped byte makes of a zip directory: no zip, an impossible offset, a length, or "a newer version".
        raise CheckpointError(f"{path} is damaged or cut, or no model file at all: {error}; {_WAY_OUT}") from None
    deflated = any(r.compress_type != zipfile.ZIP_STORED for r in records)
    if deflated or sum(r.file_size for r in records) > size:
        raise CheckpointError(f"{path} is not a light-llm model file: its records are packed; {_WAY_OUT}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
