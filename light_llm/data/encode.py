"""Encode a text to shards: on all cores, in order, in bounded memory, and resumable after an interruption."""

import hashlib
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..atomic_io import Files, atomic_write
from ..json_io import dump_with_digest, load_verified
from ..runtime import lock_folder, unlock, usable_cores
from .download import cache_errors
from .shards import BLOCK_BYTES, ShardWriter, id_dtype
from .text_stream import Chunk, split_at_word_boundaries
from .tokenizer_interface import Ids
from .tokenizers import Tokenizer

BATCH_CHARS = 1 << 18  # that one thread encodes at a time
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
        separators: write the separator before each document and after the last one.
    """
    with _lock_partial(folder) as partial:
        if partial is None:
            return
        checkpoint = EncodeCheckpoint(partial)
        for split, chunks in splits:
            batches = batch_chunks(chain([None], chunks, [None]) if separators else chunks)
            _encode_split(partial / f"{split}.bin", batches, tokenizer, {**metadata, "split": split}, checkpoint)
        # All names in the folder must be on the disk before it gets its own, which means that it is complete.
        checkpoint.path.unlink()
        files = Files()
        files.sync_folder(partial)
        files.rename(partial, folder)
        files.sync_folder(folder.parent)


def _encode_split(
    path: Path,
    batches: Iterator[ChunkBatch],
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    checkpoint: "EncodeCheckpoint",
) -> None:
    # The batches of a text are always the same, so skipping the first n_done continues where the shard ends.
    point = checkpoint.load(path, tokenizer.vocab_size)
    n_done = point["tasks"] if point else 0
    with ShardWriter(path, vocab_size=tokenizer.vocab_size, metadata=metadata, resume_point=point) as shard:
        saved_at = time.monotonic()
        for ids in _encode_in_parallel(islice(batches, n_done, None), tokenizer):
            shard.write(ids)
            n_done += 1
            if time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                checkpoint.save(path.stem, {"tasks": n_done, **shard.save_point()})
                saved_at = time.monotonic()
        shard.finish()
        checkpoint.save(path.stem, {"tasks": n_done, **shard.save_point()})


def batch_chunks(chunks: Iterable[Chunk]) -> Iterator[ChunkBatch]:
    """Group chunks into batches of about BATCH_CHARS that can be encoded independently of each other.

    Small documents share a batch; large ones are cut at word boundaries.
    """
    batch, n_chars = ChunkBatch(), 0
    for chunk in split_at_word_boundaries(_limit_chunk_size(chunks)):
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


def _encode_in_parallel(batches: Iterator[ChunkBatch], tokenizer: Tokenizer) -> Iterator[Ids]:
    """Yield the ids of each batch, in order."""
    workers, pending = usable_cores(), deque[Future[Ids]]()
    pool = ThreadPoolExecutor(workers)  # threads suffice: tiktoken releases the GIL while it encodes
    try:
        for batch in batches:
            pending.append(pool.submit(tokenizer.encode_batch, batch))
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
