"""Byte-level byte-pair encoding (Sennrich et al., 2016; over bytes as in Radford et al., 2019).

A pattern splits a text into words, and each word is split into its bytes. Then the neighbours whose merge has the
smallest id are merged, repeatedly, until no merge is in the table. The table of tokens, in id order, is therefore the
complete tokenizer. The `tokenizers` library trains it, and tiktoken applies it, which is many times as fast.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import tiktoken

from ..config import repr_short
from ..errors import ConfigError
from .text_stream import split_at_word_boundaries
from .tokenizer_interface import Ids, Tokenizer, check_text

# GPT-2's pre-tokenizer (Radford et al., 2019): contractions, words, numbers, signs, white space. The possessive `++`
# never backtracks; that changes no match here and keeps a million equal characters harmless.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"""
SEPARATOR = "<|endoftext|>"  # name of the separator in files of other programs; in a text it is ordinary characters
_DOCUMENT_MARK = (
    "<|next-document|>\0"  # marks breaks for tiktoken; no proper suffix is also a prefix, so two marks cannot overlap
)
NO_BYTES = b""  # the bytes of special ids, such as the separator
MAX_IDS = 1 << 20  # in a vocabulary file; the largest in use have a quarter of that
MAX_ENCODE_CHARS = 1 << 18  # given to tiktoken at once; a million spaces would crash the process
MAX_WORD_CHARS = 1000  # characters of a word in training; encoding has no limit
_BLANK = re.compile(rf"\s{{{MAX_WORD_CHARS}}}")
_LONG_WORD = re.compile(rf"[^\W_]{{{MAX_WORD_CHARS}}}|(?:[^\w\s]|_){{{MAX_WORD_CHARS}}}|\s{{{MAX_WORD_CHARS}}}")
MIN_VOCAB_SIZE = 257  # the 256 bytes and the separator


