"""Texts to ids and back. A tokenizer is plain data: it travels inside the checkpoint, and has a hash."""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from ..config import repr_short
from ..errors import CheckpointError, ConfigError, DataError, did_you_mean
from ..json_io import load_json
from ..runtime import tiktoken_cache_dir
from .bpe import GPT2Tokenizer, from_plain, train_bpe
from .fetch import KnownFile, find_or_fetch
from .pieces import Say, silent
from .tokenizer_json import from_tokenizer_json

GPT2_VOCABULARY = KnownFile(
    name="gpt2/vocab.bpe",
    url="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    size=456_318,
)
NAMES = ("gpt2", "bpe", "char", "byte")
BPE_SIZE = 4096  # ids of a trained vocabulary, unless another size is named


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
    """Every character of the training file is an id, in code point order; one more is the separator.

    Raises:
        ConfigError: half a surrogate pair, or a character that is there twice.
    """

    name = "char"

    def __init__(self, alphabet: str) -> None:
        if half := next((c for c in alphabet if "\ud800" <= c <= "\udfff"), None):
            raise ConfigError(f"{half!r} is half a surrogate pair and no character; leave it out")
        if len(set(alphabet)) != len(alphabet):
            raise ConfigError("a character is in the alphabet twice; train another tokenizer")
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


def make_tokenizer(
    spec: str,
    alphabet: str = "",
    texts: Callable[[], Iterable[str]] = tuple,
    *,
    offline: bool = False,
    say: Say = silent,
) -> Tokenizer:
    """The tokenizer that `--tokenizer spec` asks for.

    Args:
        spec: gpt2, bpe (4,096 ids or as many as the text gives), bpe:N (exactly N), char, byte, or the path of a
            `tokenizer.json`.
        alphabet: every character of the text.
        texts: gives the training split, for bpe to learn from; called only then.
        offline: download nothing.
        say: called with a line for each damaged file that was passed over.

    Raises:
        ConfigError: no such tokenizer, a size the text does not give, or a file that cannot be used.
        DataError: GPT-2's vocabulary is not here and cannot be downloaded.
    """
    kind, colon, size = spec.partition(":")
    if spec == "gpt2":
        also = [tiktoken_cache_dir() / hashlib.sha1(GPT2_VOCABULARY.url.encode(), usedforsecurity=False).hexdigest()]
        path = find_or_fetch(GPT2_VOCABULARY, offline=offline, also=also, say=say)
        return GPT2Tokenizer(path.read_text(encoding="utf-8"))
    if spec == "byte":
        return ByteTokenizer()
    if spec == "char":
        return CharTokenizer(alphabet)
    if kind == "bpe":
        return _trained(texts, size) if colon else train_bpe(texts(), BPE_SIZE)
    if spec.endswith(".json"):
        return _from_file(Path(spec))
    raise ConfigError(
        f"there is no tokenizer {spec!r}{did_you_mean(kind, NAMES)} The tokenizers are {', '.join(NAMES)}, "
        "bpe:N for another size, or the path of a tokenizer.json"
    )


def _trained(texts: Callable[[], Iterable[str]], size: str) -> Tokenizer:
    if not size.isdecimal():
        raise ConfigError(f"bpe:{size} cannot be read; write the number of ids after the colon, as in bpe:{BPE_SIZE}")
    tokenizer = train_bpe(texts(), int(size))
    if tokenizer.vocab_size < int(size):
        raise ConfigError(
            f"bpe:{size} is more than this text gives: its {tokenizer.vocab_size:,} ids join all that occurs twice; "
            f"use bpe:{tokenizer.vocab_size} or less, or bpe, or a longer text"
        )
    return tokenizer


def _from_file(path: Path) -> Tokenizer:
    try:
        return from_tokenizer_json(load_json(path), str(path))
    except OSError as error:
        reason = error.strerror or str(error)
    except (json.JSONDecodeError, UnicodeDecodeError):
        reason = "it is not JSON"
    except ValueError as error:
        reason = str(error)
    raise ConfigError(f"the tokenizer {path} cannot be read: {reason}; make one with: light-llm tokenizer train")


def tokenizer_from_dict(values: dict[str, Any]) -> Tokenizer:
    """The inverse of `to_dict`. Raises CheckpointError for a kind this version does not know, or a damaged table."""
    makers: dict[str, Callable[[], Tokenizer]] = {
        "gpt2": lambda: GPT2Tokenizer(values["merges"]),
        "bpe": lambda: from_plain(values["tokens"], values["separator"]),
        "byte": ByteTokenizer,
        "char": lambda: CharTokenizer("".join(values["alphabet"])),
    }
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in makers:
        raise CheckpointError(
            f"the model file has a tokenizer of kind {repr_short(kind)}; this light-llm knows {', '.join(makers)}; "
            "load it with the version that wrote it"
        )
    try:
        return makers[kind]()
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"the model file has a damaged tokenizer of kind {kind!r}: {error}") from None


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's plain form, the same on every machine."""
    plain = json.dumps(tokenizer.to_dict(), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()
