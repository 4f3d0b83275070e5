"""Turn the settings `data` and `tokenizer` into a source and a tokenizer; substitute for unavailable defaults."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from ..atomic_io import atomic_write
from ..config import DataConfig
from ..errors import DataError, LightLLMError
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir
from .download import Unavailable
from .shards import SHARD_FORMAT
from .sources import Source, find_source
from .text_stream import Chunk, LogFn, ProgressFn, no_log, split_at
from .tokenizers import Tokenizer, make_tokenizer, tokenizer_from_dict

BUILT_IN_SOURCE = "tales"  # the corpus that needs no file and no network
MAX_TRAINING_BYTES = 100_000_000  # to train a tokenizer on, spread evenly over a larger text


def resolve_source(
    config: DataConfig, *, chosen: bool, offline: bool = False, progress: ProgressFn | None = None
) -> tuple[Source, list[str]]:
    """Find the text of a config. Returns it with notes for the user: substitutes used, damaged files skipped.

    Args:
        chosen: the user chose this text; if not, the built-in corpus replaces an unavailable one.
    """
    notes: list[str] = []
    find = partial(
        find_source,
        text_field=config.text_field,
        errors=config.errors,
        separator=config.separator,
        suffixes=config.suffixes,
        val_data=config.val_data,
        offline=offline,
        progress=progress,
        log=notes.append,
    )
    try:
        return find(config.data), notes
    except DataError as error:
        if chosen or config.val_data:
            raise
        # Damaged files are part of the error message, so the notes so far are not needed.
        notes[:] = [_substitute_note("Shakespeare", f"the built-in stories ({BUILT_IN_SOURCE!r})", error)]
        return find(BUILT_IN_SOURCE), notes


def resolve_tokenizer(
    spec: str | None, source: Source, held_out: float, *, offline: bool = False, progress: ProgressFn | None = None
) -> tuple[Tokenizer, list[str]]:
    """Make the requested tokenizer. Returns it with notes for the user: substitutes used, damaged files skipped.

    Args:
        spec: as for `make_tokenizer`. None: GPT-2's, or BPE trained on this text if the vocabulary of GPT-2 is
            unavailable or the text is the built-in corpus, whose few words do not need it.
    """
    notes: list[str] = []
    if spec is None and source.name.partition(":")[0] != BUILT_IN_SOURCE:
        try:
            return make_tokenizer("gpt2", offline=offline, log=notes.append), notes
        except DataError as error:
            notes = [_substitute_note("GPT-2's vocabulary", "one trained on this text (bpe)", error)]
    spec = spec or "bpe"
    return cached_tokenizer(spec, source, held_out, offline=offline, progress=progress, log=notes.append), notes


def cached_tokenizer(
    spec: str,
    source: Source,
    held_out: float,
    *,
    offline: bool = False,
    progress: ProgressFn | None = None,
    log: LogFn = no_log,
) -> Tokenizer:
    """Make a tokenizer. One that was trained on the same text before is loaded from the cache."""
    texts = partial(training_texts, source, held_out, progress)
    if spec.partition(":")[0] != "bpe":
        return make_tokenizer(spec, full_alphabet(source), texts, offline=offline, log=log)
    # A trained vocabulary depends on the text, its training split, and the spec. SHARD_FORMAT is their version too.
    key = hashlib.sha256(repr((SHARD_FORMAT, spec, source.sha256, split_key(source, held_out))).encode()).hexdigest()[
        :24
    ]
    path = cache_dir() / "tokenizers" / f"{key}.json"
    try:
        return tokenizer_from_dict(load_verified(path))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LightLLMError) as error:
        log(f"the cached tokenizer {path} is damaged ({error}) and is trained again")
    tokenizer = make_tokenizer(spec, source.alphabet, texts, offline=offline)
    with suppress(OSError):  # a cache that cannot be written only costs the training again
        atomic_write(path, dump_with_digest(tokenizer.to_dict()))
    return tokenizer


def training_texts(source: Source, held_out: float, progress: ProgressFn | None = None) -> Iterator[str]:
    """Yield the training split to train a tokenizer on: every n-th chunk if the text is large."""
    # Only the training split: a vocabulary that knew the held-out text would make its loss look better.
    _, chunks = next(read_splits(source, held_out, progress))
    every = -(-source.n_bytes // MAX_TRAINING_BYTES)
    return (text for i, text in enumerate(chunk for chunk in chunks if chunk is not None) if i % every == 0)


def read_splits(
    source: Source, held_out: float, progress: ProgressFn | None = None
) -> Iterator[tuple[str, Iterator[Chunk]]]:
    """Yield the names and chunks of the training and then the held-out split; read each before asking for the next."""
    if source.held_out:
        yield "train", source.read(progress)
        yield "held_out", source.held_out.read()
        return
    # The limits of the built-in corpus are known for whole stories, so none of its stories is cut.
    total = None if source.limits else source.n_chars
    head, tail = split_at(source.read(progress), int(source.n_chars * (1 - held_out)), source.documents, total)
    yield "train", head
    yield "held_out", tail()


def split_note(source: Source, held_out: float, n_train: int, n_held_out: int) -> list[str]:
    """Return a note if either split has more than twice or less than half of the share that was asked for."""
    share = n_held_out / (n_train + n_held_out)
    as_asked = held_out / 2 <= share <= held_out * 2 and (1 - held_out) / 2 <= 1 - share <= (1 - held_out) * 2
    if source.held_out or as_asked:
        return []
    return [f"{100 * share:.3g}% of the tokens are held out; {100 * held_out:.3g}% was asked for ({{--held-out}})"]


def split_key(source: Source, held_out: float) -> float | str:
    """Return what identifies the split: the held-out share, or the hash of the held-out text."""
    return source.held_out.sha256 if source.held_out else held_out


def max_documents(source: Source) -> int:
    """Return the number of documents of the text or of its held-out text, the larger; from 2 on they are separated."""
    return max(source.documents, source.held_out.documents if source.held_out else 1)


def full_alphabet(source: Source) -> str:
    """Return every character of the text and of its held-out text, sorted."""
    return "".join(sorted({*source.alphabet, *(source.held_out.alphabet if source.held_out else "")}))


def _substitute_note(wanted: str, used: str, error: DataError) -> str:
    """Return the note that a default is not available, with the reason but without the advice of the error."""
    if not isinstance(error, Unavailable):
        return f"using {used} instead of {wanted}: {error.message.partition('; ')[0]}"
    if error.no_network:
        return f"No network: using {used} instead of {wanted} ({error.reason})"
    if not error.reason:
        return f"{wanted} has not been downloaded yet: using {used} instead"
    return f"{wanted} could not be downloaded ({error.reason}): using {used} instead"
