"""A corpus: the shards of one or several sources in a folder, with the weights of a mixture.

    corpus/
    ├── corpus.json        the sources, their weights and shards, sealed by a digest
    ├── vocabulary.json    the tokenizer that all shards were encoded with
    ├── tokenizer.json     of a tokenizer that is such a file
    ├── wiki-00000/        train.bin train.json held_out.bin held_out.json, as `encode_splits` writes them
    ├── wiki-00001/
    └── code-00000/

The file names each shard with its tokens and the SHA-256 of its manifest, and a manifest has the SHA-256 of each
block, so that every id of a corpus is known by the digest of one file.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ..atomic_io import atomic_write
from ..errors import ConfigError, DataError, LightLLMError, did_you_mean
from ..json_io import TOKENIZER, canonical_json, dump_with_digest, load_verified, read_bounded
from ..runtime import expand_path
from .shard_list import ShardEntry, ShardList
from .shards import Shard, id_dtype
from .sources import Source, is_built_in
from .tokenizers import Tokenizer, tokenizer_from_dict, tokenizer_hash

CORPUS_FORMAT = 1
CORPUS = "corpus.json"
VOCABULARY = "vocabulary.json"
TOKENIZER_FILE = "tokenizer.json"
MAX_NAMED = 4  # shards, in a message about missing ones
# The first key of the sorted JSON: a text that happens to be called corpus.json does not begin with it.
_FIRST_KEY = b'"corpus_format"'
_REPAIR = "copy that shard again from where the corpus is kept, or encode it again"


@dataclass(frozen=True, kw_only=True)
class CorpusSource:
    """A source of a corpus: its weight in the mixture, its shards, and the sizes of its text."""

    name: str  # letters, digits, dots, dashes and underscores
    weight: float  # relative to the others; 0: not trained on
    tokenizer_sha256: str
    train: tuple[ShardEntry, ...]
    held_out: tuple[ShardEntry, ...] = ()
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    replaced: int = 0  # invalid bytes that became U+FFFD

    @property
    def n_train(self) -> int:
        """Tokens to train on."""
        return sum(entry.tokens for entry in self.train)

    @property
    def n_held_out(self) -> int:
        """Tokens to evaluate on."""
        return sum(entry.tokens for entry in self.held_out)


@dataclass(frozen=True)
class Corpus:
    """The description of a corpus: `corpus.json` and `vocabulary.json` of a folder."""

    folder: Path
    sources: tuple[CorpusSource, ...]
    tokenizer: Tokenizer

    default_order: ClassVar[int] = 2  # of the windows; see order.py

    @property
    def file(self) -> str:
        """The path of corpus.json, for messages."""
        return str(self.folder / CORPUS)

    @property
    def name(self) -> str:
        """The setting `data` that names this corpus: the folder, with "./" before the name of a built-in text."""
        return f"./{self.folder}" if is_built_in(str(self.folder)) else str(self.folder)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what is read: the sources' names and their shards, without the weights and the place."""
        facts = [
            [s.name, s.tokenizer_sha256, *([[e.tokens, e.sha256] for e in part] for part in (s.train, s.held_out))]
            for s in self.sources
        ]
        return hashlib.sha256(canonical_json({"sources": facts})).hexdigest()

    def as_source(self, name: str) -> Source:
        """Return the corpus as the source of a dataset."""
        n = len(self.sources)
        return Source(
            name=name,
            title=f"the corpus {self.folder.name or self.folder.absolute().name} ({n} source{'s' * (n != 1)})",
            path=self.folder,
            sha256=self.sha256,
            n_bytes=sum(source.bytes for source in self.sources),
            n_chars=sum(source.characters for source in self.sources),
            alphabet="",
            documents=sum(source.documents for source in self.sources),
            replaced=sum(source.replaced for source in self.sources),
        )

    def open_split(self, split: str) -> ShardList:
        """Return the ids of all sources, one after the other; `split` is train or held_out."""
        vocabulary = {"tokenizer_sha256": tokenizer_hash(self.tokenizer), "vocab_size": self.tokenizer.vocab_size}
        entries = [entry for source in self.sources for entry in getattr(source, split)]
        open_shard = partial(open_local_shard, self.folder, {**vocabulary, "split": split})
        return ShardList(entries, open_shard, self.tokenizer.needs_byte_counts)

    def check_files(self) -> None:
        """Raise DataError, naming shards that are missing or have another size."""
        item = id_dtype(self.tokenizer.vocab_size).itemsize
        entries = [entry for source in self.sources for entry in (*source.train, *source.held_out)]
        bad = []
        for entry in entries:
            path = self.folder / entry.file
            if not path.is_file():
                bad.append(f"{entry.file} is missing")
            elif not path.with_suffix(".json").is_file():
                bad.append(f"{PurePosixPath(entry.file).with_suffix('.json')} is missing")
            elif (size := path.stat().st_size) != entry.tokens * item:
                bad.append(f"{entry.file} has {size:,} bytes instead of {entry.tokens * item:,}")
        if bad:
            named = ", ".join(bad[:MAX_NAMED]) + (", ..." if len(bad) > MAX_NAMED else "")
            raise DataError(
                f"{len(bad)} of the {len(entries)} files of ids of {self.folder / CORPUS} cannot be used: {named}; "
                + _REPAIR
            )


