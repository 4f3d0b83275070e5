"""Export a model: write it beside its final path, open it with its program, compare it, and only then rename it."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..atomic_io import Files, move_into_place, remove_stale
from ..checkpoint import LoadedModel
from ..config import check_choice
from ..errors import CheckpointError
from .exporter import MIXED, Exporter, MissingDependency
from .gguf import GGUFExporter
from .huggingface import HuggingFaceExporter
from .model_card import CARD, write_card
from .onnx import OnnxExporter
from .verify import ExportCheck, change_by_rounding, verify

TARGETS: dict[str, Exporter] = {
    exporter.name: exporter for exporter in (HuggingFaceExporter(), GGUFExporter(), OnnxExporter())
}
_KNOWN_FILES = {CARD}.union(*(exporter.files for exporter in TARGETS.values()))
_WEIGHTS = {exporter.weights for exporter in TARGETS.values()}


@dataclass(frozen=True)
class ExportResult:
    """A finished export."""

    path: Path
    size: int  # bytes
    check: ExportCheck | None  # None if the program is not installed
    summary: str  # of the check, one line


def export(
    loaded: LoadedModel,
    exporter: Exporter,
    out: Path,
    *,
    dtype: str = "",
    overwrite: bool = False,
    log: Callable[[str], object] = lambda line: None,
) -> ExportResult:
    """Write a model for another program, and check that it is the same model there.

    Args:
        loaded: on the CPU, in float32.
        dtype: of the weights, one of the exporter's; empty for its default.
        log: called with a line for each stage.

    Raises:
        ConfigError: the program has no such model or format.
        CheckpointError: `out` exists, the disk is full, or the export differs from the model. Nothing is kept.
    """
    check_request(exporter, out, dtype, overwrite=overwrite)
    dtype = dtype or exporter.default_dtype(loaded)
    remove_stale(out)
    # In the same folder as `out`, because a rename works only within one file system.
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        (partial if exporter.is_folder else partial.parent).mkdir(parents=True, exist_ok=True)
        for note in exporter.notes(loaded):
            log(f"note      {note}")
        log(f"writing   weights in {dtype}")
        exporter.write(loaded, partial, dtype=dtype)
        check, summary = _verify(loaded, exporter, partial, dtype, log)
        if exporter.is_folder:
            write_card(loaded, partial, summary)
        move_into_place(partial, out, Files())
    except OSError as error:
        raise CheckpointError(
            f"{out} could not be written ({error.strerror or error}); nothing was changed. "
            "Free some space, or name another path with {--out}"
        ) from None
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    files = [f for f in out.rglob("*") if f.is_file()] if out.is_dir() else [out]
    return ExportResult(out, sum(f.stat().st_size for f in files), check, summary)


def _verify(
    loaded: LoadedModel, exporter: Exporter, path: Path, dtype: str, log: Callable[[str], object]
) -> tuple[ExportCheck | None, str]:
    """Return the comparison with the program (None if it is not installed), and one line on the result."""
    rounding = ""
    if (change := change_by_rounding(loaded, exporter.rounded_weights(loaded, dtype))) is not None:
        stored = "the dtypes of the import" if dtype == MIXED else dtype
        rounding = f"; the weights were rounded to {stored}, which changes the model's logits by up to {change:.1e}"
    # Before the program, whose answer to a damaged file can be a crash.
    without_program = exporter.read_back(loaded, path, dtype=dtype)
    if find_spec(exporter.package):
        log(f"checking  the export is opened in {exporter.program} and compared with the model")
    try:
        runtime = exporter.open(path)
        try:
            limit = exporter.tolerance(loaded, dtype)
            texts = exporter.tokenizer_texts(loaded)
            check = verify(exporter.reference(loaded, dtype), runtime, limit=limit, texts=texts)
        finally:
            runtime.close()
    except MissingDependency as error:
        if without_program:
            return None, f"{without_program}; NOT run in {exporter.program}: {error}{rounding}"
        return None, f"NOT verified in {exporter.program}: {error}{rounding}"
    return check, "; ".join(filter(None, (check.summary + rounding, runtime.note)))


def check_request(exporter: Exporter, out: Path, dtype: str, *, overwrite: bool) -> None:
    """Raise ConfigError for an unknown dtype, or CheckpointError for a path that may not be written or replaced."""
    check_choice("dtype", dtype or exporter.dtypes[0], exporter.dtypes)
    problem = ""
    if out.name in ("", "..") or out.is_symlink():
        problem = "is a link" if out.is_symlink() else "is not a name for a new file or folder"
    elif not out.exists():
        return
    elif not overwrite:
        raise CheckpointError(f"{out} already exists; name another with {{--out}}, or replace it: {{--overwrite}}")
    elif out.is_dir() != exporter.is_folder:
        problem = f"is a {'folder' if out.is_dir() else 'file'}, and this export writes a " + (
            "folder" if exporter.is_folder else "file"
        )
    elif out.is_dir():
        names = {f.name for f in out.iterdir()}
        # README.md alone does not make an export: it may be the user's own.
        if unknown := sorted(names - _KNOWN_FILES or (set() if names & _WEIGHTS else names)):
            problem = f"has files that no export wrote ({', '.join(unknown[:3])}), so it is not replaced"
    else:
        with open(out, "rb") as file:
            if file.read(len(exporter.magic)) != exporter.magic:
                problem = f"is not a {exporter.name.upper()} file, so it is not replaced"
    if problem:
        raise CheckpointError(f"{out} {problem}; name another path with {{--out}}")
