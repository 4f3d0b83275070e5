"""One pass over a text: its hash, size and alphabet, kept in the cache for the next start; and reading it checked."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic_io import atomic_write
from ..errors import DataError
from ..json_io import load_json
from ..runtime import cache_dir
from .pieces import Piece, Progress
from .reading import Hooks
from .texts import Texts

FORMAT = 1  # of the kept results; another number after any change to what a scan finds
RACY = 2.0  # seconds; the coarsest time stamps of a file system in use (FAT)


@dataclass(frozen=True)
class Scan:
    """What one pass over a text found out."""

    sha256: str
    n_bytes: int
    n_chars: int
    alphabet: str
    documents: int
    replaced: int


def scan(texts: Texts, progress: Progress | None = None) -> Scan:
    """The facts of a text: from the cache if its files are as they were, else by reading them.

    Time stamps are trusted as git trusts them: files with the same paths, sizes and times of change are taken to be
    the same, except those that changed in the last 2 seconds, within which a second change could bear the same stamp.
    Someone who sets the stamps back after a change deceives it, but only until the text is next read as a whole:
    `read_checked` compares the hash.

    Raises:
        DataError: no text in it, or what reading it raises.
    """
    key, changed = _stamps(texts)
    file = _kept_at(key)
    if found := _kept(file):
        return found
    found = _pass(texts, progress)
    if changed + RACY <= time.time() and _stamps(texts)[0] == key:
        _keep(file, found)
    return found


def read_checked(texts: Texts, sha256: str, progress: Progress | None = None) -> Iterator[Piece]:
    """The pieces of a text, and at the end the certainty that they were the text with this hash.

    Raises:
        DataError: the files are no longer what they were, or what reading them raises.
    """
    digest = hashlib.sha256()
    yield from _digested(texts, digest.update, Hooks(), progress)
    if digest.hexdigest() != sha256:
        with suppress(OSError):  # nothing kept, or a cache that only can be read
            _kept_at(_stamps(texts)[0]).unlink()
        raise DataError(
            f"{texts.files[0]}{' or a file beside it' if len(texts.files) > 1 else ''} was changed while it was read; "
            f"start again when nothing writes to it"
        )


def _pass(texts: Texts, progress: Progress | None) -> Scan:
    digest, n_bytes, n_chars, documents = hashlib.sha256(), 0, 0, 1
    alphabet, ascii_seen = set[str](), b""
    replaced: list[int] = []
    for piece in _digested(texts, digest.update, Hooks(replaced=replaced.append), progress):
        if piece is None:
            documents += 1
            continue
        data = piece.encode()
        n_bytes += len(data)
        n_chars += len(piece)
        # Characters seen before are taken out in one sweep over the bytes; what is left for the set is mostly nothing.
        if (rest := data.translate(None, delete=ascii_seen)) and not alphabet.issuperset(new := set(rest.decode())):
            alphabet |= new
            ascii_seen = "".join(c for c in alphabet if c.isascii()).encode()
    if n_chars == 0:
        where = texts.files[0] if len(texts.files) == 1 else f"{texts.files[0].parent} (all {len(texts.files):,} files)"
        field = f" in field {texts.text_field!r}" if texts.kind in ("jsonl", "parquet") else ""
        raise DataError(f"{where} holds no text{field}; training needs some thousand characters")
    return Scan(digest.hexdigest(), n_bytes, n_chars, "".join(sorted(alphabet)), documents, sum(replaced))


def _digested(
    texts: Texts, update: Callable[[bytes], object], hooks: Hooks, progress: Progress | None
) -> Iterator[Piece]:
    """The pieces, whatever decides the text going through `update`: a plain file's bytes, or each document and 0xff.

    0xff is in no UTF-8, so that other documents cannot give the same bytes.
    """
    if texts.plain:
        yield from texts.read(progress, Hooks(raw=update, replaced=hooks.replaced))
        return
    for piece in texts.read(progress, hooks):
        update(b"\xff" if piece is None else piece.encode())
        yield piece
    update(b"\xff")


def _stamps(texts: Texts) -> tuple[str, float]:
    """A hash of all that decides what a scan finds, file contents by their stamps; and the latest change of a file."""
    stamps, latest = [], 0.0
    for file in texts.files:
        try:
            at = os.stat(file)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
        stamps.append((str(file.absolute()), at.st_size, at.st_mtime_ns, at.st_ctime_ns))
        latest = max(latest, at.st_mtime, at.st_ctime)
    options = (FORMAT, texts.kind, texts.text_field, texts.errors, texts.plain)
    return hashlib.sha256(repr((options, stamps)).encode("utf-8", "surrogateescape")).hexdigest(), latest


def _kept_at(key: str) -> Path:
    return cache_dir() / "scans" / f"{key}.json"


def _kept(file: Path) -> Scan | None:
    """A result that was kept, if it is whole; a damaged one is as good as none."""
    try:
        values = load_json(file)
        found = Scan(**values["scan"])
        return found if values["check"] == _check(asdict(found)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path, found: Scan) -> None:
    """Written whole or not at all. A cache that cannot be written costs the next start a pass, and nothing else."""
    with suppress(OSError):
        atomic_write(file, json.dumps({"scan": asdict(found), "check": _check(asdict(found))}).encode())


def _check(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