def open_local_shard(folder: Path, expected: Mapping[str, Any], entry: ShardEntry) -> Shard:
    """Open a shard of a corpus. Raises DataError if it is missing, damaged or not the one that was described."""
    path = folder / entry.file
    manifest = path.with_suffix(".json")
    try:
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{manifest} cannot be read: {error.strerror or error}; {_REPAIR}") from None
    if digest != entry.sha256:
        raise DataError(f"{manifest} is damaged or of another corpus: {CORPUS} describes another file; {_REPAIR}")
    return Shard(path, expected, repair=_REPAIR)


def corpus_folder(data: str) -> Path | None:
    """Return the folder of a corpus that `data` names, as the folder or its corpus.json; None for anything else."""
    if is_built_in(data):
        return None
    path = expand_path(data)
    file = path / CORPUS if path.is_dir() else path
    try:
        with open(file, "rb") as head:
            is_corpus = file.name == CORPUS and file.is_file() and _FIRST_KEY in head.read(64)
    except (OSError, ValueError):
        return None
    return file.parent if is_corpus else None


def describe_shard(folder: Path, file: str) -> ShardEntry:
    """Return the entry of corpus.json for a finished shard, `file` being the path of its `.bin` in the folder."""
    shard = Shard(folder / file)
    digest = hashlib.sha256(shard.path.with_suffix(".json").read_bytes()).hexdigest()
    return ShardEntry(file, len(shard), digest)


def write_corpus(folder: Path, sources: Sequence[CorpusSource], tokenizer: Tokenizer) -> None:
    """Write vocabulary.json and then corpus.json, which completes a corpus whose shards are in the folder.

    Raises:
        DataError: names, weights or tokenizers that cannot be used together.
    """
    values = {"corpus_format": CORPUS_FORMAT, "sources": [asdict(source) for source in sources]}
    parse_sources(values, folder / CORPUS, tokenizer)
    write_vocabulary(folder, tokenizer)
    atomic_write(folder / CORPUS, dump_with_digest(values))


