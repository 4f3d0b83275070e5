"""Which text and which vocabulary a dataset is made of: as asked for, or what stands in where that cannot be had."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress

from ..atomic_io import atomic_write
from ..config import DataConfig
from ..errors import DataError, LightLLMError
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir
from .pieces import Piece, Progress, Say, silent, split_at
from .shards import FORMAT
from .sources import Source, find_source
from .tokenizers import Tokenizer, make_tokenizer, tokenizer_from_dict

BUILT_IN = "tales"  # the corpus that needs no file and no network
LEARN_FROM = 100_000_000  # bytes that a vocabulary is learnt from at most, spread evenly over the text


def find_text(
    config: DataConfig, *, by_name: bool, offline: bool = False, progress: Progress | None = None
) -> tuple[Source, list[str]]:
    """The text of a config, and what was decided in the user's stead.

    Args:
        by_name: the text was asked for; otherwise the built-in corpus stands in for one that cannot be had.
    """
    notes: list[str] = []

    def find(data: str) -> Source:
        return find_source(
            data,
            text_field=config.text_field,
            errors=config.errors,
            val_data=config.val_data,
            offline=offline,
            progress=progress,
            say=notes.append,
        )

    try:
        return find(config.data), notes
    except DataError as error:
        if by_name or config.val_data:
            raise
        notes = [f"this is {BUILT_IN}, the built-in corpus: {_problem(error)}"]
        return find(BUILT_IN), notes


def choose_tokenizer(
    spec: str | None, source: Source, held_out: float, *, offline: bool = False, progress: Progress | None = None
) -> tuple[Tokenizer, list[str]]:
    """What was asked for; or GPT-2's; or, where its vocabulary is not needed or cannot be had, one learnt here.

    With it come notes: what was decided in the user's stead, and what was damaged and passed over.
    """
    notes: list[str] = []
    if spec is None and source.name.partition(":")[0] != BUILT_IN:
        try:
            return make_tokenizer("gpt2", offline=offline, say=notes.append), notes
        except DataError as error:
            notes = [f"the vocabulary is bpe, learnt from this text: {_problem(error)}"]
    spec = spec or "bpe"
    return kept_tokenizer(spec, source, held_out, offline=offline, progress=progress, say=notes.append), notes


def kept_tokenizer(
    spec: str,
    source: Source,
    held_out: float,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    say: Say = silent,
) -> Tokenizer:
    """Make a tokenizer; one that was learnt from this text before comes from the cache."""

    def texts() -> Iterator[str]:
        return training_texts(source, held_out, progress)

    if spec.partition(":")[0] != "bpe":
        return make_tokenizer(spec, alphabet(source), texts, offline=offline, say=say)
    key = hashlib.sha256(repr((FORMAT, spec, source.sha256, split_fact(source, held_out))).encode()).hexdigest()[:24]
    path = cache_dir() / "tokenizers" / f"{key}.json"
    try:
        return tokenizer_from_dict(load_verified(path))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LightLLMError) as error:
        say(f"the tokenizer kept at {path} is damaged ({error}) and is learnt anew")
    tokenizer = make_tokenizer(spec, source.alphabet, texts, offline=offline)
    with suppress(OSError):  # a cache that cannot be written only costs the training again
        atomic_write(path, dump_with_digest(tokenizer.to_dict()))
    return tokenizer


def training_texts(source: Source, held_out: float, progress: Progress | None = None) -> Iterator[str]:
    """The training split for a vocabulary to learn from: of a large text an even share."""
    _, pieces = next(splits(source, held_out, progress))
    every = -(-source.n_bytes // LEARN_FROM)
    return (piece for i, piece in enumerate(p for p in pieces if p is not None) if i % every == 0)


def splits(source: Source, held_out: float, progress: Progress | None = None) -> Iterator[tuple[str, Iterator[Piece]]]:
    """The training text and then the held-out one; each is read to its end before the next is asked for."""
    if source.held_out:
        yield "train", source.read(progress)
        yield "held_out", source.held_out.read()
        return
    head, tail = split_at(source.read(progress), int(source.n_chars * (1 - held_out)), source.documents)
    yield "train", head
    yield "held_out", tail()


def split_fact(source: Source, held_out: float) -> float | str:
    """What decides the split: the share, or the hash of the text that is held out."""
    return source.held_out.sha256 if source.held_out else held_out


def documents(source: Source) -> int:
    """Documents of the larger split: with more than one, separators stand between them."""
    return max(source.documents, source.held_out.documents if source.held_out else 1)


def alphabet(source: Source) -> str:
    """Every character of the text and of the one that is held out instead of its end."""
    return "".join(sorted({*source.alphabet, *(source.held_out.alphabet if source.held_out else "")}))


def _problem(error: DataError) -> str:
    """What went wrong, without the ways out: one was taken."""
    return str(error).partition("; ")[0]
