"""Files of the cache that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import Files


@contextmanager
def whole(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Temporary names to write under; they become `paths`, in this order, when the block ends without an error.

    Raises:
        OSError: the folder cannot be made or written.
    """
    partial = tuple(path.with_name(f"{path.name}.{os.getpid()}.partial") for path in paths)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        files = Files()
        for temporary, path in zip(partial, paths, strict=True):
            files.sync(temporary)
            files.rename(temporary, path)
            files.sync_folder(path.parent)
    finally:
        for temporary in partial:
            temporary.unlink(missing_ok=True)