def write_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer of a corpus: its plain values, and the files that belong to them."""
    # Imported only where it is needed, because the library of published tokenizers takes a while to load.
    from .hf_tokenizer import HuggingFaceTokenizer

    if isinstance(tokenizer, HuggingFaceTokenizer):
        atomic_write(folder / TOKENIZER_FILE, tokenizer.data)
    atomic_write(folder / VOCABULARY, dump_with_digest(tokenizer.to_dict()))


def read_vocabulary(folder: Path) -> Tokenizer:
    """Read the tokenizer of a corpus. Raises DataError if it is missing or damaged."""
    vocabulary, file = _load(folder / VOCABULARY), folder / TOKENIZER_FILE
    try:
        files = {TOKENIZER_FILE: read_bounded(file, TOKENIZER)} if vocabulary.get("kind") == "hf" else {}
        return tokenizer_from_dict(vocabulary, files)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; copy it again") from None
    except (LightLLMError, ValueError) as error:
        reason = error.message if isinstance(error, LightLLMError) else error
        raise DataError(f"the tokenizer of the corpus {folder} ({VOCABULARY}) cannot be used: {reason}") from None


def read_corpus(folder: Path) -> Corpus:
    """Read the description of a corpus. Raises DataError if it is missing, damaged or of another format."""
    tokenizer, values = read_vocabulary(folder), _load(folder / CORPUS)
    return Corpus(folder, parse_sources(values, folder / CORPUS, tokenizer), tokenizer)


def _load(file: Path) -> dict[str, Any]:
    try:
        return load_verified(file, TOKENIZER)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is missing or damaged ({error}); copy it again from where the corpus is kept"
        ) from None


def parse_weights(text: str, names: Sequence[str]) -> list[float]:
    """Return the weight of each source from `wiki=0.7,code=0.3`.

    Raises:
        ConfigError: an unknown source, one without a weight, or weights that are not numbers from 0 on.
    """
    weights: dict[str, float] = {}
    # Without a flag: `--join` has --weight, and a run --set data.weights.
    example = ",".join(f"{name}=1" for name in names)
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in names:
            raise ConfigError(
                f"weights={text!r}: the corpus has no source {name!r}{did_you_mean(name, names)} "
                f"It has {', '.join(names)}; write {example}"
            )
        try:
            weights[name] = float(number)
        except ValueError:
            raise ConfigError(f"weights={text!r}: {number!r} is not a number; write {example}") from None
    if missing := [name for name in names if name not in weights]:
        whole = ",".join(f"{name}={weights.get(name, 0):g}" for name in names)
        raise ConfigError(
            f"weights={text!r} has no weight for {', '.join(missing)}; to leave a source out, write {whole}"
        )
    if problem := _weights_problem(list(weights.values())):
        raise ConfigError(f"weights={text!r}: {problem}; write {example}")
    return [weights[name] for name in names]


def format_weights(sources: Sequence[CorpusSource]) -> str:
    """Return the weights of a corpus as `parse_weights` reads them."""
    return ",".join(f"{source.name}={source.weight:.12g}" for source in sources)


def _weights_problem(weights: Sequence[float]) -> str:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        return "a weight is a number from 0 on"
    return "" if sum(weights) > 0 else "at least one weight must be above 0"


def parse_sources(values: Mapping[str, Any], file: Path | str, tokenizer: Tokenizer) -> tuple[CorpusSource, ...]:
    """Return the sources of a description, `file` being its name in messages. Raises DataError."""
    version = values.get("corpus_format")
    if version != CORPUS_FORMAT:
        raise DataError(f"{file} has format {version!r}; this version of light-llm reads format {CORPUS_FORMAT}")
    try:
        sources = tuple(_parse_source(item) for item in values["sources"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} cannot be used: {error}") from None
    names = [source.name for source in sources]
    problem = _weights_problem([source.weight for source in sources])
    if len(set(names)) < len(names) or not names:
        problem = f"a corpus needs sources with different names, and it has {', '.join(names) or 'none'}"
    own = tokenizer_hash(tokenizer)
    if others := [source.name for source in sources if source.tokenizer_sha256 != own]:
        problem = (
            f"{', '.join(others)} was encoded with another tokenizer than {VOCABULARY} has; encode all sources with "
            "the same one"
        )
    if problem:
        raise DataError(f"{file} cannot be used: {problem}")
    return sources


def _parse_source(item: Mapping[str, Any]) -> CorpusSource:
    """Return one source of a description. Raises KeyError, TypeError or ValueError."""
    values = dict(item)
    for split in ("train", "held_out"):
        values[split] = tuple(_parse_entry(entry) for entry in values[split])
    source = CorpusSource(**values)
    counts = (source.documents, source.characters, source.bytes, source.replaced)
    if not isinstance(source.weight, (int, float)) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError(f"the weight or the sizes of the source {source.name!r} are not numbers")
    if not re.fullmatch(r"[\w.-]+", source.name):
        raise ValueError(f"{source.name!r} is not a name of letters, digits, dots, dashes and underscores")
    return source


def _parse_entry(item: Mapping[str, Any]) -> ShardEntry:
    entry = ShardEntry(**item)
    path = PurePosixPath(entry.file)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.file or path.suffix != ".bin":
        raise ValueError(f"{entry.file!r} is not the path of a shard inside the folder")
    if not isinstance(entry.tokens, int) or entry.tokens < 0 or not isinstance(entry.sha256, str):
        raise ValueError(f"the entry of {entry.file} has no tokens or no SHA-256")
    return entry
