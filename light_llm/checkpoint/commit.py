"""Commit a folder of files atomically under a manifest, verify it, and read and write the JSON files of a run."""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..atomic_io import Files, NullFiles, WriteFn, move_into_place
from ..config import repr_short
from ..errors import CheckpointError
from ..json_io import canonical_json, load_json
from ..runtime import World
from .tensors import TensorWriter
from .write_together import write_together

MANIFEST = "MANIFEST.json"
# Of a step folder and of a model file. Format 1 had no files that travel with a model. A new field whose default means
# "as before" does not raise the number; what an older reader would misread does.
FORMAT = 2


def commit_folder(
    path: Path,
    contents: Mapping[str, WriteFn],
    files: Files,
    world: World = World(),
    divided: Sequence[str] = (),
) -> None:
    """Write a folder of files so that it is either complete or absent, replacing a folder of that name.

    The order is the protocol: write and sync each file, then the manifest (size and SHA-256 of each), sync the folder,
    rename it, sync its parent. A crash or an error at any point leaves the old state or the new one.

    With several ranks each calls it. Rank 0 has the real `files` and the others `NullFiles`; if the disk fails, the
    tensors of all files are gathered before the error is raised.

    Args:
        world: by default the ranks exchange no messages but those of the files; otherwise they wait for rank 0, whose
            error reaches all.
        divided: files of tensors that the ranks write at the same time, each with its `files.own`, in a folder that
            all of them see; rank 0 writes the others.

    Raises:
        OSError: the folder cannot be written.
    """
    partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    old = path.with_name(f"{path.name}.old-{os.getpid()}")

    def begin() -> str:
        if partial.exists():
            files.remove(partial)
        files.make_folder(partial)
        return str(partial)

    def complete() -> None:
        files.write(partial / MANIFEST, as_json({"format": FORMAT, "files": entries}))
        files.sync(partial / MANIFEST)
        files.sync_folder(partial)
        # A crash between its two renames leaves only `old`; `RunFolder.remove_stale` gives it its name back.
        move_into_place(partial, path, files, old=old)

    try:
        failure, folder = None, partial
        try:
            folder = Path(world.of_first(begin))
        except OSError as error:
            failure = error
        entries = _write_files(folder, contents, files, world, divided, failure)
        world.of_first(complete)
    # Not BaseException: a process that is being ended leaves the partial folder to `RunFolder.remove_stale`.
    except Exception:
        with suppress(OSError):
            if partial.exists():
                files.remove(partial)
        raise


def _write_files(
    folder: Path,
    contents: Mapping[str, WriteFn],
    files: Files,
    world: World,
    divided: Sequence[str],
    failure: OSError | None,
) -> dict[str, Any]:
    """Write and sync files; return their sizes and hashes, on all ranks.

    After a failure nothing more is written, but the tensors of all files are gathered.

    Raises:
        OSError: a rank could not write a file; on all ranks.
    """
    entries: dict[str, Any] = {}
    rounds = [list(divided[i : i + world.size]) for i in range(0, len(divided), world.size)]
    for names in [*rounds, *([name] for name in contents if name not in divided)]:
        own = names[world.rank] if world.rank < len(names) else None
        disk = NullFiles() if failure or own is None else files.own if own in divided else files
        writers = {name: write_fn for name in names if isinstance(write_fn := contents[name], TensorWriter)}
        try:
            if len(names) > 1:
                sha256 = write_together(folder, writers, own, disk)
            else:
                sha256 = disk.write(folder / names[0], contents[names[0]])
            if own is not None:
                disk.sync(folder / own)
                entries[own] = {"bytes": disk.size(folder / own), "sha256": sha256}
        except OSError as error:
            failure = error
            for writer in writers.values():
                writer.finish()
        # A slow disk must not let the other ranks time out in the first gather of the next file.
        if writers:
            world.barrier()
    own_failure = [failure.errno, failure.strerror or str(failure)] if failure else None
    for rank, (found, failed) in enumerate(world.gather([entries, own_failure])):
        if failed:
            raise failure or OSError(failed[0], f"{failed[1]}, on rank {rank}")
        entries |= found
    return {name: entries[name] for name in contents}


def is_complete(path: Path) -> bool:
    """Return whether a folder was committed. `verify_folder` checks its bytes."""
    return (path / MANIFEST).is_file()


def verify_folder(path: Path, only: Collection[str] = ()) -> list[str]:
    """Check the files of a committed folder against its manifest.

    Args:
        only: check no others; by default all are checked.

    Returns:
        The names of the files that were checked.

    Raises:
        CheckpointError: a file or the manifest is missing, truncated or altered, or the format is unknown.
    """
    manifest = read_json(path / MANIFEST)
    check_format(manifest, path)
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise CheckpointError(f"{path / MANIFEST} is damaged: it lists no files; use another checkpoint")
    checked = [name for name in entries if not only or name in only]
    for name in checked:
        entry = entries[name]
        file, expected = path / name, entry.get("bytes")
        if len(name) > 255 or Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing; use another checkpoint")
        if (size := file.stat().st_size) != expected:
            raise CheckpointError(
                f"{file} is damaged: it has {size:,} bytes, the manifest says {expected}; use another checkpoint"
            )
        if _sha256(file) != entry.get("sha256"):
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not the manifest's; use another checkpoint")
    return checked


def check_format(values: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless the format number is ours or an earlier one."""
    stored = values.get("format")
    if type(stored) is int and 1 <= stored <= FORMAT:
        return
    if type(stored) is int and stored > FORMAT:
        raise CheckpointError(
            f"{path} was written by a newer light-llm, in format {repr_short(stored)}; this one reads formats up to "
            f"{FORMAT}: install the version that wrote it, or a newer one"
        )
    raise CheckpointError(
        f"{path} is damaged: its format is {repr_short(stored)}, and there are the formats 1 to {FORMAT}; "
        "use another checkpoint"
    )


def as_json(values: Mapping[str, Any]) -> WriteFn:
    """Return a `WriteFn` that writes values as JSON, the same bytes for the same values."""
    return lambda file: file.write(canonical_json(values))


def read_json(path: Path, load: Callable[[Path], Any] = load_json) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError when the file is missing or damaged."""
    try:
        values = load(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); use another checkpoint") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object; use another checkpoint")
    return values


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
