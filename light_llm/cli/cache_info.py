"""The files that are kept on this machine: those someone put there for a run without a network, and the cache's.

Counted and checked by kind. A path may say whose machine it is, so none is returned but the cache's usual one.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import LightLLMError

USUAL_PLACES = ((".cache",), ("Library", "Caches"), ("AppData", "Local"))  # of caches, below the home folder


def offline_files() -> dict[str, Any]:
    """Whether the folder someone filled beforehand has what a run without a network needs."""
    from ..runtime import offline_dir

    folder = offline_dir()
    if folder is None:
        return {"set": False, "files": {}, "sources": [], "complete": False}
    files = {file.name: _state(folder, file) for file in _known_files()}
    return {
        "set": True,
        "files": files,
        "sources": _whole_sources(folder),
        "complete": all(state == "intact" for state in files.values()),
    }


def _known_files() -> list[Any]:
    """The files with a pinned hash."""
    from ..data.sources import SHAKESPEARE
    from ..data.tokenizers import GPT2_VOCABULARY

    return [SHAKESPEARE, GPT2_VOCABULARY]


def _state(folder: Path, file: Any) -> str:
    """missing, damaged, or intact: of the size and the SHA-256 that are pinned."""
    from ..data.fetch import sha256_of

    path = folder / file.name
    try:
        if not path.is_file():
            return "missing"
        return "intact" if path.stat().st_size == file.size and sha256_of(path) == file.sha256 else "damaged"
    except OSError:
        return "damaged"  # there, and not to be read


def _whole_sources(folder: Path) -> list[str]:
    """The sources of the hub whose every file is there; no hash of them is known."""
    from ..data.hub import HubFile
    from ..data.sources import SOURCES

    found = []
    for name, source in SOURCES.items():
        files = [f for f in (*source.training, *source.validation) if isinstance(f, HubFile)]
        if files and all((folder / f.folder / f.name).is_file() for f in files):
            found.append(name)
    return found


def cached_files(*, check_shards: bool) -> dict[str, Any]:
    """How much of each kind is kept, and how many of it are damaged."""
    from ..runtime import cache_dir

    folder = cache_dir()
    known = {file.name: state for file in _known_files() if (state := _state(folder, file)) != "missing"}
    kinds: dict[str, tuple[list[Path], Callable[[Path], bool]]] = {
        "texts": (_files(folder, "tales/*.txt", "stdin/*.txt", "tinystories/*", "wikitext/*/*"), _is_readable),
        "shards": (_files(folder, "shards/*/*.bin"), lambda path: _is_sound_shard(path, check_shards)),
        "tokenizers": (_files(folder, "tokenizers/*.json"), _is_sound_tokenizer),
        "scans": (_files(folder, "scans/*.json"), _is_json),
    }
    damaged = Counter({kind: sum(not sound(path) for path in paths) for kind, (paths, sound) in kinds.items()})
    return {
        "place": _shown(folder),
        "bytes": _size(folder),
        **{kind: len(paths) for kind, (paths, _) in kinds.items()},
        "files": known,
        "partial": len(_files(folder, "**/*.partial", "**/.*.tmp-*")),
        "damaged": {kind: n for kind, n in damaged.items() if n},
        "shards_checked": check_shards,
    }


def _files(folder: Path, *patterns: str) -> list[Path]:
    with suppress(OSError):
        return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    return []


def _size(folder: Path) -> int:
    """Bytes of all files below; a link counts as itself."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def _is_readable(path: Path) -> bool:
    """A text's own hash is looked at when it is used; an empty one is none."""
    with suppress(OSError):
        return os.access(path, os.R_OK) and path.stat().st_size > 0
    return False


def _is_sound_shard(path: Path, check: bool) -> bool:
    from ..data.shards import Shard

    try:
        shard = Shard(path)
        if check:
            shard.check()
    except LightLLMError:
        return False
    return True


def _is_sound_tokenizer(path: Path) -> bool:
    from ..data.tokenizers import tokenizer_from_dict
    from ..json_io import load_verified

    try:
        tokenizer_from_dict(load_verified(path))
    except (OSError, ValueError, LightLLMError):
        return False
    return True


def _is_json(path: Path) -> bool:
    from ..json_io import load_json

    try:
        load_json(path)
    except (OSError, ValueError):
        return False
    return True


def _shown(folder: Path) -> str:
    """The cache's usual place, with ~ for the home folder; any other is somebody's own and is only said to be set."""
    with suppress(RuntimeError):  # no home folder
        home = Path.home()
        for place in USUAL_PLACES:
            if folder == home.joinpath(*place, "light-llm"):
                return "~/" + "/".join((*place, "light-llm"))
    return "set"
