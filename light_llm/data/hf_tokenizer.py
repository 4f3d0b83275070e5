"""The tokenizer of a published model: a `tokenizer.json`, unchanged and run by the `tokenizers` library.

The bytes of the file are the tokenizer: they are kept unchanged, and their SHA-256 is part of its plain values. Three
settings differ from a plain load: truncation, padding and dropout of the file are ignored, as they are for training
only; the post-processor's ids are the attributes `prefix` and `suffix`, and `encode` does not add them; and the names
of special tokens are ordinary text wherever they stand, so that no text can contain a control token.
"""

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from ..config import repr_short
from ..errors import ConfigError, DataError
from ..json_io import TOKENIZER
from .bpe import MAX_IDS, bytes_to_unicode
from .charsmap import check_charsmap
from .hf_decode import WindowStream, byte_of_token, decoder_types
from .hf_encode import Engine, LibraryEngine, encode_long, encode_with_ends, is_failure
from .hf_tiktoken import TiktokenEngine, find_encoding
from .tokenizer_interface import Ids, StreamingDecoder, TextStream, Tokenizer, check_text, plain_ids, replace_surrogates

_BYTE_OF = {char: byte for byte, char in bytes_to_unicode().items()}
BLOCK_CHARS = 1 << 20  # whose bytes are counted at once
TIKTOKEN_CHARS = 1 << 24  # of text, which tiktoken encodes in the time that the proof takes


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a `tokenizer.json`.

    Args:
        data: the bytes of the file.
        separator: the id between documents; generation stops at it. One more than the last id of a file without a
            token for it.
        prefix, suffix: the ids that the model's own tokenizer puts before and after each text; see `added_ids`.
        stop_ids: further ids at which generation stops.
        control: ids of the vocabulary that are special, though the file does not have them in its added_tokens.
        vocab_size: leave out the special tokens from this id on, because the model has no row for them.
        library: of `load_library(data)`, to save reading the file again.

    Raises:
        ConfigError: the library cannot use the file, or an id is not one of its ids.
    """

    name = "hf"
    cuts_at_words = False

    def __init__(
        self,
        data: bytes,
        *,
        separator: int,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        stop_ids: Sequence[int] = (),
        control: Sequence[int] = (),
        vocab_size: int | None = None,
        library: Library | None = None,
    ) -> None:
        self.data = data
        self.library = library or load_library(data)
        self.library.post_processor = None  # its ids are prefix and suffix; it would also trim offsets
        n_ids = count_ids(self.library)
        own = self.library.get_vocab(with_added_tokens=False)
        if len({*own.values()}) < len(own):
            raise ConfigError("two tokens of its vocabulary have one id")
        self.control = tuple(control)
        add_control_tokens(self.library, self.control)
        added = self.library.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        # A file without an end-of-text token gets one more id.
        self.vocab_size = n_ids + (separator == n_ids)
        if vocab_size is not None and self.special_ids >= {*range(vocab_size, n_ids)}:
            self.vocab_size = vocab_size
        for i in (separator, *prefix, *suffix, *stop_ids):
            if type(i) is not int or not 0 <= i < self.vocab_size:
                raise ConfigError(f"{repr_short(i)} is not one of its {self.vocab_size:,} ids")
        self.separator, self.prefix, self.suffix = separator, tuple(prefix), tuple(suffix)
        self._stop_ids = tuple(dict.fromkeys((separator, *stop_ids)))
        self._is_shortened = self.vocab_size < n_ids
        self.decoder_types = decoder_types(self.library)
        self._encoder = LibraryEngine(_without_special_names(self.library, data, self.special_ids, self.control))
        self._chars_encoded, self._engine_lock = 0, threading.Lock()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids at which generation stops."""
        return self._stop_ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without prefix and suffix; a lone surrogate becomes the replacement character."""
        check_text(text)
        ids: list[int] = encode_long(self._encoder, replace_surrogates(text)).tolist()
        return ids

    def encode_batch(self, chunks: Sequence[str | None]) -> Ids:
        """Return the ids of texts one after the other; see `Tokenizer`. Large amounts of text go through tiktoken."""
        engine = self._engine_for(sum(len(chunk or "") for chunk in chunks))
        ids = [
            self.document_break if chunk is None else encode_long(engine, replace_surrogates(chunk)) for chunk in chunks
        ]
        return np.concatenate(ids, dtype=np.int32, casting="unsafe")

    def _engine_for(self, n_chars: int) -> Engine:
        """Return the engine for more text: tiktoken if the text so far is worth the proof that its ids are equal."""
        with self._engine_lock:
            self._chars_encoded += n_chars
            return (self._tiktoken if self._chars_encoded >= TIKTOKEN_CHARS else None) or self._encoder

    @cached_property
    def _tiktoken(self) -> Engine | None:
        """The faster engine; None if its ids are not proven equal."""
        encoding = None if self.needs_byte_counts else find_encoding(self._encoder.library, self.data)
        if encoding is None:
            return None
        return TiktokenEngine(encoding, self._encoder.library, lambda: list(map(len, self._bytes_of_ids)))

    def encode_aligned(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of a text, and the number of its UTF-8 bytes that each stands for; see `Tokenizer`."""
        ids, n_bytes = self.encode_aligned_arrays(text)
        return ids.tolist(), n_bytes.tolist()

    def encode_aligned_arrays(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `encode_aligned` as arrays: both (n,)."""
        check_text(text)
        text = replace_surrogates(text)
        ids, ends = encode_with_ends(self._encoder, text)
        return ids, _byte_counts(text, ends)

    def decode(self, ids: Iterable[SupportsIndex] | SupportsIndex) -> str:
        """Return the text of ids as the library does, without special tokens; see `Tokenizer.decode`."""
        return self.decode_plain(plain_ids(ids, self.vocab_size))

    def decode_plain(self, ids: Sequence[int]) -> str:
        """Return the text of ids that are known to be integers in the vocabulary."""
        return str(self.library.decode(ids, skip_special_tokens=True))

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """Return a decoder for ids that follow the ids `after`; see `Tokenizer.stream`."""
        return StreamingDecoder(self) if self.joins_bytes else WindowStream(self, after)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one id inside a text; none for a special token."""
        return self._bytes_of_ids[token]

    @property
    def joins_bytes(self) -> bool:
        """True if decoding means joining the bytes of the ids, as a byte-level decoder does."""
        return self.decoder_types == ("ByteLevel",)

    @cached_property
    def needs_byte_counts(self) -> bool:  # type: ignore[override]
        """False if each text is the bytes of its ids: a byte-level BPE that changes nothing and has all bytes."""
        level = _parts(self.library.pre_tokenizer, "pretokenizers")
        model = self.library.model
        added = self.library.get_added_tokens_decoder().items()
        is_lossless = (
            self.joins_bytes
            and self.library.normalizer is None
            and type(model).__name__ == "BPE"
            and not (model.unk_token or model.continuing_subword_prefix or model.end_of_word_suffix)
            and any(part["type"] == "ByteLevel" for part in level)
            and not any(part.get("add_prefix_space") or part.get("behavior") == "Removed" for part in level)
            and {part["type"] for part in level} <= {"ByteLevel", "Split", "Digits"}
            and all(self.library.token_to_id(char) is not None for char in _BYTE_OF)
            and all(t.special or self._find_bytes(i) == t.content.encode() for i, t in added)
            and not any(not t.special and (t.lstrip or t.rstrip) for _, t in added)
        )
        return not is_lossless

    @cached_property
    def _bytes_of_ids(self) -> list[bytes]:
        if self.joins_bytes:
            return [self._find_bytes(i) for i in range(self.vocab_size)]
        before, after = self.decode_plain(self._reference), [[*self._reference, i] for i in range(self.vocab_size)]
        texts = self.library.decode_batch(after, skip_special_tokens=True)
        return [self._find_bytes(i, before, text) for i, text in enumerate(texts)]

    @cached_property
    def _reference(self) -> list[int]:
        """An id whose text is a letter, if there is one: tokens are decoded after it, as they stand inside a text."""
        for letter in "aAx0.":
            try:
                ids = self.encode(letter)
            except DataError:  # unknown, and there is no unknown token
                continue
            if ids and self.decode_plain(ids[-1:]).strip():
                return ids[-1:]
        return []

    def _find_bytes(self, token: int, before: str = "", both: str = "") -> bytes:
        """Return the bytes of an id, from the text of a reference and of both, where no single id has a text."""
        text = self.library.id_to_token(token)
        if text is None or token in self.special_ids:
            return b""
        if self.joins_bytes:
            try:
                return bytes(map(_BYTE_OF.__getitem__, text))
            except KeyError:  # an added token with other characters, which the decoder writes as they are
                return str(text).encode()
        if "ByteFallback" in self.decoder_types and (byte := byte_of_token(text)) is not None:
            return bytes([byte])
        return (both[len(before) :] if both.startswith(before) else self.decode_plain([token])).encode()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; the file itself travels beside them as `tokenizer.json`."""
        values = {"kind": self.name, "sha256": hashlib.sha256(self.data).hexdigest(), "separator": self.separator}
        values |= {"prefix": list(self.prefix), "suffix": list(self.suffix)}
        values |= {"stop_ids": list(self._stop_ids)} if len(self._stop_ids) > 1 else {}
        values |= {"control": list(self.control)} if self.control else {}
        return values | ({"vocab_size": self.vocab_size} if self._is_shortened else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, bytes]) -> "HuggingFaceTokenizer":
        """Build the tokenizer from `to_dict` and its file. Raises ConfigError if the file is missing or another one."""
        data = files.get("tokenizer.json")
        if data is None:
            raise ConfigError("its tokenizer.json is missing")
        data = bytes(data)
        if hashlib.sha256(data).hexdigest() != values["sha256"]:
            raise ConfigError("its tokenizer.json is not the one that was saved with it (its SHA-256 differs)")
        return cls(
            data,
            separator=values["separator"],
            prefix=values["prefix"],
            suffix=values["suffix"],
            stop_ids=values.get("stop_ids", ()),
            control=values.get("control", ()),
            vocab_size=values.get("vocab_size"),
        )


def load_library(data: bytes) -> Library:
    """Return the library's tokenizer of a file, without truncation, padding and dropout; no text is special.

    Raises ConfigError if the library cannot read it.
    """
    if len(data) > TOKENIZER.bytes:
        raise ConfigError(f"it has {len(data):,} bytes; at most {TOKENIZER.bytes:,} can be read")
    if (n := data.count(b"{") + data.count(b"[")) > TOKENIZER.brackets:
        raise ConfigError(f"it has {n:,} brackets; at most {TOKENIZER.brackets:,} can be read")
    try:
        library = Library.from_buffer(data)
    except BaseException as error:
        if not is_failure(error):
            raise
        reason = str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ")[:200]
        raise ConfigError(f"the tokenizers library cannot use it ({reason})") from None
    for part in _parts(library.normalizer, "normalizers"):
        _check_normalizer(part)
    library.no_truncation()
    library.no_padding()
    if getattr(library.model, "dropout", None):
        library.model.dropout = None
    library.encode_special_tokens = True
    return library


def _check_normalizer(part: Mapping[str, Any]) -> None:
    """Raise ConfigError for damaged compiled replacements, in a normalizer or one of its parts."""
    for inner in part.get("normalizers", []):
        _check_normalizer(inner)
    if part["type"] == "Precompiled":
        try:
            check_charsmap(base64.b64decode(part["precompiled_charsmap"] or ""))
        except ValueError as error:
            raise ConfigError(f"the Precompiled normalizer is damaged: {error}") from None


def count_ids(library: Library) -> int:
    """Return one more than the last id. Raises ConfigError if there are more than MAX_IDS."""
    n_ids: int = 1 + max(library.get_vocab(with_added_tokens=True).values(), default=-1)
    if n_ids > MAX_IDS:
        raise ConfigError(f"it has the id {n_ids - 1:,}; at most {MAX_IDS - 1:,} can be used")
    return n_ids


def add_control_tokens(library: Library, ids: Sequence[int]) -> None:
    """Make ids of the vocabulary special tokens. Raises ConfigError for an id that it does not have."""
    for i in ids:
        name = library.id_to_token(i) if type(i) is int and 0 <= i < MAX_IDS else None
        if name is None:
            raise ConfigError(f"{repr_short(i)} is not one of its ids")
        library.add_special_tokens([AddedToken(name, normalized=False, special=True)])


def added_ids(library: Library) -> tuple[list[int], list[int]]:
    """Return the ids that the post-processor of a tokenizer puts before and after each text. Raises ConfigError."""
    reason = "its post_processor does not only put ids before and after a text"
    # Words of its own are tried as well: a tokenizer without an unknown token may know no other text.
    for text in ("a", "A", "0", " ", *islice(library.get_vocab(with_added_tokens=False), 100)):
        try:
            plain = library.encode(text, add_special_tokens=False).ids
            whole = library.encode(text, add_special_tokens=True).ids
        except BaseException as error:
            if not is_failure(error):
                raise
            reason = f"the tokenizers library cannot encode {repr_short(text)} ({error})"
            if isinstance(error, Exception):
                continue
            break  # a panic, which also prints a long report
        # The text itself is the last place where its ids are, in case that it is unknown and a special id stands first.
        places = [i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain]
        if plain and len(places) == 1:
            return whole[: places[0]], whole[places[0] + len(plain) :]
    raise ConfigError(reason)


def _without_special_names(library: Library, data: bytes, special: frozenset[int], control: Sequence[int]) -> Library:
    """Return the library's tokenizer for encoding, in which no text gives the id of a special token.

    `encode_special_tokens` keeps the names of special tokens from being matched in a text. But a model that looks up
    whole pieces of a text finds those names in its own vocabulary; there they get secret names.
    """
    kind = type(library.model).__name__
    # Merges make the tokens of such a model, and none makes an added token.
    if kind == "BPE" and not library.model.ignore_merges and not control:
        return library
    values = json.loads(data)
    model = values["model"]
    names = {str(library.id_to_token(i)) for i in special}
    in_model = {entry[0] for entry in model["vocab"]} if isinstance(model["vocab"], list) else model["vocab"].keys()
    if not names & in_model:
        return library
    secret = secrets.token_hex(16)
    new = {name: f"\U0010ffff{secret}{i}" for i, name in enumerate(sorted(names))}
    if isinstance(model["vocab"], list):
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {new.get(piece, piece): i for piece, i in model["vocab"].items()}
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if not names & {*pair, "".join(pair)}]
    if "unk_token" in model:
        model["unk_token"] = new.get(model["unk_token"], model["unk_token"])
    for token in values.get("added_tokens") or []:
        token["content"] = new.get(token["content"], token["content"])
    values["post_processor"] = None
    return load_library(json.dumps(values).encode())


def _parts(part: Any, key: str) -> list[dict[str, Any]]:
    """Return the values of a part of a tokenizer, those of its parts if it is a sequence; empty without one."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return list(state[key]) if state["type"] == "Sequence" else [state]


def _byte_counts(text: str, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the UTF-8 bytes of a text that each token stands for, from the index of the character after each: (n,).

    A token has the characters up to its end that no earlier one has; the last one has the rest of the text. Where
    several tokens make up one character, its bytes are the first one's. The sum is exact, whatever a normalizer did.
    """
    if not len(ends):
        return np.zeros(0, np.int64)
    until = np.maximum.accumulate(np.append(ends[:-1], len(text)))
    return np.diff(_bytes_before(text, until), prepend=0)


def _bytes_before(text: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the UTF-8 bytes before some characters of a text, given in ascending order: (n,)."""
    if text.isascii():
        return places
    found, before = np.zeros_like(places), 0
    for start in range(0, len(text), BLOCK_CHARS):
        code = np.frombuffer(text[start : start + BLOCK_CHARS].encode("utf-32-le"), dtype="<u4")
        sizes = 1 + (code > 0x7F).astype(np.int64) + (code > 0x7FF) + (code > 0xFFFF)
        total = np.concatenate([[0], np.cumsum(sizes)])
        first, last = np.searchsorted(places, [start, start + len(code)], side="right")
        first = 0 if start == 0 else first
        found[first:last] = before + total[places[first:last] - start]
        before += int(total[-1])
    return found
