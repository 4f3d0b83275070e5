"""List the cached files by kind, and check the folder for runs without a network.

The result can go into a bug report: it holds no path but the default one of the cache, which is shown below ~.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

CACHE_FOLDERS = ((".cache",), ("Library", "Caches"), ("AppData", "Local"))  # of Linux, macOS and Windows, below ~
KINDS = {
    "texts": ("tales/*.txt", "stdin/*.txt", "tinystories/*", "wikitext/*/*"),
    "shards": ("shards/*/*.bin",),
    "tokenizers": ("tokenizers/*.json",),
    "scans": ("scans/*.json",),
    "partial": ("**/*.partial",),
}


def cached_files() -> dict[str, Any]:
    """Count the files of each kind in the cache; "bytes" is the size of all files in it."""
    from ..runtime import cache_dir

    folder = cache_dir()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # A link counts as itself, and a file that has just been deleted as 0.
            with suppress(OSError):
                total += Path(parent, name).lstat().st_size
    counts = {kind: sum(len(list(folder.glob(p))) for p in patterns) for kind, patterns in KINDS.items()}
    return {"place": shown_folder(folder), "bytes": total, **counts}


def offline_files() -> dict[str, Any]:
    """Check the files in LIGHT_LLM_OFFLINE_DIR against their pinned hashes, and name the hub sources that are complete.

    The files of hub sources have no pinned hash; only their presence is checked.
    """
    from ..data.hub import HubFile
    from ..data.sources import SHAKESPEARE, SOURCES
    from ..data.tokenizers import GPT2_VOCABULARY
    from ..runtime import offline_dir

    folder = offline_dir()
    if folder is None:
        return {"set": False, "files": {}, "sources": [], "complete": False}
    pinned = (SHAKESPEARE, GPT2_VOCABULARY)
    states = {file.name: file_state(folder / file.name, file.size, file.sha256) for file in pinned}
    sources = []
    for name, source in SOURCES.items():
        files = [f for f in (*source.training, *source.validation) if isinstance(f, HubFile)]
        if files and all((folder / f.folder / f.name).is_file() for f in files):
            sources.append(name)
    return {"set": True, "files": states, "sources": sources, "complete": set(states.values()) == {"intact"}}


def file_state(path: Path, size: int, sha256: str) -> str:
    """Return "missing", "damaged" or "intact"."""
    from ..data.download import sha256_of

    try:
        if not path.is_file():
            return "missing"
        return "intact" if path.stat().st_size == size and sha256_of(path) == sha256 else "damaged"
    except OSError:  # present, but not readable
        return "damaged"


def shown_folder(folder: Path) -> str:
    """Return the default cache path with ~. For a custom path return "set", so that nothing personal is shown."""
    with suppress(RuntimeError):  # no home folder
        for parts in CACHE_FOLDERS:
            if folder == Path.home().joinpath(*parts, "light-llm"):
                return "~/" + "/".join((*parts, "light-llm"))
    return "set"
