"""Texts to ids and back. A tokenizer is plain data: it travels inside the checkpoint, and has a hash."""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import tiktoken

from ..errors import CheckpointError, ConfigError, DataError, did_you_mean
from ..runtime import tiktoken_cache_dir
from .fetch import KnownFile, find_or_fetch

GPT2_VOCABULARY = KnownFile(
    name="gpt2/vocab.bpe",
    url="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    size=456_318,
)
# How GPT-2 cuts a text before merging (Radford et al., 2019): contractions, words, numbers, signs, white space.
# `++` never gives back what it took, which changes no match here and keeps a million equal characters harmless.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"""
NAMES = ("gpt2", "char", "byte")


class Tokenizer(Protocol):
    """What every tokenizer can do. `separator` stands between documents and nowhere else."""

    name: str
    vocab_size: int
    separator: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Nothing in it is special: `<|endoftext|>` is thirteen characters."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one id; none for the separator."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `tokenizer_from_dict` builds the same tokenizer."""
        ...


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of ids; bytes that are no UTF-8 (half a character) show as the replacement character."""
    return b"".join(tokenizer.token_bytes(i) for i in ids).decode("utf-8", errors="replace")


class TextStream:
    """Ids in, text out as soon as it is whole: a character of several bytes is never shown in halves.

    >>> stream = TextStream(ByteTokenizer())
    >>> [stream.push(byte) for byte in "é!".encode()], stream.close()
    (['', 'é', '!'], '')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this id completes, possibly none."""
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def close(self) -> str:
        """What is left at the end: a character that was never finished, as the replacement character."""
        return self.decoder.decode(b"", final=True)


def byte_lengths(tokenizer: Tokenizer) -> list[int]:
    """UTF-8 bytes of each id, (V,): what bits per byte divides by."""
    return [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]


def start_ids(tokenizer: Tokenizer, *, knows_separator: bool) -> list[int]:
    """What an empty prompt starts from: the separator, or a line break if the model never saw a separator."""
    if knows_separator:
        return [tokenizer.separator]
    try:
        return tokenizer.encode("\n")
    except DataError:  # an alphabet without a line break
        return [0]


class GPT2Tokenizer:
    """GPT-2's byte-level BPE: 50,257 ids, made by tiktoken from the verified merges."""

    name = "gpt2"

    def __init__(self, merges: str) -> None:
        self.merges = merges
        ranks = gpt2_ranks(merges)
        self.separator = len(ranks)  # <|endoftext|>, 50256
        self.vocab_size = len(ranks) + 1
        # No special tokens are given to tiktoken, so that no text can ever become one.
        self.encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a lone surrogate becomes the replacement character."""
        return self.encoding.encode_ordinary(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id."""
        return b"" if token == self.separator else self.encoding.decode_single_token_bytes(token)

    def to_dict(self) -> dict[str, Any]:
        """The merges, as they are in the vocabulary file."""
        return {"kind": self.name, "merges": self.merges}


class ByteTokenizer:
    """Every byte is an id, 256 is the separator: no file, no unknown character."""

    name = "byte"
    vocab_size = 257
    separator = 256

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of a text."""
        return list(text.encode("utf-8", errors="replace"))

    def token_bytes(self, token: int) -> bytes:
        """The byte itself."""
        return b"" if token == self.separator else bytes([token])

    def to_dict(self) -> dict[str, Any]:
        """Nothing but the kind."""
        return {"kind": self.name}


class CharTokenizer:
    """Every character of the training file is an id, in code point order; one more is the separator."""

    name = "char"

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet
        self.ids = {c: i for i, c in enumerate(alphabet)}
        self.separator = len(alphabet)
        self.vocab_size = len(alphabet) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises DataError for a character the alphabet lacks."""
        try:
            return [self.ids[c] for c in text]
        except KeyError as error:
            c = error.args[0]
            raise DataError(
                f"character {c!r} (U+{ord(c):04X}) is not in the alphabet of {len(self.alphabet)} characters this "
                "tokenizer was made from; leave it out, or train with --tokenizer gpt2 or byte"
            ) from None

    def token_bytes(self, token: int) -> bytes:
        """The character in UTF-8."""
        return b"" if token == self.separator else self.alphabet[token].encode("utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The alphabet."""
        return {"kind": self.name, "alphabet": self.alphabet}


def make_tokenizer(name: str, alphabet: str, *, offline: bool = False) -> Tokenizer:
    """The tokenizer called `name`, for a text with this alphabet.

    Raises:
        ConfigError: there is no tokenizer of that name.
        DataError: GPT-2's vocabulary is not here and cannot be downloaded.
    """
    if name == "gpt2":
        also = [tiktoken_cache_dir() / hashlib.sha1(GPT2_VOCABULARY.url.encode(), usedforsecurity=False).hexdigest()]
        path = find_or_fetch(GPT2_VOCABULARY, offline=offline, also=also)
        return GPT2Tokenizer(path.read_text(encoding="utf-8"))
    if name == "byte":
        return ByteTokenizer()
    if name == "char":
        return CharTokenizer(alphabet)
    raise ConfigError(
        f"there is no tokenizer {name!r}{did_you_mean(name, NAMES)} The tokenizers are {', '.join(NAMES)}"
    )


def tokenizer_from_dict(values: dict[str, Any]) -> Tokenizer:
    """The inverse of `to_dict`. Raises CheckpointError for a kind this version does not know."""
    makers: dict[str, Callable[[], Tokenizer]] = {
        "gpt2": lambda: GPT2Tokenizer(values["merges"]),
        "byte": ByteTokenizer,
        "char": lambda: CharTokenizer(values["alphabet"]),
    }
    kind = values.get("kind")
    if kind not in makers:
        raise CheckpointError(
            f"the model file has a tokenizer of kind {kind!r}; this light-llm knows {', '.join(makers)}; "
            "load it with the version that wrote it"
        )
    return makers[kind]()


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's plain form, the same on every machine."""
    plain = json.dumps(tokenizer.to_dict(), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def gpt2_ranks(merges: str) -> dict[bytes, int]:
    """GPT-2's ids from its merges: the 256 bytes first, then one id for each merge, in order.

    The vocabulary file writes bytes as visible characters: a printable byte of Latin-1 stands for itself, the others
    are numbered from U+0100 in byte order. The same order gives the bytes their ids.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in set(printable)]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}
    ranks = {bytes([b]): i for i, b in enumerate([*printable, *hidden])}
    for line in merges.split("\n")[1:]:  # the first line is a version
        if line:
            first, second = line.split(" ")
            ranks[bytes(byte_of[c] for c in first + second)] = len(ranks)
    return ranks
