"""Token ids on disk: a `.bin` of little-endian integers and a JSON manifest that says what they are.

A shard is written once, whole or not at all, and never changed. Its blocks are checked against the manifest the first
time they are read, and the manifest against a digest of its own, so that a damaged file is named instead of trained on.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..json_io import dump_with_digest, load_verified

FORMAT = 2
BLOCK = 1 << 20  # bytes under one SHA-256


class TokenArray(Protocol):
    """A long row of token ids."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Ids start ... stop - 1."""
        ...


class Shard:
    """A memory-mapped row of token ids, (n,).

    Args:
        path: of the `.bin`.
        facts: what the manifest has to say of it.

    Raises:
        DataError: the manifest or the file is missing, damaged, of another format, or not of the size the manifest
            says; later, at the first read of a block, that its bytes are not the ones that were written, or ids that
            the vocabulary lacks.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.manifest = _read_manifest(path)
        for name, value in (facts or {}).items():
            if self.manifest.get(name) != value:
                raise DataError(
                    f"{path} is of another text or tokenizer: its {name} is {self.manifest.get(name)!r} and should be "
                    f"{value!r}; {_rebuild(path)}"
                )
        dtype = np.dtype(self.manifest["dtype"])
        expected = self.manifest["tokens"] * dtype.itemsize
        found = path.stat().st_size if path.is_file() else -1
        if found != expected:
            raise DataError(f"{path} has {max(found, 0):,} bytes, its manifest says {expected:,}; {_rebuild(path)}")
        try:
            self.ids = np.memmap(path, dtype=dtype, mode="r") if found else np.zeros(0, dtype)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}; {_rebuild(path)}") from None
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

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Check every block now. Raises DataError at the first that was damaged."""
        blocks = len(self.manifest["sha256"])
        for block in range(blocks):
            self._check(block)
            if progress:
                progress(block + 1, blocks)

    def _check(self, block: int) -> None:
        per_block = BLOCK // self.ids.itemsize
        ids = self.ids[block * per_block : (block + 1) * per_block]
        if hashlib.sha256(ids.tobytes()).hexdigest() != self.manifest["sha256"][block]:
            raise DataError(
                f"{self.path} is damaged: its bytes from {block * BLOCK:,} are not the ones that were written; "
                + _rebuild(self.path)
            )
        if ids.max() >= self.manifest["vocab_size"]:
            raise DataError(
                f"{self.path} has token id {ids.max()}, which is outside the vocabulary of "
                f"{self.manifest['vocab_size']}; {_rebuild(self.path)}"
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


def id_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type of a file that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Writes a `.bin` from its beginning or from where an earlier writer was interrupted, and then its manifest.

    Args:
        path: of the `.bin`; the manifest stands beside it with the ending `.json`.
        facts: what else to keep in the manifest, such as the hashes of the text and of the tokenizer.
        mark: what `mark` of the earlier writer returned: all up to there is kept, the rest is cut off.
    """

    def __init__(
        self, path: Path, *, vocab_size: int, facts: Mapping[str, Any], mark: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.vocab_size, self.facts = path, vocab_size, facts
        self.dtype = id_type(vocab_size)
        self.tokens = mark["tokens"] if mark else 0
        self.hashes: list[str] = list(mark["sha256"]) if mark else []  # of the blocks that are full
        self.digest = hashlib.sha256()  # of the one that is not
        self.filled = 0  # its bytes
        self.file = open(path, "r+b" if mark else "wb")  # noqa: SIM115  (closed by close)
        if mark:
            self.file.truncate(self.tokens * self.dtype.itemsize)
            self.file.seek(len(self.hashes) * BLOCK)
            self._hash(self.file.read())

    def write(self, ids: NDArray[np.integer[Any]]) -> None:
        """Append ids. Raises DataError for one outside the vocabulary."""
        if ids.size and not (0 <= ids.min() and ids.max() < self.vocab_size):
            raise DataError(f"token id {ids.max()} is outside the vocabulary of {self.vocab_size}")
        data = ids.astype(self.dtype).tobytes()
        self.file.write(data)
        self._hash(data)
        self.tokens += ids.size

    def mark(self) -> dict[str, Any]:
        """Make what was written safe, and say how far that is."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"tokens": self.tokens, "sha256": list(self.hashes), "rest": self.digest.hexdigest()}

    def finish(self) -> None:
        """Write the manifest: the shard is complete."""
        mark = self.mark()
        rest = [self.digest.hexdigest()] if self.filled else []
        manifest = {
            "format": FORMAT,
            "dtype": self.dtype.str,
            "tokens": mark["tokens"],
            "vocab_size": self.vocab_size,
            "sha256": mark["sha256"] + rest,
            **self.facts,
        }
        with open(self.path.with_suffix(".json"), "wb") as out:
            out.write(dump_with_digest(manifest))
            out.flush()
            os.fsync(out.fileno())

    def _hash(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: BLOCK - self.filled]
            self.digest.update(part)
            self.filled += len(part)
            view = view[len(part) :]
            if self.filled == BLOCK:
                self.hashes.append(self.digest.hexdigest())
                self.digest, self.filled = hashlib.sha256(), 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path.with_suffix(".json")
    try:
        manifest = load_verified(file)
        if _is_sound(manifest):
            return manifest
        problem = "of another format"
    except OSError as error:
        problem = error.strerror or str(error)
    except ValueError as error:
        problem = str(error)
    raise DataError(f"{file} is missing, damaged or of another format ({problem}); {_rebuild(path)}")


def _is_sound(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is one of ours, with a hash for every block."""
    tokens, hashes, dtype = manifest.get("tokens"), manifest.get("sha256"), manifest.get("dtype")
    if (
        manifest.get("format") != FORMAT
        or dtype not in ("<u2", "<u4")
        or not isinstance(manifest.get("vocab_size"), int)
    ):
        return False
    if not isinstance(tokens, int) or tokens < 0 or not isinstance(hashes, list):
        return False
    return len(hashes) == -(-tokens * np.dtype(dtype).itemsize // BLOCK)


def _rebuild(path: Path) -> str:
    return f"delete the folder {path.parent} and start again: it is made anew from the text"
