"""Encode a text to shards: on all cores, in order, in bounded memory, and resumable after an interruption."""

import hashlib
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic_io import Files, atomic_write
from ..json_io import dump_with_digest, load_verified
from ..runtime import lock_folder, unlock, usable_cores
from .download import cache_errors
from .shards import BLOCK_BYTES, BYTES_OF, MAX_COUNT, ShardWriter, id_dtype
from .text_stream import Chunk, split_at_word_boundaries
from .tokenizers import Tokenizer

BATCH_CHARS = 1 << 18  # that one thread encodes at a time
MAX_DOCUMENT_CHARS = 1 << 28  # of a document that a tokenizer sees as a whole
CHECKPOINT_SECONDS = 10.0  # of work that an interruption can cost
ChunkBatch = list[Chunk]


def encode_splits(
    folder: Path,
    splits: Iterable[tuple[str, Iterator[Chunk]]],
    tokenizer: Tokenizer,
    *,
    metadata: Mapping[str, Any],
    separators: bool,
) -> None:
    """Encode each split to a shard in `folder`, which gets its name when all of them are complete.

    Until then the shards are in `folder.partial`, and another call with the same arguments continues there.

    Args:
        splits: names and chunks; the chunks of each split are read to the end before the next split is requested.
        metadata: entries for the manifests.
        separators: write the document break of the tokenizer before each document and after the last one; without, a
            split begins with what the tokenizer puts before a text.
    """
    with _lock_partial(folder) as partial:
        if partial is None:
            return
        checkpoint = EncodeCheckpoint(partial)
        for split, chunks in splits:
            chunks = chain([None], chunks, [None]) if separators else chunks
            batches = batch_chunks(chunks, cuts_at_words=tokenizer.cuts_at_words)
            prefix = [] if separators else tokenizer.prefix
            writer = _SplitWriter(partial / f"{split}.bin", tokenizer, {**metadata, "split": split}, checkpoint)
            writer.write_all(batches, prefix)
        # All names in the folder must be on the disk before it gets its own, which means that it is complete.
        checkpoint.path.unlink()
        files = Files()
        files.sync_folder(partial)
        files.rename(partial, folder)
        files.sync_folder(folder.parent)


class _SplitWriter:
    """Writes the shard of a split: its ids and, where these do not tell, the bytes that each stands for."""

    def __init__(
        self, path: Path, tokenizer: Tokenizer, metadata: Mapping[str, Any], checkpoint: "EncodeCheckpoint"
    ) -> None:
        self.tokenizer, self.checkpoint = tokenizer, checkpoint
        counts = tokenizer.needs_byte_counts
        metadata = {**metadata, "byte_counts": True} if counts else metadata
        files = [(path, tokenizer.vocab_size, metadata)]
        if counts:
            files.append((path.with_name(BYTES_OF.format(path.stem)), MAX_COUNT, {}))
        points = [checkpoint.load(file, vocab_size) for file, vocab_size, _ in files]
        # Both files continue from the same batch, or both begin again.
        tasks = {point["tasks"] if point else 0 for point in points}
        self.n_done = tasks.pop() if len(tasks) == 1 else 0
        self.shards = [
            ShardWriter(file, vocab_size=size, metadata=values, resume_point=point if self.n_done else None)
            for (file, size, values), point in zip(files, points, strict=True)
        ]

    def write_all(self, batches: Iterator[ChunkBatch], prefix: Sequence[int]) -> None:
        """Write the ids of batches after a prefix, from where an earlier writer was interrupted."""
        # The batches of a text are always the same, so skipping the first n_done continues where the shard ends.
        with ExitStack() as stack:
            shards = [stack.enter_context(shard) for shard in self.shards]
            saved_at = time.monotonic()
            if prefix and not self.n_done:
                self._write([np.array(prefix), np.zeros(len(prefix), np.int64)])
            for arrays in _encode_in_parallel(islice(batches, self.n_done, None), self._encode):
                self._write(arrays)
                self.n_done += 1
                if time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                    self._save()
                    saved_at = time.monotonic()
            for shard in shards:
                shard.finish()
            self._save()

    def _encode(self, batch: ChunkBatch) -> list[NDArray[Any]]:
        if len(self.shards) == 1:
            return [self.tokenizer.encode_batch(batch)]
        return list(self.tokenizer.encode_batch_aligned(batch))

    def _write(self, arrays: list[NDArray[Any]]) -> None:
        for shard, values in zip(self.shards, arrays, strict=False):
            shard.write(values)

    def _save(self) -> None:
        for shard in self.shards:
            self.checkpoint.save(shard.path.stem, {"tasks": self.n_done, **shard.save_point()})


