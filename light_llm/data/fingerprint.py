"""Fingerprint a text: its SHA-256, sizes, alphabet and counts, from one pass that is cached; later reads are verified.

To count something else in a text, add a field of `TextStats` and increase FORMAT; let the readers report it through
`decode_utf8.ReadCallbacks` (empty documents go in `text_stream.drop_empty_chunks`); and show it in run.json
(`TokenDataset.record`), the header (`train/messages.py`) and `cli/prepare.py`.
"""

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..atomic_io import atomic_write
from ..errors import DataError
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir
from .decode_utf8 import NO_CALLBACKS, ReadCallbacks
from .text_files import TextFiles
from .text_stream import Chunk, ProgressFn

FORMAT = 2  # of the cached results; increase it after any change to what `text_stats` computes
# What other programs write between documents. Here it is ordinary text.
END_MARKS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<|endofdocument|>", "<eos>")
_END_MARK_LINE = re.compile(rf"\n({'|'.join(map(re.escape, END_MARKS))})(?=\r?\n)")
STAMP_SECONDS = 2.0  # the coarsest time stamps of a file system in use (FAT)


@dataclass(frozen=True, kw_only=True)
class TextStats:
    """Facts about a text that one pass over it computes."""

    sha256: str  # of the bytes of a text file; otherwise of the documents' UTF-8, with 0xff after each
    n_bytes: int  # of the text in UTF-8
    n_chars: int
    alphabet: str  # the different characters, sorted
    documents: int
    replaced: int = 0  # invalid bytes that became U+FFFD
    end_mark: str = ""  # the mark of END_MARKS that has the most lines of its own
    end_mark_lines: int = 0


def text_stats(texts: TextFiles, progress: ProgressFn | None = None) -> TextStats:
    """Return the facts of a text from the cache, or read it if its files have changed.

    Raises:
        DataError: there is no text in the files, or they cannot be read.
    """
    # Trust time stamps as git does: files with the same paths, sizes and times are unchanged, unless they changed in
    # the last 2 seconds, when a second change could get the same stamp. A file whose stamps were set back on purpose
    # is caught when the text is next read as a whole: `read_verified` compares the hash.
    key, changed = _file_stamps(texts)
    cache_file = _cache_path(key)
    with suppress(OSError, ValueError, TypeError):  # missing or damaged
        return TextStats(**load_verified(cache_file))
    stats = _compute_stats(texts, progress)
    # Compare the stamps again: a change while the text was read must not be cached under the old ones.
    if changed + STAMP_SECONDS <= time.time() and _file_stamps(texts)[0] == key:
        with suppress(OSError):  # a cache that cannot be written only costs the next start a pass
            atomic_write(cache_file, dump_with_digest(asdict(stats)))
    return stats


def read_verified(texts: TextFiles, sha256: str, progress: ProgressFn | None = None) -> Iterator[Chunk]:
    """Yield the chunks of a text, then raise if their hash is not the expected one.

    Raises:
        DataError: the files have changed, or cannot be read.
    """
    digest = hashlib.sha256()
    yield from _read_and_hash(texts, digest.update, progress)
    if digest.hexdigest() != sha256:
        # The cached facts are those of the old text, so delete them.
        with suppress(OSError):  # they were never cached, or the cache is read-only
            _cache_path(_file_stamps(texts)[0]).unlink()
        raise DataError(
            f"{texts.files[0]}{' or a file beside it' if len(texts.files) > 1 else ''} changed while it was read; "
            f"start again when no program writes to it"
        )


def _compute_stats(texts: TextFiles, progress: ProgressFn | None) -> TextStats:
    digest, n_bytes, n_chars, documents = hashlib.sha256(), 0, 0, 1
    alphabet, ascii_seen = set[str](), b""
    replaced: list[int] = []
    marks = Counter[str]()
    for chunk in _read_and_hash(texts, digest.update, progress, ReadCallbacks(on_replaced=replaced.append)):
        if chunk is None:
            documents += 1
            continue
        data = chunk.encode()
        n_bytes += len(data)
        n_chars += len(chunk)
        # Most texts have no line that begins so, which is found out fast.
        if "<" in chunk and "\n<" in chunk:
            marks.update(_END_MARK_LINE.findall(chunk))
        # Delete the ASCII characters seen before in one fast sweep over the bytes; what is left is mostly nothing.
        if (rest := data.translate(None, delete=ascii_seen)) and not alphabet.issuperset(new := set(rest.decode())):
            alphabet |= new
            ascii_seen = "".join(c for c in alphabet if c.isascii()).encode()
    if n_chars == 0:
        where = texts.files[0] if len(texts.files) == 1 else f"{texts.files[0].parent} (all {len(texts.files):,} files)"
        if texts.kind in ("jsonl", "json", "csv", "parquet"):
            raise DataError(
                f"{where} holds no text in field {texts.options.text_field!r}; name the field that has it with "
                "{--text-field}"
            )
        raise DataError(f"{where} holds no text; name another file or folder")
    end_mark, end_mark_lines = max(marks.items(), key=lambda item: item[1], default=("", 0))
    return TextStats(
        sha256=digest.hexdigest(),
        n_bytes=n_bytes,
        n_chars=n_chars,
        alphabet="".join(sorted(alphabet)),
        documents=documents,
        replaced=sum(replaced),
        end_mark=end_mark,
        end_mark_lines=end_mark_lines,
    )


def _read_and_hash(
    texts: TextFiles,
    update: Callable[[bytes], object],
    progress: ProgressFn | None,
    callbacks: ReadCallbacks = NO_CALLBACKS,
) -> Iterator[Chunk]:
    """Yield the chunks, and pass the bytes that identify the text to `update`.

    These are the raw bytes of a single text file, otherwise each document and 0xff: no UTF-8 contains 0xff, so that
    different documents cannot give the same bytes.
    """
    if texts.hash_raw_bytes:
        yield from texts.read(progress, replace(callbacks, on_raw_bytes=update))
        return
    for chunk in texts.read(progress, callbacks):
        update(b"\xff" if chunk is None else chunk.encode())
        yield chunk
    update(b"\xff")


def _file_stamps(texts: TextFiles) -> tuple[str, float]:
    """Return a hash of the files' stamps and the reading options, and the time of the files' latest change."""
    stamps, latest = [], 0.0
    for file in texts.files:
        try:
            stat = os.stat(file)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
        stamps.append((str(file.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        latest = max(latest, stat.st_mtime, stat.st_ctime)
    # Each option can change what is read, so it is part of the key.
    options = (FORMAT, texts.kind, texts.options, texts.hash_raw_bytes)
    return hashlib.sha256(repr((options, stamps)).encode("utf-8", "surrogateescape")).hexdigest(), latest


def _cache_path(key: str) -> Path:
    return cache_dir() / "scans" / f"{key}.json"
