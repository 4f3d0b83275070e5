"""Token ids on disk: a `.bin` file of little-endian integers and a JSON manifest that describes it.

A shard is written once and never changed. Each block is verified against the manifest when it is first read, and the
manifest against its own digest, so that a damaged file is reported instead of trained on.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..atomic_io import atomic_write
from ..errors import DataError
from ..json_io import dump_with_digest, load_verified
from ..runtime import lock_while_alive
from .text_stream import ProgressFn

SHARD_FORMAT = 2  # of the manifest
BLOCK_BYTES = 1 << 20  # covered by one SHA-256
BYTES_OF = "{}_bytes.bin"  # the file with the byte counts of a shard
MAX_COUNT = 1 << 32  # of the bytes of one token


class Shard:
    """A memory-mapped array of token ids, (n,).

    Args:
        path: the `.bin` file.
        expected: entries that the manifest must have.
        repair: what to do about damage, for messages. None: delete the folder, because it is in the cache.

    Raises:
        DataError: the manifest or the file is missing, damaged, of another format or of another size; later, at the
            first read of a block, its bytes have changed or its ids are outside the vocabulary.
    """

    def __init__(self, path: Path, expected: Mapping[str, Any] | None = None, repair: str | None = None) -> None:
        self.path = path
        self.repair = repair or f"delete the folder {path.parent} and start again: it is rebuilt from the text"
        self.manifest = self._read_manifest()
        for name, value in (expected or {}).items():
            if self.manifest.get(name) != value:
                raise DataError(
                    f"{path} is of another text or tokenizer: its {name} is {self.manifest.get(name)!r} and should be "
                    f"{value!r}; {self.repair}"
                )
        dtype = np.dtype(self.manifest["dtype"])
        n_bytes = self.manifest["tokens"] * dtype.itemsize
        file_size = path.stat().st_size if path.is_file() else -1
        if file_size != n_bytes:
            raise DataError(f"{path} has {max(file_size, 0):,} bytes, its manifest says {n_bytes:,}; {self.repair}")
        try:
            # An empty file cannot be mapped.
            self.ids = np.memmap(path, dtype=dtype, mode="r") if file_size else np.zeros(0, dtype)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}; {self.repair}") from None
        lock_while_alive(self, path)
        # UTF-8 bytes of the text that each token stands for, where its id does not say: (n,).
        self.byte_counts = (
            Shard(path.with_name(BYTES_OF.format(path.stem)), repair=repair)
            if self.manifest.get("byte_counts")
            else None
        )
        # Verifying lazily keeps the start of a run on a large text fast.
        self.unchecked = set(range(len(self.manifest["sha256"])))
        self._expected = dict(expected or {})

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path, dict[str, Any], str]]:
        # A copy in another process maps the file again, instead of carrying its ids along.
        return Shard, (self.path.absolute(), self._expected, self.repair)

    def __repr__(self) -> str:
        return f"Shard({len(self):,} tokens in {self.path})"

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids start ... stop - 1, each block verified on its first read. Raises DataError for damage."""
        if stop > start:
            size = self.ids.itemsize
            for block in range(start * size // BLOCK_BYTES, (stop * size - 1) // BLOCK_BYTES + 1):
                if block in self.unchecked:
                    self._check(block)
        return self.ids[start:stop].astype(np.int64)

    @property
    def n_blocks(self) -> int:
        """Blocks that are verified one by one."""
        return len(self.manifest["sha256"])

    def check(self, progress: ProgressFn | None = None) -> None:
        """Verify every block now. Raises DataError at the first damaged one."""
        if self.byte_counts:
            self.byte_counts.check()
        for block in range(self.n_blocks):
            self._check(block)
            if progress:
                progress(block + 1, self.n_blocks)

    def _read_manifest(self) -> dict[str, Any]:
        file = self.path.with_suffix(".json")
        try:
            if _is_valid(manifest := load_verified(file)):
                return manifest
            problem = "of another format"
        except (OSError, ValueError) as error:
            problem = str(error)
        raise DataError(f"{file} is missing, damaged or of another format ({problem}); {self.repair}")

    def _check(self, block: int) -> None:
        per_block = BLOCK_BYTES // self.ids.itemsize
        ids = self.ids[block * per_block : (block + 1) * per_block]
        if hashlib.sha256(ids.tobytes()).hexdigest() != self.manifest["sha256"][block]:
            raise DataError(
                f"{self.path} is damaged: its bytes from {block * BLOCK_BYTES:,} are not the ones that were written; "
                + self.repair
            )
        # A hash proves that the bytes are unchanged, not that the ids fit; a wrong id would fail inside a kernel.
        if ids.max() >= self.manifest["vocab_size"]:
            raise DataError(
                f"{self.path} has token id {ids.max()}, which is outside the vocabulary of "
                f"{self.manifest['vocab_size']}; {self.repair}"
            )
        self.unchecked.discard(block)


class TokensInMemory:
    """Token ids in memory, for tests and for texts given as strings."""

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids = np.asarray(list(ids), dtype=np.int64)
        self.byte_counts: TokensInMemory | None = None

    def __repr__(self) -> str:
        return f"TokensInMemory({len(self):,} tokens)"

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids start ... stop - 1."""
        return self.ids[start:stop]


class TokenArray(Protocol):
    """An array of token ids, (n,), from which ranges are read."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids start ... stop - 1."""
        ...

    @property
    def byte_counts(self) -> "TokenArray | None":
        """UTF-8 bytes of the text that each token stands for, (n,), where its id does not say."""
        ...


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest dtype for the ids of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Writes a `.bin` file, from its beginning or from where an earlier writer was interrupted, and then its manifest.

    Args:
        path: the `.bin` file; the manifest gets the same name with the suffix `.json`.
        metadata: further entries of the manifest, such as the hashes of the text and of the tokenizer.
        resume_point: from `save_point` of the interrupted writer; bytes written after it are discarded.
    """

    def __init__(
        self, path: Path, *, vocab_size: int, metadata: Mapping[str, Any], resume_point: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.vocab_size, self.metadata = path, vocab_size, metadata
        self.dtype = id_dtype(vocab_size)
        point = resume_point or {"tokens": 0, "sha256": []}
        self.tokens = point["tokens"]
        self.hashes: list[str] = list(point["sha256"])  # of complete blocks
        self.digest = hashlib.sha256()  # of the incomplete last block
        self.filled = 0  # bytes of the incomplete last block
        self.file = open(path, "r+b" if resume_point else "wb")  # noqa: SIM115  (closed by __exit__)
        # Bytes after the point may be incomplete; the last, incomplete block is hashed again from the file.
        if resume_point:
            self.file.truncate(self.tokens * self.dtype.itemsize)
            self.file.seek(len(self.hashes) * BLOCK_BYTES)
            self._hash(self.file.read())

    def write(self, ids: NDArray[np.integer[Any]]) -> None:
        """Append ids. Raises DataError for one outside the vocabulary."""
        if ids.size and not (0 <= ids.min() and ids.max() < self.vocab_size):
            raise DataError(f"token id {ids.max()} is outside the vocabulary of {self.vocab_size}")
        data = ids.astype(self.dtype).tobytes()
        self.file.write(data)
        self._hash(data)
        self.tokens += ids.size

    def save_point(self) -> dict[str, Any]:
        """Sync the ids written so far to the disk, and return the point from which another writer can continue."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"tokens": self.tokens, "sha256": list(self.hashes), "rest": self.digest.hexdigest()}

    def finish(self) -> None:
        """Write the manifest, which completes the shard."""
        self.save_point()
        last_block = [self.digest.hexdigest()] if self.filled else []
        manifest = {
            "format": SHARD_FORMAT,
            "dtype": self.dtype.str,
            "tokens": self.tokens,
            "vocab_size": self.vocab_size,
            "sha256": self.hashes + last_block,
            **self.metadata,
        }
        atomic_write(self.path.with_suffix(".json"), dump_with_digest(manifest))

    def _hash(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: BLOCK_BYTES - self.filled]
            self.digest.update(part)
            self.filled += len(part)
            view = view[len(part) :]
            if self.filled == BLOCK_BYTES:
                self.hashes.append(self.digest.hexdigest())
                self.digest, self.filled = hashlib.sha256(), 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def _is_valid(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest has our format and a hash for every block."""
    tokens, hashes, dtype = manifest.get("tokens"), manifest.get("sha256"), manifest.get("dtype")
    if manifest.get("format") != SHARD_FORMAT or dtype not in ("<u2", "<u4") or not isinstance(hashes, list):
        return False
    if not isinstance(manifest.get("vocab_size"), int) or not isinstance(tokens, int) or tokens < 0:
        return False
    return len(hashes) == -(-tokens * np.dtype(dtype).itemsize // BLOCK_BYTES)
