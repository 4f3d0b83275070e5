"""The corpus as a text file in the cache, with a second file of the exact bits of each of its stories."""

import hashlib
from pathlib import Path

from ...atomic_io import atomic_path
from ...errors import DataError
from ...runtime import cache_dir
from ..documents import SEPARATOR
from ..download import cache_errors, sha256_of
from ..text_stream import ProgressFn
from .generator import stories, story
from .grammar import built_in_grammar

NAME = "tales"
DEFAULT_MEGABYTES = 10  # about one pass of 500 steps of 8 x 512 tokens
SEED = 1
STORY_SEPARATOR = f"\n{SEPARATOR}\n"


def corpus_bytes(data: str) -> int:
    """Return the size that `tales` (10 MB) or `tales:N` (N MB) names, in bytes. Raises DataError.

    >>> corpus_bytes("tales"), corpus_bytes("tales:25")
    (10000000, 25000000)
    """
    _, colon, size = data.partition(":")
    if colon and not (size.isdecimal() and 0 < int(size) <= 10_000):
        raise DataError(f"{data} cannot be read; write megabytes after the colon, 1 to 10,000, as in {NAME}:25")
    return (int(size) if colon else DEFAULT_MEGABYTES) * 1_000_000


def ensure_corpus(n_bytes: int, progress: ProgressFn | None = None) -> tuple[Path, tuple[tuple[float, str], ...]]:
    """Return the file of stories, generated if it is missing, and the (bits, plot) of each story.

    A larger corpus begins with the bytes of a smaller one: a story depends only on the seed and its index.

    Raises:
        DataError: the files cannot be written.
    """
    # The file name changes with the grammar and the generator: it hashes the grammar and the first stories.
    sample = "".join(story(SEED, i).text for i in range(30))
    fingerprint = hashlib.sha256((repr(built_in_grammar()) + sample).encode()).hexdigest()[:8]
    texts = cache_dir() / NAME / f"{fingerprint}-{SEED}-{n_bytes // 1_000_000}.txt"
    facts = texts.with_suffix(".tsv")
    with cache_errors("the built-in corpus", texts):
        try:
            limits = _read(texts, facts)
        except (FileNotFoundError, ValueError):  # one of them is missing or damaged, so generate both
            _write(texts, facts, n_bytes, progress)
            limits = _read(texts, facts)
    return texts, limits


def _read(texts: Path, facts: Path) -> tuple[tuple[float, str], ...]:
    """Return the (bits, plot) of each story. Raises ValueError if either file is damaged."""
    *lines, digest = facts.read_text(encoding="utf-8").splitlines() or [""]
    if digest != _digest(texts, lines):
        raise ValueError(facts)
    return tuple((float(bits), plot) for bits, _, plot in (line.partition("\t") for line in lines))


def _digest(texts: Path, lines: list[str]) -> str:
    return hashlib.sha256("\n".join([sha256_of(texts), *lines]).encode()).hexdigest()


def _write(texts: Path, facts: Path, n_bytes: int, progress: ProgressFn | None) -> None:
    lines: list[str] = []
    with atomic_path(texts) as partial_texts, atomic_path(facts) as partial_facts:
        with open(partial_texts, "wb") as out:
            n_written = 0
            for generated in stories(SEED):
                if n_written >= n_bytes:
                    break
                n_written += out.write(((STORY_SEPARATOR if lines else "") + generated.text).encode())
                # repr gives a float exactly.
                lines.append(f"{generated.bits!r}\t{generated.plot}")
                if progress and len(lines) % 1000 == 0:
                    progress(n_written, n_bytes)
        partial_facts.write_text("\n".join([*lines, _digest(partial_texts, lines)]), encoding="utf-8")
