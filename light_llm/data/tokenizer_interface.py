"""The interface of tokenizers, and the operations that need nothing else: decoding, byte lengths, an empty prompt."""

import codecs
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ..config import as_plain, repr_short
from ..errors import ConfigError, DataError

Ids = NDArray[np.int32]


class Tokenizer(Protocol):
    """The interface of a tokenizer. The id `separator` is written between documents and nowhere else."""

    name: str
    vocab_size: int
    separator: int
    # Ids that the model's own tokenizer puts before and after each text, such as BOS; none in ours.
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    # True: the ids of a text are those of its parts, where it is cut between a word and a space or line break.
    cuts_at_words: bool = True
    # True: a text's bytes cannot be told from its ids, and are stored beside them; see `encode_batch_aligned`.
    needs_byte_counts: bool = False

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids at which generation stops."""
        return (self.separator,)

    @property
    def document_break(self) -> list[int]:
        """The ids between two documents: the suffix of the first, the separator, the prefix of the second."""
        ends = [i for i in self.suffix if i != self.separator]
        starts = self.prefix[1:] if self.prefix[:1] == (self.separator,) else self.prefix
        return [*ends, self.separator, *starts]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. No text is special: `<|endoftext|>` is thirteen characters."""
        ...

    def encode_batch(self, chunks: Sequence[str | None]) -> Ids:
        """Return the ids of texts one after the other, with `document_break` for each None: (n,)."""
        ids = [self.document_break if chunk is None else self.encode(chunk) for chunk in chunks]
        return np.concatenate(ids, dtype=np.int32, casting="unsafe")

    def encode_aligned(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of a text, and for each the number of UTF-8 bytes of the text that it stands for.

        They sum to the bytes of the text, with a lone surrogate counted as the replacement character; both are empty
        for a text without ids.
        """
        ids = self.encode(text)
        return ids, [len(self.token_bytes(i)) for i in ids]

    def encode_batch_aligned(self, chunks: Sequence[str | None]) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids of `encode_batch`, and the bytes of the texts that each stands for: both (n,).

        The bytes of a text without ids are those of the document break after it, or else of the id before.
        """
        ids = [np.zeros(0, np.int64)]
        n_bytes = [np.zeros(0, np.int64)]
        pending = 0
        for chunk in chunks:
            if chunk is None:
                new = np.array(self.document_break)
                counts = np.zeros(len(new), np.int64)
            else:
                new, counts = self.encode_aligned_arrays(chunk)
            if len(new):
                counts[0] += pending
            pending = 0 if len(new) or not chunk else pending + len(chunk.encode("utf-8", errors="replace"))
            ids.append(new)
            n_bytes.append(counts)
        all_bytes = np.concatenate(n_bytes)
        all_bytes[-1:] += pending
        return np.concatenate(ids, dtype=np.int32, casting="unsafe"), all_bytes

    def encode_aligned_arrays(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `encode_aligned` as arrays, for long texts: both (n,)."""
        ids, n_bytes = self.encode_aligned(text)
        return np.array(ids, dtype=np.int64), np.array(n_bytes, dtype=np.int64)

    def decode(self, ids: Iterable[SupportsIndex] | SupportsIndex) -> str:
        """Return the text of ids: a list, an array, a tensor of one dimension, or one id.

        Bytes that are no complete character become U+FFFD, and the separator has no text.

        Raises:
            DataError: an id outside the vocabulary, or several rows of ids.
        """
        return b"".join(map(self.token_bytes, plain_ids(ids, self.vocab_size))).decode("utf-8", "replace")

    def stream(self, after: Sequence[int] = ()) -> "TextStream":
        """Return a decoder that takes ids one at a time. The ids `after` stand before the first."""
        return StreamingDecoder(self)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one id; none for the separator."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain values from which `tokenizer_from_dict` builds the same tokenizer."""
        ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size:,} ids)"


def decode(tokenizer: Tokenizer, ids: Iterable[SupportsIndex] | SupportsIndex) -> str:
    """Return the text of ids; see `Tokenizer.decode`."""
    return tokenizer.decode(ids)


def check_text(text: object) -> None:
    """Raise ConfigError for a value that is not a string."""
    if not isinstance(text, str):
        advice = ""
        if isinstance(text, (list, tuple)):
            advice = "; give one text at a time"
        elif isinstance(text, (bytes, bytearray)):
            advice = '; decode it first, as with .decode("utf-8")'
        raise ConfigError(f"{repr_short(text)} has the type {type(text).__name__} and is not a text (str){advice}")


def plain_ids(ids: Any, vocab_size: int) -> list[int]:
    """Return ids as Python's integers. Raises DataError for one outside the vocabulary, or for several rows."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        plain: list[Any] = [ids] if isinstance(ids, numbers.Integral) else [as_plain(i) for i in ids]
    except TypeError:
        raise DataError(f"{repr_short(ids)} has no token ids; decode takes a list, an array or a tensor") from None
    for i in plain:
        if hasattr(i, "__len__") and not isinstance(i, str):
            raise DataError("decode takes the ids of one text; decode the rows of a batch one by one")
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < vocab_size:
            raise DataError(f"{repr_short(i)} is not a token id; this tokenizer has the ids 0 ... {vocab_size - 1}")
    return plain


def replace_surrogates(text: str) -> str:
    """Return a text with lone surrogates, which have no UTF-8, as replacement characters."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class TextStream(Protocol):
    """Decodes ids one at a time. No piece ends inside a character, and the pieces joined are the decoded text."""

    def push(self, token: int) -> str:
        """Return the text that this id completes, possibly none."""
        ...

    def close(self) -> str:
        """Return the text that was held back, after the last id."""
        ...


class StreamingDecoder(TextStream):
    """Decodes ids whose bytes joined are the text; a character of several bytes appears once it is complete.

    >>> from light_llm.data.tokenizers import ByteTokenizer
    >>> stream = StreamingDecoder(ByteTokenizer())
    >>> [stream.push(byte) for byte in "é!".encode()], stream.close()
    (['', 'é', '!'], '')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the text that this id completes, possibly none."""
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def close(self) -> str:
        """Return the replacement character if the last character is incomplete."""
        return self.decoder.decode(b"", final=True)


def byte_lengths(tokenizer: Tokenizer) -> list[int]:
    """Return the number of UTF-8 bytes of each id, (V,), for bits per byte."""
    return [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]


def start_ids(tokenizer: Tokenizer, *, knows_separator: bool) -> list[int]:
    """Return the ids of an empty prompt.

    They are what the model's tokenizer puts before each text; or the separator; or a line break if the model never saw
    a separator.
    """
    if tokenizer.prefix:
        return list(tokenizer.prefix)
    if knows_separator:
        return [tokenizer.separator]
    try:
        return tokenizer.encode("\n")
    except DataError:  # an alphabet without a line break
        return [0]
