"""The file seam: each write, sync and rename of a checkpoint goes through one small object that a test can replace."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError

MANIFEST = "MANIFEST.json"
FORMAT = 1


class Files:
    """The real file system. A write is on the disk when it returns."""

    def write(self, path: Path, fill: Callable[[BinaryIO], object]) -> None:
        """Create a file, let `fill` write it, sync it."""
        with open(path, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())

    def make_folder(self, path: Path) -> None:
        """Create a folder and those above it."""
        path.mkdir(parents=True)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable; Windows has no such call and does without."""
        if os.name == "nt":
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder its final name, in one step."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Delete a file or a folder with all in it."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def commit_file(path: Path, fill: Callable[[BinaryIO], object], files: Files) -> None:
    """Write a file under a temporary name, rename it: a reader sees the old one or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        files.write(partial, fill)
        files.rename(partial, path)
        files.sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def commit_folder(path: Path, contents: Mapping[str, Callable[[BinaryIO], object]], files: Files) -> None:
    """Write a folder of files, then their manifest, then its name: it is complete or it is not there.

    The order is the protocol: each file synced, the manifest (size and SHA-256 of each) last, the folder synced, the
    rename, and the parent synced. A crash at any point leaves the old state or the new one.
    """
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    if partial.exists():
        files.remove(partial)
    files.make_folder(partial)
    entries = {}
    for name, fill in contents.items():
        files.write(partial / name, fill)
        entries[name] = {"bytes": (partial / name).stat().st_size, "sha256": _sha256(partial / name)}
    files.write(partial / MANIFEST, as_json({"format": FORMAT, "files": entries}))
    files.sync_folder(partial)
    old = path.with_name(f"{path.name}.old-{os.getpid()}")
    if path.exists():  # the same step once more; `RunFolder.sweep` puts the old one back if this breaks off
        files.rename(path, old)
    files.rename(partial, path)
    files.sync_folder(path.parent)
    if old.exists():
        files.remove(old)


def is_complete(path: Path) -> bool:
    """Whether a folder was committed; whether its bytes are still right is `verify_folder`."""
    return (path / MANIFEST).is_file()


def verify_folder(path: Path) -> None:
    """Check every file of a committed folder against its manifest.

    Raises:
        CheckpointError: a file that is missing, cut, altered or unexpected, or a manifest of another format.
    """
    manifest = read_json(path / MANIFEST)
    check_format(manifest, path)
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(f"{path / MANIFEST} is damaged: it lists no files; use another checkpoint")
    for name, entry in entries.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing; use another checkpoint")
        if file.stat().st_size != entry.get("bytes"):
            raise CheckpointError(
                f"{file} is damaged: it has {file.stat().st_size:,} bytes, the manifest says {entry.get('bytes'):,}; "
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


def as_json(values: Mapping[str, Any]) -> Callable[[BinaryIO], object]:
    """A `fill` that writes values as JSON, the same bytes for the same values."""
    return lambda file: file.write(json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError when it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); use another checkpoint") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object; use another checkpoint")
    return values


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
