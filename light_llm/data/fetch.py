"""Files with a known SHA-256: found on this machine, or downloaded whole or not at all."""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..atomic_io import atomic_path
from ..errors import DataError
from ..runtime import cache_dir, offline_dir
from .http import Broken, Refused, request
from .pieces import Progress, Say, silent

PIECE = 1 << 16  # bytes read at a time; a piece that is cut off in the middle is lost


@dataclass(frozen=True)
class KnownFile:
    """A file of the outside world, pinned."""

    name: str  # its path below the offline folder and the cache
    url: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Patience:
    """How often and how long a download is tried. All times in seconds."""

    tries: int = 3
    timeout: float = 20.0  # without a byte
    first_wait: float = 1.0  # before the second try; doubled before each further one
    longest_wait: float = 30.0  # however long the server asks to wait

    def wait(self, tried: int, asked: float | None) -> float:
        """How long to wait after so many tries: what the server asked for, within bounds, or our own doubling.

        >>> [Patience().wait(1, None), Patience().wait(3, None), Patience().wait(1, 7.0), Patience().wait(1, 9e9)]
        [1.0, 4.0, 7.0, 30.0]
        """
        return min(self.longest_wait, self.first_wait * 2 ** (tried - 1) if asked is None else max(0.0, asked))


def find_or_fetch(
    file: KnownFile,
    *,
    offline: bool = False,
    also: Sequence[Path] = (),
    progress: Progress | None = None,
    patience: Patience = Patience(),
    say: Say = silent,
) -> Path:
    """The path of a file whose bytes have the pinned hash.

    Looked for in LIGHT_LLM_OFFLINE_DIR (read-only), the cache, the paths in `also`, and then the network. What has
    that name and other bytes is passed over and named: by `say` when the file is had all the same, else in the error.

    Raises:
        DataError: it is nowhere and may not or cannot be downloaded, or what came is not the file.
    """
    folder, damaged = offline_dir(), list[tuple[Path, str]]()
    places = [folder / file.name] if folder else []
    for path in [*places, cache_dir() / file.name, *also]:
        if path.is_file():
            if problem := _difference(path, file):
                damaged.append((path, f"{path} is there but damaged: {problem}"))
                continue
            break
    else:
        passed_over = f" ({', '.join(line for _, line in damaged)})" if damaged else ""
        if offline:
            raise DataError(
                f"{file.name} is not on this machine{passed_over} and --offline forbids to download it; "
                f"{_way_out(file)}"
            )
        try:
            path = download(file, cache_dir() / file.name, patience=patience, progress=progress)
        except DataError as error:
            what, semicolon, rest = str(error).partition("; ")
            raise DataError(f"{what}{passed_over}{semicolon}{rest}") from None
    for other, line in damaged:
        say(f"{line}; " + ("it was fetched anew" if other == path else f"{path} is used instead"))
    return path


def _difference(path: Path, file: KnownFile) -> str:
    """How a file differs from the pinned one, or nothing."""
    try:
        size = path.stat().st_size
        found = sha256_of(path) if size == file.size else ""
    except OSError as error:
        return error.strerror or str(error)
    if size != file.size:
        return f"it has {size:,} bytes instead of {file.size:,}"
    return "" if found == file.sha256 else f"SHA-256 {found[:12]}... instead of {file.sha256[:12]}..."


def download(
    file: KnownFile,
    target: Path,
    *,
    patience: Patience = Patience(),
    progress: Progress | None = None,
) -> Path:
    """Fetch to a temporary file, check size and hash, rename: `target` is the whole file or does not exist.

    What breaks off is gone on with where it broke off, if the server can; what a server or a line does wrong for a
    moment (an answer of 5xx, a cut connection, a time-out, a short answer) is tried again.

    Args:
        file: what to fetch.
        target: where it goes.
        patience: tries and time-outs.
        progress: called with (bytes here, bytes in all).

    Raises:
        DataError: no connection, no whole answer within the tries, other bytes than the pinned ones, or no room.
    """
    try:
        with atomic_path(target) as partial, open(partial, "w+b") as out:
            _fetch(file, out, patience, progress)
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be kept at {target}: {error.strerror or error}; "
            f"make room there, or set LIGHT_LLM_CACHE to another folder"
        ) from None
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(file: KnownFile, out: BinaryIO, patience: Patience, progress: Progress | None) -> None:
    """Try until `out` is the file. Raises DataError when it will not become so, OSError when it cannot be written."""
    problem, asked = "", None
    for tried in range(patience.tries):
        if tried:
            time.sleep(patience.wait(tried, asked))
        try:
            began_at = _receive(file, out, patience.timeout, progress)
        except Broken as error:
            problem, asked = f"{file.name} could not be downloaded from {file.url} ({error})", error.retry_after
            if error.anew:
                out.truncate(0)
            continue
        except Refused as error:
            raise DataError(
                f"{file.name} could not be downloaded from {file.url} ({error}); {_way_out(file)}"
            ) from None
        out.seek(0)
        found = hashlib.file_digest(out, "sha256").hexdigest()  # type: ignore[arg-type]
        if found == file.sha256:
            return
        problem = f"{file.url} sent other bytes than expected: SHA-256 {found}; nothing was kept"
        if not began_at:
            raise DataError(f"{problem}; {_way_out(file)}")
        out.truncate(0)  # the parts may be of two different files: the next try takes it in one
    raise DataError(f"{problem}, {patience.tries} tries; try again later, or {_way_out(file)}")


def _receive(file: KnownFile, out: BinaryIO, timeout: float, progress: Progress | None) -> int:
    """One request for what is missing: where in the file the answer began. Takes no more bytes than the file has.

    Raises:
        Broken, Refused: what is here by then stays in `out`.
    """
    with request(file.url, start=out.seek(0, os.SEEK_END), timeout=timeout) as answer:
        have = out.seek(answer.start)
        out.truncate()
        if answer.whole is not None and answer.whole > file.size:
            raise Refused(f"it is {answer.whole:,} bytes long, not {file.size:,}")
        while have < file.size and (piece := answer.read(min(PIECE, file.size - have))):
            out.write(piece)
            have += len(piece)
            if progress:
                progress(have, file.size)
    if have < file.size:
        raise Broken(f"it sent {have:,} bytes of {file.size:,}")
    return answer.start


def _way_out(file: KnownFile) -> str:
    folder = offline_dir() or cache_dir()
    return f"put the file (SHA-256 {file.sha256}) at {folder / file.name}, or name a text file of your own with --data"
