"""Find the cached files by kind, count them without their names for a bug report, and delete them.

Only names that light-llm gives to its files are found: LIGHT_LLM_CACHE may be a folder with other files. Links are
never followed.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..report.liveness import seconds_since
from ..text_format import format_bytes

DIGEST = "[0-9a-f]"


@dataclass(frozen=True)
class Kind:
    """A kind of cached files."""

    about: str
    patterns: tuple[str, ...]  # of paths below the cache, as regular expressions; a folder counts as a whole
    replaceable: bool = True  # made or downloaded again when it is needed


KINDS = {
    "texts": Kind(
        "downloaded and generated texts",
        (
            r"shakespeare\.txt",
            rf"tales/{DIGEST}{{8}}-\d+-\d+\.(txt|tsv)",
            r"hub/datasets--(roneneldan--TinyStories|Salesforce--wikitext)",
        ),
    ),
    "stdin": Kind(
        "texts that came through a pipe or as a Python list; --resume of their runs needs them",
        (rf"stdin/{DIGEST}{{64}}\.(txt|jsonl|json|parquet)", rf"texts/{DIGEST}{{64}}\.jsonl"),
        False,
    ),
    "ids": Kind("texts as token ids", (rf"shards/{DIGEST}{{24}}",)),
    "remote": Kind("parts of shards at URLs", (rf"remote/({DIGEST}{{24}}|manifests)",)),
    "vocabularies": Kind(
        "trained and downloaded vocabularies", (rf"tokenizers/{DIGEST}{{24}}\.json", r"gpt2/(vocab\.bpe|encoder\.json)")
    ),
    "scans": Kind("facts about texts that were read", (rf"scans/{DIGEST}{{64}}\.json",)),
    "measurements": Kind(
        "the speed of this machine, and the results of doctor", (r"measured\.json", rf"doctor/{DIGEST}{{16}}\.json")
    ),
    "history": Kind("lines typed in generate interactive", (r"interactive-history\.txt",), False),
    "partial": Kind(
        "half-prepared files of runs that were interrupted",
        # Temporary files of atomic_io.py; folders that encode.py works in.
        (
            rf"shards/{DIGEST}{{24}}\.(partial|{DIGEST}{{8}})",
            r"((tales|stdin|texts|tokenizers|scans|doctor|gpt2)/\.+[^/]+|\.+(measured\.json|shakespeare\.txt|interactive-history\.txt))"
            r"\.(tmp|old)-\d+(\.tmp-\d+)?",
        ),
    ),
}
RECENT_SECONDS = 60.0  # a partial file that was written to since then may belong to a process on another machine
FOLDERS = ("tales", "hub", "stdin", "texts", "shards", "tokenizers", "gpt2", "scans", "doctor", "remote")


@dataclass(frozen=True)
class CacheEntry:
    """A cached file, or a folder of files that belong together."""

    path: Path
    kind: str  # of KINDS
    files: int
    bytes: int
    used: float  # when it was last written, or read as far as the disk keeps that; seconds since the epoch


def cache_entries() -> list[CacheEntry]:
    """Return what is in the cache, without files of other programs."""
    root = _root()
    entries = []
    for path in _candidates(root):
        name = path.relative_to(root).as_posix()
        for kind, facts in KINDS.items():
            if any(re.fullmatch(pattern, name) for pattern in facts.patterns):
                stats = list(_stats(path))
                used = max((max(s.st_mtime, s.st_atime) for s in stats), default=0.0)
                entries.append(CacheEntry(path, kind, len(stats), sum(s.st_size for s in stats), used))
                break
    return entries


def other_bytes(entries: list[CacheEntry]) -> int:
    """Return the size of the files in the cache that are not light-llm's, or that users put there."""
    return sum(s.st_size for s in _stats(_root())) - sum(entry.bytes for entry in entries)


def cached_files() -> dict[str, str]:
    """Return "size", that of all files in the cache, and the number of files of each kind."""
    entries = cache_entries()
    counts = {kind: str(sum(e.files for e in entries if e.kind == kind)) for kind in KINDS}
    return {"size": format_bytes(sum(s.st_size for s in _stats(_root()))), **counts}


@contextmanager
def locked_cache() -> Iterator[None]:
    """Keep other processes from preparing texts inside the block.

    Raises:
        ConfigError: one is preparing a text now.
    """
    from ..runtime import lock_folder, unlock

    try:
        handle = lock_folder(_root()) if _root().is_dir() else None
    except BlockingIOError:
        raise ConfigError("another light-llm process is preparing a text; wait until it trains, or stop it") from None
    try:
        yield
    finally:
        unlock(handle)


def delete(entry: CacheEntry) -> bool:
    """Delete an entry. Returns False if a process uses it. Call it inside `locked_cache`.

    Raises:
        OSError: the system refuses.
    """
    from ..runtime import lock_folder, unlock

    if entry.kind == "partial" and seconds_since(entry.used) < RECENT_SECONDS:
        return False
    handles = []
    try:
        # A process locks the ids that it trains on or reads, file by file.
        ids = sorted(entry.path.glob("*.bin")) if entry.kind in ("ids", "remote") else ()
        for path in (entry.path, *ids):
            handles.append(lock_folder(path))
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return not entry.path.exists()
    finally:
        for handle in handles:
            unlock(handle)
    return True


def _root() -> Path:
    from ..runtime import cache_dir

    return cache_dir()


def _candidates(root: Path) -> Iterator[Path]:
    """Yield files and folders at the places where light-llm writes, without links."""
    for folder in (root, *(root / name for name in FOLDERS)):
        # The cache itself may be a link, to a larger disk.
        if folder.is_dir() and (folder == root or not folder.is_symlink()):
            yield from sorted(path for path in folder.iterdir() if not path.is_symlink())


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Yield the facts about a file, or about each file in a folder. A link counts as itself."""
    found = [path] if not path.is_dir() else [Path(parent, n) for parent, _, names in os.walk(path) for n in names]
    for file in found:
        with suppress(OSError):  # one that has just been deleted
            facts = file.lstat()
            if stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
                yield facts
