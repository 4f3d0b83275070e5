"""Folders that are complete or not there, under a manifest of sizes and hashes; JSON that shows a flipped bit."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..atomic_io import Files, WriteFn, move_into_place
from ..errors import CheckpointError
from ..json_io import canonical_json, dump_with_digest, load_json, load_verified

MANIFEST = "MANIFEST.json"
FORMAT = 1


def commit_folder(path: Path, contents: Mapping[str, WriteFn], files: Files) -> None:
    """Write a folder of files, then their manifest, then its name: it is complete or it is not there.

    The order is the protocol: each file synced, the manifest (size and SHA-256 of each) last, the folder synced, the
    rename, and the parent synced. A crash at any point leaves the old state or the new one, and so does an error.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    old = path.with_name(f"{path.name}.old-{os.getpid()}")
    if partial.exists():
        files.remove(partial)
    try:
        _write_folder(partial, contents, files)
        move_into_place(
            partial, path, files, old=old
        )  # `RunFolder.remove_stale` restores `old` after a crash in between
    except Exception:  # at the end of the process nothing is tidied up; `RunFolder.remove_stale` does that
        with suppress(OSError):
            if partial.exists():
                files.remove(partial)
        raise


def _write_folder(folder: Path, contents: Mapping[str, WriteFn], files: Files) -> None:
    files.make_folder(folder)
    entries = {}
    for name, write_fn in contents.items():
        sha256 = files.write(folder / name, write_fn)
        files.sync(folder / name)
        entries[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256}
    files.write(folder / MANIFEST, as_json({"format": FORMAT, "files": entries}))
    files.sync(folder / MANIFEST)
    files.sync_folder(folder)


def is_complete(path: Path) -> bool:
    """Whether a folder was committed; whether its bytes are still right is `verify_folder`."""
    return (path / MANIFEST).is_file()


def verify_folder(path: Path) -> None:
    """Check every file of a committed folder against its manifest.

    Raises:
        CheckpointError: a file that is missing, cut or altered, or a manifest that is, or is of another format.
    """
    manifest = read_json(path / MANIFEST)
    check_format(manifest, path)
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise CheckpointError(f"{path / MANIFEST} is damaged: it lists no files; use another checkpoint")
    for name, entry in entries.items():
        file, size = path / name, entry.get("bytes")
        if len(name) > 255 or Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing; use another checkpoint")
        if file.stat().st_size != size:
            raise CheckpointError(
                f"{file} is damaged: it has {file.stat().st_size:,} bytes, the manifest says {size}; "
                "use another checkpoint"
            )
        if _sha256(file) != entry.get("sha256"):
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not the manifest's; use another checkpoint")


def check_format(values: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless the format number is ours."""
    found = values.get("format")
    if found != FORMAT:
        raise CheckpointError(
            f"{path} is written in format {found!r}; this light-llm reads format {FORMAT}: "
            "use the version that wrote it, or a newer one"
        )


def as_json(values: Mapping[str, Any]) -> WriteFn:
    """A `write_fn` that writes values as JSON, the same bytes for the same values."""
    return lambda file: file.write(canonical_json(values))


def as_json_with_digest(values: Mapping[str, Any]) -> WriteFn:
    """The same with a digest over them, for a file that no manifest covers."""
    return lambda file: file.write(dump_with_digest(values))


def read_verified_json(path: Path) -> dict[str, Any]:
    """What `as_json_with_digest` wrote. Raises CheckpointError when it is missing or a byte of it is another."""
    try:
        return load_verified(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); use another checkpoint") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError when it is missing or damaged."""
    try:
        values = load_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); use another checkpoint") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object; use another checkpoint")
    return values


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
