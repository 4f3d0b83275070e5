"""From a model to a verified export: written beside its place, opened by the program it is for, and only then there.

A file that fails its check was never under its name, so nobody can have used it.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..atomic_io import Files, move_into_place, remove_stale
from ..checkpoint import LoadedModel
from ..config import check_choice
from ..errors import CheckpointError
from .optional_deps import NotHere
from .verify import Runtime, Verdict, verify

KNOWN = {  # names that an export may have written, and `overwrite` may therefore remove
    *("config.json", "generation_config.json", "model.safetensors", "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "model.onnx", "model_with_past.onnx"),
}
WEIGHTS = {"model.safetensors", "model.onnx"}  # without them a folder is no export, whatever its card is
Say = Callable[[str], object]


@dataclass(frozen=True)
class Target:
    """A kind of export."""

    module: str  # of this room, with `write` and `open_export`
    out: str  # where it goes unless told
    is_folder: bool
    dtypes: tuple[str, ...]  # of the weights; the first is the default
    program: str


TARGETS = {
    "hf": Target("huggingface", "model-hf", True, ("float32", "bfloat16", "float16"), "Transformers"),
    "gguf": Target("gguf", "model.gguf", False, ("f32", "f16", "bf16", "q8_0"), "llama.cpp"),
    "onnx": Target("onnx", "model-onnx", True, ("float32",), "ONNX Runtime"),
}
LIMIT = 1e-4  # of the difference between two logits


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    size: int  # bytes
    verdict: Verdict | None  # None where the program is not here
    words: str  # of the verification


def export(
    loaded: LoadedModel,
    target: Target,
    out: Path,
    *,
    dtype: str = "",
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Exported:
    """Write a model for another program, and see that it is the same model there.

    Args:
        loaded: on the CPU, in float32.
        dtype: of the weights, one of the target's; empty for the first.

    Raises:
        ConfigError: the program has no such model or format.
        CheckpointError: something is in the way, the disk takes no more, or the export is not the model: nothing is
            kept then.
    """
    dtype = dtype or target.dtypes[0]
    check_request(target, out, dtype, overwrite=overwrite)
    remove_stale(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    module: Any = import_module(f".{target.module}", __package__)
    try:
        if target.is_folder:
            partial.mkdir(parents=True)
        else:
            partial.parent.mkdir(parents=True, exist_ok=True)
        say(f"writing   weights in {dtype}")
        module.write(loaded, partial, **({"dtype": dtype} if len(target.dtypes) > 1 else {}))
        say(f"checking  it is opened in {target.program}")
        verdict, words = _verified(loaded, module, partial, dtype)
        if target.is_folder:
            from .model_card import write_card

            write_card(loaded, partial, [words])
        move_into_place(partial, out, Files())
    except OSError as error:  # NumPy's has no errno
        raise CheckpointError(
            f"{out} could not be written ({error.strerror or error}); nothing was changed. "
            "Make room or get leave to write there, or write elsewhere with --out"
        ) from None
    finally:
        _remove(partial)
    files = [f for f in out.rglob("*") if f.is_file()] if out.is_dir() else [out]
    return Exported(out, sum(f.stat().st_size for f in files), verdict, words)


def _verified(loaded: LoadedModel, module: Any, path: Path, dtype: str) -> tuple[Verdict | None, str]:
    """What the other program says; in words why it says nothing, where it is not here.

    A module may have more to say of its format: `read_back`; `as_computed`, our model with the program's own roundings;
    and `allowed`, the limit for two logits.
    """
    back = module.read_back(loaded, path, dtype=dtype).words if hasattr(module, "read_back") else ""
    try:
        runtime: Runtime = module.open_export(path)
        try:
            limit = module.allowed(loaded, dtype) if hasattr(module, "allowed") else LIMIT
            side = module.as_computed(loaded, dtype) if hasattr(module, "as_computed") else rounded(loaded, dtype)
            verdict = verify(side, runtime, limit=limit)
        finally:
            if hasattr(runtime, "close"):
                runtime.close()
    except NotHere as error:
        return None, f"{back}; NOT run by the program itself: {error}" if back else f"NOT verified: {error}"
    return verdict, verdict.words


def rounded(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """The model as the export's weights say it, computed in float32."""
    if dtype == "float32":
        return loaded
    model = deepcopy(loaded.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    return replace(copy(loaded), model=model)


def check_request(target: Target, out: Path, dtype: str, *, overwrite: bool) -> None:
    """What can be known before a model is read.

    Raises:
        ConfigError: the target has no such dtype.
        CheckpointError: something is in the way that nobody said may go.
    """
    check_choice("dtype", dtype or target.dtypes[0], target.dtypes)
    if out.name in ("", "..") or out.is_symlink():
        what = "a link" if out.is_symlink() else "no name"
        raise CheckpointError(f"{out} is {what}, which cannot be given to an export; write elsewhere with --out")
    if not out.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{out} is there already; write elsewhere with --out, or replace it with --overwrite")
    if out.is_dir() != target.is_folder:
        what = "a folder" if out.is_dir() else "a file"
        raise CheckpointError(f"{out} is {what}, which this export is not; write elsewhere with --out")
    if not out.is_dir():
        with open(out, "rb") as file:
            if file.read(4) != b"GGUF":
                raise CheckpointError(f"{out} is no GGUF file, so it is not replaced; write elsewhere with --out")
    found = sorted(f.name for f in out.iterdir()) if out.is_dir() else []
    strangers = [name for name in found if name not in KNOWN] or ([] if WEIGHTS.intersection(found) else found)
    if strangers:
        raise CheckpointError(
            f"{out} holds what no export wrote ({', '.join(strangers[:3])}), so it is not replaced; "
            "write elsewhere with --out"
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
