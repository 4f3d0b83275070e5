"""Recognise a file of another kind that was given as a model, for an error that names the kind."""

import shlex
from pathlib import Path

from ..errors import CheckpointError
from .run_folder import contains_run

_RUN_FILES = ("metrics.jsonl", "run.json", "train.log", "report.html", "analysis.json", "model.json")
MAX_LISTED = 4  # runs in a message
_TEXTS = (".txt", ".md", ".text", ".jsonl", ".ndjson", ".parquet", ".json", ".toml", ".gz")


def not_a_model(path: Path) -> CheckpointError | None:
    """Return the error for a file of another kind, recognized by name or first bytes, with what to do; else None."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError:
        return None
    folder = path.absolute().parent
    if (path.name in _RUN_FILES and (folder / "run.json").is_file()) or path.name == "model.json":
        run = folder.parent if folder.name.startswith("step-") else folder
        return CheckpointError(f"{path} is a file of a run; name the folder of the run: {run}")
    if path.suffix == ".safetensors":
        return CheckpointError(_advice_for_safetensors(path, folder))
    if start.startswith(b"GGUF"):
        return CheckpointError(f"{path} is a GGUF file, for llama.cpp; use the model that it was exported from")
    if path.suffix == ".onnx":
        return CheckpointError(f"{path} is an ONNX graph; use the model that it was exported from")
    if path.suffix.lower() in _TEXTS:
        return CheckpointError(f"{path} is not a model but a {path.suffix} file; name a run folder or a .pt file")
    return None


def advice_for_folder(folder: Path) -> str:
    """Return what to do about a folder that has no model of light-llm, for the end of a message."""
    if (folder / "config.json").is_file():
        return f"it is a Hugging Face folder; import it first: light-llm import {shlex.quote(str(folder))}"
    if any(folder.glob("*.onnx")):
        return "it is an ONNX export; use the model that it was exported from"
    runs = sorted(str(path) for path in folder.iterdir() if path.is_dir() and contains_run(path))
    if runs:
        more = f" and {len(runs) - MAX_LISTED} more" if len(runs) > MAX_LISTED else ""
        return f"it has the runs {', '.join(runs[:MAX_LISTED])}{more}; name one of them"
    if contains_run(folder):
        return "its run has no checkpoint yet; wait for one, or continue the run with {--resume}"
    return "train one with: light-llm train"


def _advice_for_safetensors(path: Path, folder: Path) -> str:
    if (folder / "model.json").is_file():
        return f"{path} is part of a step folder; name the folder: {folder}"
    what = "has the weights of a model but not its sizes"
    if (folder / "config.json").is_file():
        return f"{path} {what}; import the folder first: light-llm import {shlex.quote(str(folder))}"
    return f"{path} {what}; put it into a folder with its config.json and import that: light-llm import FOLDER"
