"""Tokenizers: text to ids and back. A tokenizer is plain data, saved inside the checkpoint and identified by a hash."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..config import repr_short
from ..errors import CheckpointError, ConfigError, DataError, did_you_mean
from ..json_io import TOKENIZER, read_bounded
from ..runtime import expand_path, tiktoken_cache_dir
from .bpe import BytePairTokenizer, GPT2Tokenizer, train_bpe, unicode_to_bytes
from .download import PinnedFile, ensure_file
from .text_stream import LogFn, no_log
from .tokenizer_interface import StreamingDecoder as StreamingDecoder
from .tokenizer_interface import Tokenizer as Tokenizer
from .tokenizer_interface import byte_lengths as byte_lengths
from .tokenizer_interface import check_text
from .tokenizer_interface import decode as decode
from .tokenizer_interface import start_ids as start_ids

GPT2_VOCABULARY = PinnedFile(
    name="gpt2/vocab.bpe",
    url="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    size=456_318,
    instead="use {--tokenizer bpe}, which is trained on your text",
)
NAMES = ("gpt2", "bpe", "char", "byte")
BPE_SIZE = 4096  # ids


class ByteTokenizer(Tokenizer):
    """Bytes as ids, and 256 as the separator: needs no file and knows every character."""

    name = "byte"
    vocab_size = 257
    separator = 256

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return list(text.encode("utf-8", errors="replace"))

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.separator else bytes([token])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.name}


class CharTokenizer(Tokenizer):
    """Characters of the training text as ids, in code point order, and one more id as the separator.

    Raises:
        ConfigError: half a surrogate pair, or a repeated character.
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
        """Return the ids of a text. Raises DataError for a character outside the alphabet."""
        check_text(text)
        try:
            return [self.ids[c] for c in text]
        except KeyError as error:
            c = error.args[0]
            raise DataError(
                f"character {c!r} (U+{ord(c):04X}) is not in the alphabet of {len(self.alphabet)} characters this "
                f"tokenizer was made from; leave it out, or train with {{--tokenizer byte}} or gpt2"
            ) from None

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.separator else self.alphabet[token].encode("utf-8")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.name, "alphabet": self.alphabet}


def make_tokenizer(
    spec: str,
    alphabet: str = "",
    texts: Callable[[], Iterable[str]] = tuple,
    *,
    offline: bool = False,
    log: LogFn = no_log,
) -> Tokenizer:
    """Make the tokenizer that a spec names.

    Args:
        spec: gpt2, bpe (4,096 ids, or fewer if the text is small), bpe:N (exactly N), char, byte, or the path of a
            `tokenizer.json`.
        alphabet: every character of the text, for char.
        texts: returns the training split, for bpe; not called for others.
        offline: download nothing.
        log: called with a message for each damaged file that was skipped.

    Raises:
        ConfigError: an unknown tokenizer, a size that the text is too small for, or an unusable file.
        DataError: GPT-2's vocabulary is not on this machine and cannot be downloaded.
    """
    kind, colon, size = spec.partition(":")
    if spec == "gpt2":
        # tiktoken caches the same file under the SHA-1 of its URL.
        url_hash = hashlib.sha1(GPT2_VOCABULARY.url.encode(), usedforsecurity=False).hexdigest()
        path = ensure_file(GPT2_VOCABULARY, offline=offline, extra_paths=[tiktoken_cache_dir() / url_hash], log=log)
        return GPT2Tokenizer(path.read_text(encoding="utf-8"))
    if spec == "byte":
        return ByteTokenizer()
    if spec == "char":
        return CharTokenizer(alphabet)
    if kind == "bpe":
        return _train_exact_size(texts, size) if colon else train_bpe(texts(), BPE_SIZE)
    if spec.endswith(".json"):
        return _load_tokenizer_json(expand_path(spec))
    raise ConfigError(
        f"there is no tokenizer {spec!r}{did_you_mean(kind, NAMES)} The tokenizers are {', '.join(NAMES)}, "
        "bpe:N for another size, or the path of a tokenizer.json"
    )


def _train_exact_size(texts: Callable[[], Iterable[str]], size: str) -> Tokenizer:
    if not size.isdecimal():
        raise ConfigError(f"bpe:{size} cannot be read; write the number of ids after the colon, as in bpe:{BPE_SIZE}")
    tokenizer = train_bpe(texts(), int(size))
    # bpe:N is an exact size, for example that of another model's embedding table, so fewer ids are an error.
    if tokenizer.vocab_size < int(size):
        raise ConfigError(
            f"bpe:{size} is more than this text gives: after {tokenizer.vocab_size:,} ids no pair occurs twice; "
            f"use bpe:{tokenizer.vocab_size} or less, or bpe, or a longer text"
        )
    return tokenizer


def _load_tokenizer_json(path: Path) -> Tokenizer:
    """Return the tokenizer of any file that the `tokenizers` library can use. Raises ConfigError."""
    from .tokenizer_file import read_tokenizer_json

    try:
        return read_tokenizer_json(read_bounded(path, TOKENIZER), f"the tokenizer {path}")
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
    except ValueError as error:
        reason = f"it cannot be read: {error}"
    except ConfigError as error:
        reason = error.message.removeprefix(f"the tokenizer {path} cannot be used: ")
    raise ConfigError(f"the tokenizer {path} cannot be used: {reason}; make one with: light-llm tokenizer train")


def tokenizer_from_dict(values: dict[str, Any], files: Mapping[str, bytes] = MappingProxyType({})) -> Tokenizer:
    """Build a tokenizer from the values of `to_dict`.

    Args:
        files: the files that travel with a model, by name; a tokenizer of kind hf is its `tokenizer.json`.

    Raises:
        CheckpointError: an unknown kind, damaged values, or a file that is missing or another one.
    """

    def published() -> Tokenizer:
        from .hf_tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer.from_dict(values, files)

    builders: dict[str, Callable[[], Tokenizer]] = {
        "gpt2": lambda: GPT2Tokenizer(values["merges"]),
        "bpe": lambda: BytePairTokenizer(unicode_to_bytes(t or "" for t in values["tokens"]), values["separator"]),
        "byte": ByteTokenizer,
        "char": lambda: CharTokenizer("".join(values["alphabet"])),
        "hf": published,
    }
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in builders:
        raise CheckpointError(
            f"the model file has a tokenizer of kind {repr_short(kind)}; this light-llm knows {', '.join(builders)}; "
            "load it with the version that wrote it"
        )
    try:
        return builders[kind]()
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"the model file has a damaged tokenizer of kind {kind!r}: {error}") from None


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of the tokenizer's plain values, the same on every machine."""
    return hashlib.sha256(json.dumps(tokenizer.to_dict(), sort_keys=True).encode()).hexdigest()
