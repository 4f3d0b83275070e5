"""A corpus by its folder or by the URL of its corpus.json: https, s3, gs and every other protocol of fsspec."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from ..errors import DataError, LightLLMError
from ..json_io import TOKENIZER
from ..runtime import cache_dir
from .chunk_cache import FOLDER, ChunkCache
from .corpus import CORPUS, TOKENIZER_FILE, VOCABULARY, Corpus, corpus_folder, parse_sources, read_corpus
from .remote_files import is_url, printable_url, sibling_url
from .remote_shards import RemoteShard, read_cached, read_sealed
from .shard_list import ShardEntry, ShardList
from .sources import Source
from .tokenizers import tokenizer_from_dict, tokenizer_hash


@dataclass(frozen=True)
class RemoteCorpus(Corpus):
    """A corpus at a URL. `folder` is that of its chunks on this machine."""

    url: str  # of corpus.json
    offline: bool = False

    default_order: ClassVar[int] = 3

    @property
    def file(self) -> str:
        """The URL of corpus.json, for messages."""
        return printable_url(self.url)

    @property
    def name(self) -> str:
        """The setting `data` that names this corpus."""
        return self.url

    def as_source(self, name: str) -> Source:
        """Return the corpus as the source of a dataset."""
        return replace(super().as_source(name), title=f"the corpus {self.file}")

    def open_split(self, split: str) -> ShardList:
        """Return the ids of all sources, one after the other; `split` is train or held_out."""
        vocabulary = {"tokenizer_sha256": tokenizer_hash(self.tokenizer), "vocab_size": self.tokenizer.vocab_size}
        entries = [entry for source in self.sources for entry in getattr(source, split)]
        expected = {**vocabulary, "split": split}
        open_shard = partial(open_remote_shard, self.url, ChunkCache(), self.offline, expected)
        return ShardList(entries, open_shard, self.tokenizer.needs_byte_counts)

    def check_files(self) -> None:
        """Do nothing: a file that is missing is reported when it is read, because asking for each takes a request."""


def find_corpus(data: str, *, offline: bool = False) -> Corpus | None:
    """Return the corpus that `data` names, as its folder, its corpus.json or the URL of that; None for anything else.

    Raises:
        DataError: it is damaged, or of another format, or cannot be read.
    """
    if is_url(data):
        return read_remote_corpus(data, offline=offline) if _names_corpus(data) else None
    folder = corpus_folder(data)
    return read_corpus(folder) if folder else None


def read_remote_corpus(url: str, *, offline: bool = False) -> RemoteCorpus:
    """Read the description of a corpus at a URL; the cached one if the URL cannot be read. Raises DataError."""
    if printable_url(url) != url.partition("?")[0]:
        raise DataError(
            f"the address {printable_url(url)} was given with a user or password, which would be written into the run; "
            "leave them out, and give them to the protocol in its own way, such as environment variables"
        )
    values = read_sealed(url, offline=offline, limits=TOKENIZER)
    vocabulary_url = sibling_url(url, VOCABULARY)
    vocabulary = read_sealed(vocabulary_url, offline=offline, limits=TOKENIZER)
    files = {}
    if vocabulary.get("kind") == "hf":
        sha256 = str(vocabulary.get("sha256"))
        file = read_cached(
            sibling_url(url, TOKENIZER_FILE),
            f"{sha256}.json",
            partial(_with_digest, sha256),
            is_fixed=True,
            offline=offline,
            limit=TOKENIZER.bytes,
        )
        files = {TOKENIZER_FILE: file}
    try:
        tokenizer = tokenizer_from_dict(vocabulary, files)
    except LightLLMError as error:
        raise DataError(f"{printable_url(vocabulary_url)} cannot be used: {error.message}") from None
    sources = parse_sources(values, printable_url(url), tokenizer)
    return RemoteCorpus(cache_dir() / FOLDER, sources, tokenizer, url=url, offline=offline)


def open_remote_shard(
    url: str, cache: ChunkCache, offline: bool, expected: Mapping[str, Any], entry: ShardEntry
) -> RemoteShard:
    """Open a shard of the corpus at a URL. Raises DataError."""
    return RemoteShard(sibling_url(url, entry.file), expected, sha256=entry.sha256, offline=offline, cache=cache)


def _names_corpus(url: str) -> bool:
    return url.partition("?")[0].rpartition("/")[2] == CORPUS


def _with_digest(sha256: str, data: bytes) -> bytes:
    """Return bytes with that SHA-256. Raises ValueError for others."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("it is not the file of this corpus (its SHA-256 differs)")
    return data
