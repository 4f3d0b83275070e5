"""List the cached files by kind, and the files for runs without a network. The result can go into a bug report."""

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


def offline_files() -> dict[str, str]:
    """Return "present" or "missing" for each source and vocabulary in LIGHT_LLM_OFFLINE_DIR; {} if it is not set.

    Hashes are checked when a file is read, not here.
    """
    from ..data.hub import HubFile
    from ..data.sources import SHAKESPEARE, SOURCES
    from ..data.tokenizers import GPT2_VOCABULARY
    from ..runtime import offline_dir

    folder = offline_dir()
    if folder is None:
        return {}
    files = {file.name: [folder / file.name] for file in (SHAKESPEARE, GPT2_VOCABULARY)}
    for name, source in SOURCES.items():
        parts = (*source.training, *source.validation)
        files[name] = [folder / part.folder / part.name for part in parts if isinstance(part, HubFile)]
    return {
        name: "present" if all(path.is_file() for path in paths) else "missing"
        for name, paths in files.items()
        if paths
    }
