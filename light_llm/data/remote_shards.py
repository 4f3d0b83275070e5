"""Shards at URLs: token ids that are read through a cache of whole chunks on this machine.

A `RemoteShard` reads as a `shards.Shard` does. The ids asked for lie in one or two chunks; a chunk that is not in the
cache is downloaded as a whole, verified against the block hashes of the manifest, and cached (chunk_cache.py).
`ReadAhead` downloads the chunks of the windows that come next while the model computes. Nothing else is requested: a
rank that reads its own rows downloads the chunks of its own rows, and a run whose chunks are cached needs no network.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..atomic_io import atomic_write
from ..errors import DataError
from ..json_io import ORDINARY, JsonLimits, parse_verified
from ..runtime import cache_dir
from .chunk_cache import FOLDER, ChunkCache, Prefetcher
from .remote_files import printable_url, read_range, read_small, sibling_url
from .shards import BLOCK_BYTES, BYTES_OF, _is_valid
from .text_stream import ProgressFn

CHUNKS_AHEAD = 2  # downloaded before they are needed
Value = TypeVar("Value")
WINDOWS_PER_CALL = 512  # that ReadAhead examines in one call, so that no step waits for it
MAX_WINDOWS_AHEAD = 1 << 16  # that ReadAhead examines beyond the current batch
_prefetcher = Prefetcher()


class RemoteShard:
    """An array of token ids at a URL, (n,), read by chunks.

    Args:
        url: of the `.bin` file; its manifest has the same name with the suffix `.json`.
        expected: entries that the manifest must have.
        sha256: of the manifest's bytes, if it is known: a manifest in the cache is then used without the network.
        offline: download nothing.
        cache: the chunks of this machine.
        manifest_as: identifies the manifest in the cache, if its SHA-256 is not known.

    Raises:
        DataError: the manifest cannot be read, is damaged or of another format; later, a chunk cannot be downloaded,
            its bytes are not those of the manifest, or its ids are outside the vocabulary.
    """

    def __init__(
        self,
        url: str,
        expected: Mapping[str, Any] | None = None,
        *,
        sha256: str | None = None,
        offline: bool = False,
        cache: ChunkCache | None = None,
        manifest_as: str | None = None,
    ) -> None:
        self.url, self.offline, self.cache = url, offline, cache or ChunkCache()
        self._expected, self._sha256 = dict(expected or {}), sha256
        self.manifest = read_sealed(manifest_url(url), sha256=sha256, cached_as=manifest_as, offline=offline)
        if not _is_valid(self.manifest):
            raise DataError(f"{printable_url(manifest_url(url))} is not a manifest of this version; prepare it again")
        for name, value in self._expected.items():
            if self.manifest.get(name) != value:
                raise DataError(
                    f"{printable_url(url)} is of another text or tokenizer: its {name} is "
                    f"{self.manifest.get(name)!r} and should be {value!r}"
                )
        self.dtype = np.dtype(self.manifest["dtype"])
        self.n_bytes: int = self.manifest["tokens"] * self.dtype.itemsize
        # By its content: the same shard at two addresses is cached once, and another one at this address separately.
        identity = repr((self.cache.chunk_bytes, self.n_bytes, self.manifest["sha256"]))
        self.key = hashlib.sha256(identity.encode()).hexdigest()[:24]
        self.unchecked = set(range(self.n_blocks))
        # UTF-8 bytes of the text that each token stands for, where its id does not say: (n,).
        self.byte_counts: RemoteShard | None = None
        if self.manifest.get("byte_counts"):
            name = BYTES_OF.format(url.partition("?")[0].rpartition("/")[2].removesuffix(".bin"))
            counts_as = sha256 and f"{sha256}-bytes"
            self.byte_counts = RemoteShard(
                sibling_url(url, name), offline=offline, cache=self.cache, manifest_as=counts_as
            )

    def __reduce__(self) -> tuple[Callable[..., "RemoteShard"], tuple[str, dict[str, Any]]]:
        # A copy in another process uses the same chunks.
        options: dict[str, Any] = {"sha256": self._sha256, "offline": self.offline, "cache": self.cache}
        return partial(RemoteShard, **options), (self.url, self._expected)

    def __repr__(self) -> str:
        return f"RemoteShard({len(self):,} tokens at {printable_url(self.url)})"

    def __len__(self) -> int:
        return int(self.manifest["tokens"])

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids start ... stop - 1, downloading their chunks if necessary. Raises DataError."""
        start, stop, _ = slice(start, stop).indices(len(self))
        size, chunk_bytes = self.dtype.itemsize, self.cache.chunk_bytes
        data = bytearray()
        for chunk in self._chunks(start, stop):
            first = max(start * size, chunk * chunk_bytes)
            data += self._read_chunk(chunk, first, min(stop * size, (chunk + 1) * chunk_bytes))
        return np.frombuffer(data, self.dtype).astype(np.int64)

    @property
    def n_blocks(self) -> int:
        """Blocks that are verified one by one."""
        return len(self.manifest["sha256"])

    def missing_chunks(self, start: int, stop: int) -> Iterator[int]:
        """Yield the numbers of the chunks of the ids start ... stop - 1 that are not in the cache."""
        return (chunk for chunk in self._chunks(start, stop) if (self.key, chunk) not in self.cache)

    def prefetch(self, chunk: int) -> None:
        """Download a chunk in the background."""
        _prefetcher.want((self.key, chunk), partial(self._read_chunk, chunk, 0, 0))

    def check(self, progress: ProgressFn | None = None) -> None:
        """Download and verify every chunk. Raises DataError at the first damaged one."""
        if self.byte_counts:
            self.byte_counts.check()
        size = self.dtype.itemsize
        for block in range(self.n_blocks):
            self.unchecked.add(block)
            self.read(block * BLOCK_BYTES // size, (block + 1) * BLOCK_BYTES // size)
            if progress:
                progress(block + 1, self.n_blocks)

    def _chunks(self, start: int, stop: int) -> range:
        if stop <= start:
            return range(0)
        size, chunk_bytes = self.dtype.itemsize, self.cache.chunk_bytes
        return range(start * size // chunk_bytes, (stop * size - 1) // chunk_bytes + 1)

    def _read_chunk(self, chunk: int, first: int, last: int) -> bytes:
        """Return the bytes first ... last - 1 of the file, which lie in a chunk, with their blocks verified."""
        begin = chunk * self.cache.chunk_bytes
        end = min(begin + self.cache.chunk_bytes, self.n_bytes)
        fetch = partial(self._fetch, begin, end)
        for _ in range(2):
            with self.cache.open(self.key, chunk, end - begin, fetch) as file:
                if all(self._check_block(file, b, begin) for b in _blocks(first, last) if b in self.unchecked):
                    data = _pread(file, last - first, first - begin)
                    if len(data) == last - first:
                        return data
            # The cached copy was damaged on this machine's disk: download it again.
            self.cache.remove(self.key, chunk)
        raise DataError(
            f"the chunk {self.cache.path(self.key, chunk)} of {printable_url(self.url)} cannot be read back as it was "
            "written; check the disk, or set LIGHT_LLM_CACHE to a folder on another one"
        )

    def _check_block(self, file: int, block: int, begin: int) -> bool:
        """Return whether a block of a cached chunk is as the manifest says. Raises DataError for ids out of range."""
        start = block * BLOCK_BYTES
        data = _pread(file, min(BLOCK_BYTES, self.n_bytes - start), start - begin)
        if hashlib.sha256(data).hexdigest() != self.manifest["sha256"][block]:
            return False
        # A hash proves that the bytes are those of the manifest, not that the ids fit the model.
        largest = int(np.frombuffer(data, self.dtype).max())
        if largest >= self.manifest["vocab_size"]:
            raise DataError(
                f"{printable_url(self.url)} has token id {largest}, which is outside the vocabulary of "
                f"{self.manifest['vocab_size']}; prepare it again"
            )
        self.unchecked.discard(block)
        return True

    def _fetch(self, begin: int, end: int) -> bytes:
        if self.offline:
            raise DataError(
                f"bytes {begin:,} to {end - 1:,} of {printable_url(self.url)} are not in the cache of this machine, "
                "and this command downloads nothing ({--offline})"
            )
        return read_range(self.url, begin, end, check=partial(self._problem, begin))

    def _problem(self, begin: int, data: bytes) -> str:
        """Describe what is wrong with the downloaded bytes from `begin` on; "" if nothing is."""
        for block in _blocks(begin, begin + len(data)):
            start = block * BLOCK_BYTES - begin
            if hashlib.sha256(data[start : start + BLOCK_BYTES]).hexdigest() != self.manifest["sha256"][block]:
                return (
                    f"its bytes from {block * BLOCK_BYTES:,} are not the ones that its manifest describes (SHA-256), "
                    "so it was changed or damaged after it was prepared"
                )
        return ""


class ReadAhead:
    """Downloads the chunks that a run needs next, CHUNKS_AHEAD of them, while it computes.

    Args:
        pieces: returns the shards of sequence `counter` of the run, each with the first and last of its own tokens.
    """

    def __init__(self, pieces: Callable[[int], Iterable[tuple[object, int, int]]]) -> None:
        self.pieces, self.next = pieces, 0  # the batch that is examined next
        self.ahead: list[tuple[RemoteShard, int]] = []  # chunks that were asked for

    def advance(self, batch: int, counters: Callable[[int], Sequence[int]]) -> None:
        """Ask for the chunks of the batches from `batch` on that are not cached, from where the last call ended.

        Args:
            counters: returns the sequences of a batch that this rank reads.
        """
        self.ahead = [(shard, chunk) for shard, chunk in self.ahead if (shard.key, chunk) not in shard.cache]
        self.next, examined = max(self.next, batch), 0
        while len(self.ahead) < CHUNKS_AHEAD and examined < WINDOWS_PER_CALL:
            sequences = counters(self.next)
            if (self.next - batch) * len(sequences) > MAX_WINDOWS_AHEAD:
                return
            for counter in sequences:
                for shard, start, stop in self.pieces(counter):
                    if isinstance(shard, RemoteShard):
                        self._want(shard, start, stop)
            self.next, examined = self.next + 1, examined + len(sequences)

    def _want(self, shard: RemoteShard, start: int, stop: int) -> None:
        for part in filter(None, (shard, shard.byte_counts)):
            for chunk in part.missing_chunks(start, stop):
                if (part, chunk) not in self.ahead:
                    part.prefetch(chunk)
                    self.ahead.append((part, chunk))


def manifest_url(url: str) -> str:
    """Return the URL of a shard's manifest.

    >>> manifest_url("https://host/web/train.bin?key=1")
    'https://host/web/train.json?key=1'
    """
    name = url.partition("?")[0].rpartition("/")[2]
    return sibling_url(url, f"{name.removesuffix('.bin')}.json")


def read_sealed(
    url: str,
    *,
    sha256: str | None = None,
    cached_as: str | None = None,
    offline: bool = False,
    limits: JsonLimits = ORDINARY,
) -> dict[str, Any]:
    """Read a JSON file with a digest (`json_io.dump_with_digest`) at a URL, and cache it.

    Args:
        sha256: of its bytes, if it is known.
        cached_as: identifies the file if its bytes never change; by default sha256. A cached file is then used without
            the network.
        offline: download nothing.

    Raises:
        DataError: it is neither cached nor downloaded, or it was changed after it was written.
    """
    name = cached_as or sha256
    return read_cached(
        url,
        f"{name or hashlib.sha256(url.encode()).hexdigest()}.json",
        lambda data: _sealed(data, sha256, limits),
        is_fixed=name is not None,
        offline=offline,
        limit=limits.bytes,
    )


def read_cached(
    url: str, name: str, decode: Callable[[bytes], Value], *, is_fixed: bool, offline: bool, limit: int
) -> Value:
    """Return what `decode` makes of a small file at a URL, and cache the file.

    Args:
        name: of the cached file.
        decode: raises ValueError for bytes that are damaged.
        is_fixed: use the cached file without asking the network; otherwise only if the URL cannot be read.
        limit: bytes of the file.

    Raises:
        DataError: the file is neither cached nor downloaded, or it is damaged.
    """
    path = cache_dir() / FOLDER / "manifests" / name

    def cached() -> Value | None:
        with suppress(OSError, ValueError):  # missing, or damaged on this disk
            return decode(path.read_bytes())
        return None

    if (is_fixed or offline) and (value := cached()) is not None:
        return value
    if offline:
        raise DataError(
            f"{printable_url(url)} is not in the cache of this machine, and {{--offline}} downloads nothing"
        )
    try:
        data = read_small(url, limit)
    except DataError:
        if (value := cached()) is not None:
            return value
        raise
    try:
        value = decode(data)
    except ValueError as error:
        raise DataError(f"{printable_url(url)} cannot be used: {error}; upload it again") from None
    with suppress(OSError):  # a cache that cannot be written costs a request at the next start
        atomic_write(path, data)
    return value


def _sealed(data: bytes, sha256: str | None, limits: JsonLimits) -> dict[str, Any]:
    """Decode a sealed JSON file. Raises ValueError if it was changed, or is not the one with that SHA-256."""
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("it is not the file that the corpus names (its SHA-256 differs)")
    return parse_verified(data, limits)


def _blocks(first: int, last: int) -> range:
    """Return the numbers of the blocks that hold the bytes first ... last - 1 of a shard."""
    return range(first // BLOCK_BYTES, (last - 1) // BLOCK_BYTES + 1) if last > first else range(0)


def _pread(file: int, size: int, offset: int) -> bytes:
    """Return `size` bytes of an open file from an offset on; fewer at its end."""
    data = bytearray()
    os.lseek(file, offset, os.SEEK_SET)
    while len(data) < size and (part := os.read(file, size - len(data))):
        data += part
    return bytes(data)
