"""The corpus as a file in the cache, with what each of its stories truly costs in another one beside it."""

import hashlib
import os
from pathlib import Path

from ...errors import DataError
from ...runtime import cache_dir
from ..documents import SEPARATOR
from ..pieces import Progress
from .telling import stories, story

NAME = "tales"
MEGABYTES = 10  # about one pass of 500 steps of 4 x 1,024 tokens
SEED = 1


def size_of(data: str) -> int:
    """The bytes that `tales` (10 MB) or `tales:N` (N MB) asks for. Raises DataError.

    >>> size_of("tales"), size_of("tales:25")
    (10000000, 25000000)
    """
    _, colon, size = data.partition(":")
    if colon and not (size.isdecimal() and 0 < int(size) <= 10_000):
        raise DataError(f"{data} cannot be read; write megabytes after the colon, 1 to 10,000, as in {NAME}:25")
    return (int(size) if colon else MEGABYTES) * 1_000_000


def corpus(n_bytes: int, progress: Progress | None = None) -> tuple[Path, tuple[tuple[float, str], ...]]:
    """The file of stories, written now if it is not there, and of each story its bits and its plot.

    The first bytes of a larger corpus are a smaller one: stories depend on the seed and their number alone.

    Raises:
        DataError: it cannot be kept.
    """
    # A change of the grammar changes its first stories, and so the name.
    fingerprint = hashlib.sha256("".join(story(SEED, i).text for i in range(30)).encode()).hexdigest()[:8]
    texts = cache_dir() / NAME / f"{fingerprint}-{SEED}-{n_bytes // 1_000_000}.txt"
    facts = texts.with_suffix(".tsv")
    try:
        if not texts.is_file():
            _write(texts, facts, n_bytes, progress)
        lines = facts.read_text(encoding="utf-8").splitlines()
        return texts, tuple((float(bits), plot) for bits, _, plot in (line.partition("\t") for line in lines))
    except OSError as error:
        raise DataError(
            f"the built-in corpus cannot be kept at {texts} ({error.strerror}); "
            "set LIGHT_LLM_CACHE to a folder that can be written"
        ) from None


def _write(texts: Path, facts: Path, n_bytes: int, progress: Progress | None) -> None:
    """Both whole or not at all; the stories last, since they are what is looked for."""
    texts.parent.mkdir(parents=True, exist_ok=True)
    unfinished = [path.with_name(f"{path.name}.{os.getpid()}.partial") for path in (facts, texts)]
    with open(unfinished[0], "w", encoding="utf-8") as beside, open(unfinished[1], "wb") as out:
        written = 0
        for number, told in enumerate(stories(SEED)):
            if written >= n_bytes:
                break
            mark = f"\n{SEPARATOR}\n" if number else ""
            written += out.write((mark + told.text).encode())
            beside.write(f"{told.bits!r}\t{told.plot}\n")
            if progress and number % 1000 == 0:
                progress(written, n_bytes)
    for path, partial in zip((facts, texts), unfinished, strict=True):
        os.replace(partial, path)
