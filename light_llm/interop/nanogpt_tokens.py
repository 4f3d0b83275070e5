"""nanoGPT's token files, a row of unsigned 16-bit ids each, back to the texts they were made from.

Nothing in such a file says which text or vocabulary it is of. So it is not trained on as it is: its text is, which a
run names, hashes, splits and measures in bytes; encoding it again gives the same ids, and that is looked at here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..atomic_io import atomic_write
from ..data import Tokenizer
from ..data.tokenizers import decode
from ..errors import ConfigError, DataError

CHUNK = 1 << 20  # ids that are looked at together
Ids = NDArray[np.uint16]
Progress = Callable[[int, int], None]  # ids done, ids in all


@dataclass(frozen=True)
class Text:
    """A text that was made of a token file."""

    path: Path
    tokens: int  # separators included
    documents: int
    other: int  # documents of which the text gives other ids than the file has


def read_bin(path: Path, vocab_size: int) -> Ids:
    """The ids of a token file, memory-mapped, each below vocab_size.

    Raises:
        DataError: it cannot be read, is empty or not a row of 16-bit numbers, or has an id that the vocabulary lacks.
    """
    try:
        size = path.stat().st_size
        ids: Ids = np.memmap(path, dtype="<u2", mode="r") if size and size % 2 == 0 else np.zeros(0, "<u2")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; name a token file of nanoGPT") from None
    if not len(ids):
        raise DataError(f"{path} has {size:,} bytes, which is no row of 16-bit ids; name a token file of nanoGPT")
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        if part.max() >= vocab_size:
            at = start + int(np.argmax(part >= vocab_size))
            raise DataError(
                f"{path} has id {ids[at]} at {at:,}, and the vocabulary {vocab_size:,} ids: it was made with "
                "another one; name that with --tokenizer"
            )
    return ids


def write_texts(
    paths: list[Path], tokenizer: Tokenizer, folder: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> list[Text]:
    """The texts of token files, each by the name of its file: `train.bin` is `train.txt` then.

    Where separators stand between documents it is `train.jsonl`, a document a line.

    Raises:
        ConfigError: two files of one name.
        DataError: a file that cannot be used (see `read_bin`), one of characters, or a text that is there already.
    """
    files = {path.stem: path for path in paths}
    if len(files) != len(paths):
        raise ConfigError(f"{', '.join(map(str, paths))} would be texts of the same name; import them one by one")
    for path in paths:
        if (alphabet := path.with_name("meta.pkl")).is_file():
            raise DataError(
                f"{path} is of characters, and which ones stands in {alphabet}, a pickle, which can run code when it "
                "is read; the text it was made from is all that is needed: "
                "light-llm train --data input.txt --tokenizer char"
            )
    rows = {stem: read_bin(path, tokenizer.vocab_size) for stem, path in files.items()}
    endings = {stem: ".jsonl" if _has(ids, tokenizer.separator) else ".txt" for stem, ids in rows.items()}
    for stem, ending in endings.items():
        if (out := folder / f"{stem}{ending}").exists() and not overwrite:
            raise DataError(f"{out} is there already; name another folder with --out, or replace it with --overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(folder / f"{stem}{endings[stem]}", ids, tokenizer, progress) for stem, ids in rows.items()]
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}; name another with --out") from None


def _write(out: Path, ids: Ids, tokenizer: Tokenizer, progress: Progress | None) -> Text:
    counts = {"documents": 0, "other": 0}

    def fill(file: BinaryIO) -> None:
        done = 0
        for document in _documents(ids, tokenizer.separator):
            row: list[Any] = document.tolist()
            text = decode(tokenizer, row)
            counts["documents"] += 1
            counts["other"] += tokenizer.encode(text) != row
            line = f"{json.dumps({'text': text}, ensure_ascii=False)}\n" if out.suffix == ".jsonl" else text
            file.write(line.encode())
            done += len(row)
            if progress:
                progress(done, len(ids))

    atomic_write(out, fill)
    return Text(out, len(ids), counts["documents"], counts["other"])


def _has(ids: Ids, token: int) -> bool:
    return any(bool((ids[start : start + CHUNK] == token).any()) for start in range(0, len(ids), CHUNK))


def _documents(ids: Ids, separator: int) -> Iterator[Ids]:
    """What stands between separators, where that is something. A document is in memory, the file is not."""
    begin = 0
    for start in range(0, len(ids), CHUNK):
        for at in np.flatnonzero(ids[start : start + CHUNK] == separator):
            end = start + int(at)
            if end > begin:
                yield ids[begin:end]
            begin = end + 1
    if begin < len(ids):
        yield ids[begin:]
