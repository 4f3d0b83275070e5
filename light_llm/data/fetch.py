"""Files with a known SHA-256: found on this machine, or downloaded whole or not at all."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..runtime import cache_dir, offline_dir

TIMEOUT = 20.0  # seconds without a byte
PIECE = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class KnownFile:
    """A file of the outside world, pinned."""

    name: str  # its path below the offline folder and the cache
    url: str
    sha256: str
    size: int  # bytes


def find_or_fetch(file: KnownFile, *, offline: bool = False, also: Sequence[Path] = ()) -> Path:
    """The path of a file whose bytes have the pinned hash.

    Looked for in LIGHT_LLM_OFFLINE_DIR (read-only), the cache, the paths in `also`, and then the network.

    Raises:
        DataError: it is nowhere and may not or cannot be downloaded, or what came is not the file.
    """
    folder = offline_dir()
    places = [folder / file.name] if folder else []
    for path in [*places, cache_dir() / file.name, *also]:
        if path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256:
            return path
    if offline:
        raise DataError(f"{file.name} is not on this machine and --offline forbids to download it; {_way_out(file)}")
    return download(file, cache_dir() / file.name)


def download(file: KnownFile, target: Path, timeout: float = TIMEOUT) -> Path:
    """Fetch to a temporary file, check size and hash, rename: `target` is the whole file or does not exist.

    Raises:
        DataError: no connection, a time-out, a short answer, or other bytes than the pinned ones.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    digest, size = hashlib.sha256(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(file.url, timeout=timeout) as answer, open(partial, "wb") as out:
            while size <= file.size and (piece := answer.read(PIECE)):
                out.write(piece)
                digest.update(piece)
                size += len(piece)
            out.flush()
            os.fsync(out.fileno())
        if size != file.size:
            problem = f"{file.url} sent {'more than ' if size > file.size else ''}{size:,} bytes of {file.size:,}"
            raise DataError(f"{problem}; try again, or {_way_out(file)}")
        if digest.hexdigest() != file.sha256:
            raise DataError(
                f"{file.url} sent other bytes than expected: SHA-256 {digest.hexdigest()}; nothing was kept; "
                f"{_way_out(file)}"
            )
        os.replace(partial, target)
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{file.name} could not be downloaded from {file.url} ({reason}); {_way_out(file)}") from None
    finally:
        if partial.is_file():
            partial.unlink()
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _way_out(file: KnownFile) -> str:
    folder = offline_dir() or cache_dir()
    return f"put the file (SHA-256 {file.sha256}) at {folder / file.name}, or name a text file of your own with --data"
