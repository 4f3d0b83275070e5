"""From text to shards: on all cores, in order, in bounded memory, and going on where an interruption left it."""

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

import numpy as np
from numpy.typing import NDArray

from ..atomic_io import Files, atomic_write
from ..errors import DataError
from ..json_io import dump_with_digest, load_verified
from ..runtime import lock_folder, unlock, usable_cores
from .bpe import BytePairTokenizer
from .pieces import Piece, at_safe_cuts
from .shards import BLOCK, ShardWriter, id_type
from .tokenizers import Tokenizer

TASK = 1 << 18  # characters one thread encodes at a time
MARK_EVERY = 10.0  # seconds of work that an interruption can cost
Task = list[Piece]
Ids = NDArray[np.int32]


def write_splits(
    folder: Path,
    splits: Iterable[tuple[str, Iterator[Piece]]],
    tokenizer: Tokenizer,
    *,
    facts: Mapping[str, Any],
    separators: bool,
) -> None:
    """Encode each split into a shard of `folder`, which appears under its name when all of them are complete.

    Until then the work is in `folder.partial`, and another call with the same arguments goes on with it.

    Args:
        splits: names and pieces; the pieces of one are read to their end before the next is asked for.
        facts: what to keep in the manifests.
        separators: each document begins with the separator, and the last one ends with it.
    """
    with _claimed(folder) as partial:
        if partial is None:
            return
        journal = _Journal(partial)
        for split, pieces in splits:
            todo = tasks(chain([None], pieces, [None]) if separators else pieces)
            _write_split(partial / f"{split}.bin", todo, tokenizer, {**facts, "split": split}, journal)
        journal.path.unlink()
        files = Files()
        files.sync_folder(partial)
        files.rename(partial, folder)
        files.sync_folder(folder.parent)


def _write_split(
    path: Path, todo: Iterator[Task], tokenizer: Tokenizer, facts: Mapping[str, Any], journal: "_Journal"
) -> None:
    mark = journal.mark_of(path, tokenizer.vocab_size)
    done = mark["tasks"] if mark else 0
    with ShardWriter(path, vocab_size=tokenizer.vocab_size, facts=facts, mark=mark) as shard:
        marked = time.monotonic()
        for ids in _encoded(islice(todo, done, None), tokenizer):
            shard.write(ids)
            done += 1
            if time.monotonic() - marked >= MARK_EVERY:
                journal.note(path.stem, {"tasks": done, **shard.mark()})
                marked = time.monotonic()
        shard.finish()
        journal.note(path.stem, {"tasks": done, **shard.mark()})


def tasks(pieces: Iterable[Piece]) -> Iterator[Task]:
    """Stretches of about TASK characters that can be encoded alone: small documents together, large ones in parts."""
    task: Task = []
    size = 0
    for piece in at_safe_cuts(_slices(pieces)):
        task.append(piece)
        size += len(piece or "")
        if size >= TASK:
            yield task
            task, size = [], 0
    if task:
        yield task


def _slices(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Long pieces in parts, so that a task is no larger than it has to be and each core gets some."""
    for piece in pieces:
        if piece is None:
            yield None
        else:
            yield from (piece[start : start + TASK] for start in range(0, len(piece), TASK))


def _encoded(todo: Iterator[Task], tokenizer: Tokenizer) -> Iterator[Ids]:
    """The ids of each task, in order. tiktoken lets go of Python while it works, so that threads are enough."""
    workers = usable_cores()
    waiting: deque[Future[Ids]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for task in todo:
            waiting.append(pool.submit(_encode, task, tokenizer))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(task: Task, tokenizer: Tokenizer) -> Ids:
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.encode_stretches(task).astype(np.int32)  # int64 would be twice what waits in memory
    parts = [[tokenizer.separator] if piece is None else tokenizer.encode(piece) for piece in task]
    return np.concatenate(parts, dtype=np.int32, casting="unsafe")


class _Journal:
    """How far each split is, in a file; what it says was made safe before it was said."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.json"
        self.marks: dict[str, Any] = {}
        with suppress(OSError, ValueError):  # none, or a damaged one: from the beginning
            self.marks = load_verified(self.path)

    def mark_of(self, path: Path, vocab_size: int) -> dict[str, Any] | None:
        """How far a shard is; None if that is not known, or its file is not what it should be by now.

        The blocks that are full have their hashes; the rest, which the next writer hashes anew, is looked at here.
        """
        try:
            mark = self.marks[path.stem]
            full, rest = divmod(mark["tokens"] * id_type(vocab_size).itemsize, BLOCK)
            fits = mark["tasks"] >= 0 and len(mark["sha256"]) == full
            with open(path, "rb") as file:
                file.seek(full * BLOCK)
                return mark if fits and hashlib.sha256(file.read(rest)).hexdigest() == mark["rest"] else None
        except (OSError, KeyError, TypeError):
            return None

    def note(self, split: str, mark: dict[str, Any]) -> None:
        self.marks[split] = mark
        atomic_write(self.path, dump_with_digest(self.marks))


@contextmanager
def _claimed(folder: Path) -> Iterator[Path | None]:
    """The folder to work in, for this process alone; None when another one has meanwhile finished the work."""
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the tokens cannot be kept at {folder} ({error.strerror}); set LIGHT_LLM_CACHE to a folder that can be "
            "written"
        ) from None
    lock = lock_folder(partial, wait=True)
    if lock is None:  # no locks here: a folder that nobody else uses, and nothing to go on with
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}")
        partial.mkdir()
    try:
        yield None if folder.is_dir() else partial
    finally:
        unlock(lock)
        if lock is None:
            shutil.rmtree(partial, ignore_errors=True)