def batch_chunks(chunks: Iterable[Chunk], *, cuts_at_words: bool = True) -> Iterator[ChunkBatch]:
    """Group chunks into batches of about BATCH_CHARS that can be encoded independently of each other.

    Small documents share a batch. Large ones are cut at word boundaries, or (not cuts_at_words) are a batch of their
    own; only those of more than MAX_DOCUMENT_CHARS are cut, and each part is a text of its own for the tokenizer.
    """
    batch, n_chars = ChunkBatch(), 0
    limited = _limit_chunk_size(chunks)
    for chunk in split_at_word_boundaries(limited) if cuts_at_words else join_documents(limited):
        batch.append(chunk)
        n_chars += len(chunk or "")
        if n_chars >= BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _limit_chunk_size(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Cut long chunks, so that batches stay small and every core gets some."""
    for chunk in chunks:
        if chunk is None:
            yield None
        else:
            yield from (chunk[start : start + BATCH_CHARS] for start in range(0, len(chunk), BATCH_CHARS))


def join_documents(chunks: Iterable[Chunk], max_chars: int | None = None) -> Iterator[Chunk]:
    """Join the chunks of each document; one of more than max_chars (MAX_DOCUMENT_CHARS) becomes several texts."""
    limit = max_chars or MAX_DOCUMENT_CHARS
    parts, n_chars = list[str](), 0
    for chunk in chunks:
        if chunk is None:
            if parts:
                yield "".join(parts)
            yield None
            parts, n_chars = [], 0
        else:
            parts.append(chunk)
            n_chars += len(chunk)
            if n_chars >= limit:
                yield "".join(parts)
                parts, n_chars = [], 0
    if parts:
        yield "".join(parts)


def _encode_in_parallel(
    batches: Iterator[ChunkBatch], encode: Callable[[ChunkBatch], list[NDArray[Any]]]
) -> Iterator[list[NDArray[Any]]]:
    """Yield what `encode` makes of each batch, in order."""
    workers, pending = usable_cores(), deque[Future[list[NDArray[Any]]]]()
    pool = ThreadPoolExecutor(workers)  # threads suffice: both libraries release the GIL while they encode
    try:
        for batch in batches:
            pending.append(pool.submit(encode, batch))
            # Bound the memory: finished batches wait here for their turn.
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class EncodeCheckpoint:
    """The progress of each split, in a file: the point from which an interrupted encoding continues."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.json"
        self.points: dict[str, Any] = {}
        with suppress(OSError, ValueError):  # missing or damaged: start from the beginning
            self.points = load_verified(self.path)

    def load(self, path: Path, vocab_size: int) -> dict[str, Any] | None:
        """Return the resume point of a shard; None if it is missing or does not match the file."""
        # Complete blocks are verified when the shard is first read. The incomplete last one is hashed again by the
        # next writer, which would hide damage, so verify it here.
        try:
            point = self.points[path.stem]
            full_blocks, rest = divmod(point["tokens"] * id_dtype(vocab_size).itemsize, BLOCK_BYTES)
            fits = point["tasks"] >= 0 and len(point["sha256"]) == full_blocks
            with open(path, "rb") as file:
                file.seek(full_blocks * BLOCK_BYTES)
                return point if fits and hashlib.sha256(file.read(rest)).hexdigest() == point["rest"] else None
        except (OSError, KeyError, TypeError):
            return None

    def save(self, split: str, point: dict[str, Any]) -> None:
        """Store the resume point of a split. Its ids must be on the disk already."""
        self.points[split] = point
        atomic_write(self.path, dump_with_digest(self.points))


@contextmanager
def _lock_partial(folder: Path) -> Iterator[Path | None]:
    """Yield a locked folder to work in; None if another process has finished the work in the meantime."""
    partial = folder.with_name(f"{folder.name}.partial")
    with cache_errors("the tokens", folder):
        partial.mkdir(parents=True, exist_ok=True)
    # Another process may be encoding the same text: wait for it, and then find its result.
    lock = lock_folder(partial, wait=True)
    if lock is None:
        # This file system has no locks, so use a folder with a unique name, which cannot be resumed.
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}")
        partial.mkdir()
    try:
        yield None if folder.is_dir() else partial
    finally:
        unlock(lock)
        if lock is None:
            shutil.rmtree(partial, ignore_errors=True)