class BytePairTokenizer(Tokenizer):
    """A tokenizer defined by a table of byte strings, one per id, that contains all 256 single bytes.

    Args:
        tokens: the bytes of each id, smaller ids merged first; empty for special ids, which no text produces.
        separator: the id between documents.

    Raises:
        ConfigError: a byte is missing, a token is repeated, or the separator is not a special id.
    """

    name = "bpe"

    def __init__(self, tokens: Sequence[bytes], separator: int) -> None:
        # tiktoken merges by rank, and the rank of a token is its id.
        ranks = {token: i for i, token in enumerate(tokens) if token}
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing:
            raise ConfigError(f"byte 0x{missing[0]:02x} is not a token, so not every text has ids; train another")
        if repeated := len(tokens) - len(ranks) - tokens.count(NO_BYTES):
            raise ConfigError(f"{repeated} tokens occur twice; train another tokenizer")
        if type(separator) is not int or not 0 <= separator < len(tokens) or tokens[separator] != NO_BYTES:
            raise ConfigError(f"the separator {repr_short(separator)} is not the id of a special token; train another")
        self.tokens, self.separator, self.vocab_size = tokens, separator, len(tokens)
        self._ranks = ranks
        # tiktoken gets no special tokens, so that no text can become one.
        self.encoding = tiktoken.Encoding(self.name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; a lone surrogate becomes the replacement character."""
        check_text(text)
        # Cut long texts where GPT-2's pattern splits anyway, which gives the same ids.
        if len(text) <= MAX_ENCODE_CHARS:
            return self.encoding.encode_ordinary(text)
        slices = (text[start : start + MAX_ENCODE_CHARS] for start in range(0, len(text), MAX_ENCODE_CHARS))
        return [i for part in split_at_word_boundaries(slices) for i in self.encoding.encode_ordinary(part or "")]

    def encode_batch(self, chunks: Sequence[str | None]) -> Ids:
        """Return the ids of texts one after the other, with the separator for each None: (n,)."""
        # One call, because other threads run only while tiktoken works. An array, because building a list of Python
        # integers takes as long as the encoding itself.
        marked = "".join(_DOCUMENT_MARK if chunk is None else chunk for chunk in chunks)
        if marked.count(_DOCUMENT_MARK) == chunks.count(None):
            with suppress(UnicodeEncodeError):  # a lone surrogate
                return self._encoding_with_mark.encode_to_numpy(marked, allowed_special="all").astype(np.int32)
        ids = [[self.separator] if chunk is None else self.encode(chunk) for chunk in chunks]
        return np.concatenate(ids, dtype=np.int32, casting="unsafe")

    @cached_property
    def _encoding_with_mark(self) -> tiktoken.Encoding:
        """The same table, with a mark that becomes the separator."""
        special = {_DOCUMENT_MARK: self.separator}
        return tiktoken.Encoding(self.name, pat_str=GPT2_PATTERN, mergeable_ranks=self._ranks, special_tokens=special)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id."""
        return self.tokens[token]

    def to_dict(self) -> dict[str, Any]:
        """Return the table, with bytes written as visible characters and None for special ids."""
        char_of = bytes_to_unicode()
        tokens = ["".join(char_of[b] for b in token) or None for token in self.tokens]
        return {"kind": self.name, "tokens": tokens, "separator": self.separator}


class GPT2Tokenizer(BytePairTokenizer):
    """GPT-2's table of 50,257 ids, built from its merges file."""

    name = "gpt2"

    def __init__(self, merges: str) -> None:
        self.merges = merges
        # The 256 bytes first, then one token for each merge, in order. The first line is a version.
        merged = unicode_to_bytes(line.replace(" ", "") for line in merges.split("\n")[1:] if line)
        tokens = [*(bytes([b]) for b in bytes_to_unicode()), *merged, NO_BYTES]
        super().__init__(tokens, separator=len(tokens) - 1)  # 50256

    def to_dict(self) -> dict[str, Any]:
        """Return the merges as they are in the vocabulary file."""
        return {"kind": self.name, "merges": self.merges}


def _split_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Cut texts after 1,000 consecutive letters, signs or spaces: training takes O(n^2) time for a word of n."""
    for text in texts:
        start = 0
        if _BLANK.search(text) or max(map(len, text.split()), default=0) >= MAX_WORD_CHARS:
            for run in _LONG_WORD.finditer(text):
                yield text[start : run.end()]
                start = run.end()
        yield text[start:]


def train_bpe(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Train a table on texts: merge the most frequent pair of neighbours, repeatedly.

    A pair that occurs only once is not merged, so a small text may give fewer ids than vocab_size, which includes the
    256 bytes and the separator.

    Raises:
        ConfigError: vocab_size below 257 or above MAX_IDS.
    """
    # The trainer reserves memory for all ids, and aborts the process if it gets none.
    if vocab_size > MAX_IDS:
        raise ConfigError(f"a vocabulary of {vocab_size:,} ids cannot be trained; use at most {MAX_IDS:,}")
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"a vocabulary of {vocab_size} ids cannot be trained: the 256 bytes and the separator are "
            f"{MIN_VOCAB_SIZE}; {{--tokenizer byte}} has just those"
        )
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    # All 256 bytes are in the initial alphabet, sorted so that their ids do not depend on the text.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    _run_interruptible(lambda words: bpe.train_from_iterator(words, trainer), _split_long_words(texts))
    by_id = sorted(bpe.get_vocab().items(), key=lambda item: item[1])
    return BytePairTokenizer([*unicode_to_bytes(token for token, _ in by_id), NO_BYTES], separator=len(by_id))


def _run_interruptible(train: Callable[[Iterator[str]], object], texts: Iterable[str]) -> None:
    """Call `train` in a daemon thread, because `tokenizers` ignores Ctrl-C while it trains.

    Raises:
        KeyboardInterrupt: the thread may still run; it gets no more texts.
    """
    done, cancelled, errors = threading.Event(), threading.Event(), list[BaseException]()

    def texts_until_cancelled() -> Iterator[str]:
        for text in texts:
            if cancelled.is_set():
                return
            yield text

    def work() -> None:
        try:
            train(texts_until_cancelled())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="learning", daemon=True).start()
    try:
        while not done.wait(0.1):  # on Windows Ctrl-C does not interrupt a wait without a timeout
            pass
    except BaseException:
        cancelled.set()
        done.wait(1.0)
        raise
    if errors:
        raise errors[0]


def bytes_to_unicode() -> dict[int, str]:
    """Map each byte to its character in vocabulary files, in the order of GPT-2's ids.

    A printable byte of Latin-1 maps to itself, the others to U+0100 and up, in byte order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = sorted(set(range(256)) - set(printable))
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def unicode_to_bytes(tokens: Iterable[str]) -> list[bytes]:
    """Return the bytes of tokens written with `bytes_to_unicode`. Raises KeyError for any other character.

    >>> unicode_to_bytes(["Ġthe", "é"])
    [b' the', b'\\xe9']
    """
    byte_of = {c: b for b, c in bytes_to_unicode().items()}
    return [bytes(byte_of[c] for c in token) for token in tokens]
