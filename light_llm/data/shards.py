"""Token ids on disk: a `.bin` of little-endian integers and a JSON manifest that says what they are.

A shard is written once, whole or not at all, and never changed. Its blocks are checked against the manifest the first
time they are read, so that a damaged file is named instead of trained on.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

FORMAT = 1
BLOCK = 1 << 20  # bytes under one SHA-256


class TokenArray(Protocol):
    """A long row of token ids."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Ids start ... stop - 1."""
        ...


class Shard:
    """A memory-mapped row of token ids, (n,).

    Raises:
        DataError: the manifest or the file is missing, of another format, or not of the size the manifest says; later,
            at the first read of a block, that its bytes are not the ones that were written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _read_manifest(path)
        dtype = np.dtype(self.manifest["dtype"])
        expected = self.manifest["tokens"] * dtype.itemsize
        found = path.stat().st_size if path.is_file() else -1
        if found != expected:
            raise DataError(f"{path} has {max(found, 0):,} bytes, its manifest says {expected:,}; {_rebuild(path)}")
        self.ids = np.memmap(path, dtype=dtype, mode="r") if found else np.zeros(0, dtype)
        self.unchecked = set(range(len(self.manifest["sha256"])))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Ids start ... stop - 1, checked on their first read. Raises DataError when the file was damaged."""
        if stop > start:
            size = self.ids.itemsize
            for block in range(start * size // BLOCK, (stop * size - 1) // BLOCK + 1):
                if block in self.unchecked:
                    self._check(block)
        return self.ids[start:stop].astype(np.int64)

    def _check(self, block: int) -> None:
        per_block = BLOCK // self.ids.itemsize
        data = self.ids[block * per_block : (block + 1) * per_block].tobytes()
        if hashlib.sha256(data).hexdigest() != self.manifest["sha256"][block]:
            raise DataError(
                f"{self.path} is damaged: its bytes from {block * BLOCK:,} are not the ones that were written; "
                + _rebuild(self.path)
            )
        self.unchecked.discard(block)


class TokensInMemory:
    """A row of ids that is already here: for tests and for texts given as strings."""

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids = np.asarray(list(ids), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Ids start ... stop - 1."""
        return self.ids[start:stop]


def write_shard(path: Path, ids: Iterable[Iterable[int]], *, vocab_size: int, facts: Mapping[str, Any]) -> None:
    """Write pieces of ids, in order, and then their manifest.

    Args:
        path: of the `.bin`; the manifest stands beside it with the ending `.json`.
        facts: what else to keep in the manifest, such as the hashes of the text and of the tokenizer.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    n = 0
    with open(path, "wb") as out:
        for piece in ids:
            array = np.fromiter(piece, dtype=np.int64)
            if array.size and not (0 <= array.min() and array.max() < vocab_size):
                raise DataError(f"token id {array.max()} is outside the vocabulary of {vocab_size}")
            array.astype(dtype).tofile(out)
            n += array.size
        out.flush()
        os.fsync(out.fileno())
    manifest = {
        "format": FORMAT,
        "dtype": dtype.str,
        "tokens": n,
        "vocab_size": vocab_size,
        "sha256": [hashlib.sha256(block).hexdigest() for block in _blocks(path)],
        **facts,
    }
    path.with_suffix(".json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


class ShardFolder:
    """A folder of shards that appears under its name only when all of them are written.

    Use as a context manager: it gives a temporary folder to write into, and renames it at the end.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.partial = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Path:
        try:
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise DataError(
                f"the tokens cannot be kept at {self.final} ({error.strerror}); "
                "set LIGHT_LLM_CACHE to a folder that can be written"
            ) from None
        return self.partial

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and not self.final.exists():
            try:
                os.replace(self.partial, self.final)
            except OSError:
                if not self.final.exists():  # another process may have been first: its shards are the same
                    raise
        shutil.rmtree(self.partial, ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path.with_suffix(".json")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT and manifest["dtype"] in ("<u2", "<u4")
        if known and manifest["tokens"] >= 0 and len(manifest["sha256"]) >= 0:
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{file} is missing, damaged or of another format; {_rebuild(path)}")


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield block


def _rebuild(path: Path) -> str:
    return f"delete the folder {path.parent} and start again: it is made anew from the text"
