"""The corpus as a file in the cache, with what each of its stories truly costs in another one beside it."""

import hashlib
from pathlib import Path

from ...atomic_io import atomic_path
from ...errors import DataError
from ...runtime import cache_dir
from ..documents import SEPARATOR
from ..fetch import sha256_of
from ..pieces import Progress
from .plots import TALES
from .telling import stories, story

NAME = "tales"
MEGABYTES = 10  # about one pass of 500 steps of 8 x 512 tokens
SEED = 1
MARK = f"\n{SEPARATOR}\n"  # between two stories of the file


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
    # Whatever changes the grammar or how it is told changes the name.
    told = "".join(story(SEED, i).text for i in range(30))
    fingerprint = hashlib.sha256((repr(TALES) + told).encode()).hexdigest()[:8]
    texts = cache_dir() / NAME / f"{fingerprint}-{SEED}-{n_bytes // 1_000_000}.txt"
    facts = texts.with_suffix(".tsv")
    try:
        if not (texts.is_file() and facts.is_file()):
            _write(texts, facts, n_bytes, progress)
        try:
            return texts, _read(texts, facts)
        except ValueError:  # one of them is damaged: both are made again
            _write(texts, facts, n_bytes, progress)
            return texts, _read(texts, facts)
    except OSError as error:
        raise DataError(
            f"the built-in corpus cannot be kept at {texts} ({error.strerror}); "
            "set LIGHT_LLM_CACHE to a folder that can be written"
        ) from None


def _read(texts: Path, facts: Path) -> tuple[tuple[float, str], ...]:
    """Bits and plot of each story. Raises ValueError for files that are not as they were written."""
    *lines, check = facts.read_text(encoding="utf-8").splitlines() or [""]
    if check != _check(texts, lines):
        raise ValueError(facts)
    return tuple((float(bits), plot) for bits, _, plot in (line.partition("\t") for line in lines))


def _check(texts: Path, lines: list[str]) -> str:
    return hashlib.sha256("\n".join([sha256_of(texts), *lines]).encode()).hexdigest()


def _write(texts: Path, facts: Path, n_bytes: int, progress: Progress | None) -> None:
    """Both whole or not at all."""
    lines: list[str] = []
    with atomic_path(texts) as partial_texts, atomic_path(facts) as partial_facts:
        with open(partial_texts, "wb") as out:
            written = 0
            for told in stories(SEED):
                if written >= n_bytes:
                    break
                written += out.write(((MARK if lines else "") + told.text).encode())
                lines.append(f"{told.bits!r}\t{told.plot}")
                if progress and len(lines) % 1000 == 0:
                    progress(written, n_bytes)
        partial_facts.write_text("\n".join([*lines, _check(partial_texts, lines)]), encoding="utf-8")
