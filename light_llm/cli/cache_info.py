"""Count the cached files by kind, without their names: the result can go into a bug report."""

import os
from contextlib import suppress
from pathlib import Path

from ..text_format import format_bytes

KINDS = {
    "texts": ("tales/*.txt", "stdin/*.txt", "tinystories/*", "wikitext/*/*"),
    "shards": ("shards/*/*.bin",),
    "tokenizers": ("tokenizers/*.json",),
    "scans": ("scans/*.json",),
    "partial": ("**/*.partial",),
}


def cached_files() -> dict[str, str]:
    """Return the number of files of each kind in the cache, and "size", that of all files in it."""
    from ..runtime import cache_dir

    folder = cache_dir()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # A link counts as itself, and a file that has just been deleted as 0.
            with suppress(OSError):
                total += Path(parent, name).lstat().st_size
    counts = {kind: str(sum(len(list(folder.glob(p))) for p in patterns)) for kind, patterns in KINDS.items()}
    return {"size": format_bytes(total), **counts}
