"""Byte-level byte-pair encoding (Sennrich et al., 2016; over bytes as in Radford et al., 2019).

A text is cut into words by a pattern, a word into its bytes; then the neighbours whose join has the smallest id are
joined, again and again, until no join is in the table. So the table of tokens, in id order, is the whole tokenizer. It
is learnt by the `tokenizers` library and applied by tiktoken, which is many times as fast.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from ..config import repr_short
from ..errors import ConfigError
from .pieces import at_safe_cuts

# How GPT-2 cuts a text before merging (Radford et al., 2019): contractions, words, numbers, signs, white space.
# `++` never gives back what it took, which changes no match here and keeps a million equal characters harmless.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"""
SEPARATOR = "<|endoftext|>"  # how files of other programs call the separator; in a text it is thirteen characters
_BETWEEN = "<|next-document|>\0"  # stands between documents on their way to tiktoken; no end of it is a beginning
NO_TEXT = b""  # the bytes of an id that no text gives: the separator and its like
MOST_IDS = 1 << 20  # of a vocabulary file; the largest in use have a quarter of that
LONGEST_TEXT = 1 << 18  # characters given to tiktoken at once; a million spaces would end the process
LONGEST_WORD = 1000  # characters of a word to learn from; to encode there is no limit
_BLANK = re.compile(rf"\s{{{LONGEST_WORD}}}")
_LONG_WORD = re.compile(rf"[^\W_]{{{LONGEST_WORD}}}|(?:[^\w\s]|_){{{LONGEST_WORD}}}|\s{{{LONGEST_WORD}}}")
SMALLEST = 257  # ids: the 256 bytes and the separator


class BytePairTokenizer:
    """A table of byte strings, one for each id, all 256 single bytes among them: no text is unknown.

    Args:
        tokens: the bytes of each id, smaller ids joined first; empty for an id that no text gives.
        separator: the id that stands between documents.

    Raises:
        ConfigError: a byte is missing, a token is there twice, or the separator is one that a text can give.
    """

    name = "bpe"

    def __init__(self, tokens: Sequence[bytes], separator: int) -> None:
        ranks = {token: i for i, token in enumerate(tokens) if token}
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing:
            raise ConfigError(f"byte 0x{missing[0]:02x} is no token, so that some texts have no ids; train another one")
        if len(ranks) + tokens.count(NO_TEXT) != len(tokens):
            raise ConfigError(
                f"{len(tokens) - len(ranks) - tokens.count(NO_TEXT)} tokens are there twice; train another"
            )
        if type(separator) is not int or not 0 <= separator < len(tokens) or tokens[separator] != NO_TEXT:
            raise ConfigError(f"the separator {repr_short(separator)} is no id without a text; train another")
        self.tokens, self.separator, self.vocab_size = tokens, separator, len(tokens)
        self._ranks = ranks
        # No special tokens are given to tiktoken, so that no text can ever become one.
        self.encoding = tiktoken.Encoding(self.name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a lone surrogate becomes the replacement character."""
        if len(text) <= LONGEST_TEXT:
            return self.encoding.encode_ordinary(text)
        slices = (text[start : start + LONGEST_TEXT] for start in range(0, len(text), LONGEST_TEXT))
        return [i for part in at_safe_cuts(slices) for i in self.encoding.encode_ordinary(part or "")]

    def encode_stretches(self, stretches: Sequence[str | None]) -> NDArray[np.uint32]:
        """What `encode` gives for texts one after the other, and the separator for each None, by one call of tiktoken.

        One call, because other threads run only inside it, and an array, because a list of Python's numbers takes as
        long to make as the ids take to find.
        """
        marked = "".join(_BETWEEN if text is None else text for text in stretches)
        if marked.count(_BETWEEN) == stretches.count(None):
            with suppress(UnicodeEncodeError):  # a lone surrogate
                return self._marked.encode_to_numpy(marked, allowed_special="all")
        ids = [[self.separator] if text is None else self.encode(text) for text in stretches]
        return np.concatenate(ids, dtype=np.uint32, casting="unsafe")

    @cached_property
    def _marked(self) -> tiktoken.Encoding:
        """The same table, and a mark that becomes the separator."""
        special = {_BETWEEN: self.separator}
        return tiktoken.Encoding(self.name, pat_str=GPT2_PATTERN, mergeable_ranks=self._ranks, special_tokens=special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id."""
        return self.tokens[token]

    def to_dict(self) -> dict[str, Any]:
        """The table, bytes written as visible characters; null for an id that no text gives."""
        char_of = visible_bytes()
        tokens = ["".join(char_of[b] for b in token) or None for token in self.tokens]
        return {"kind": self.name, "tokens": tokens, "separator": self.separator}


class GPT2Tokenizer(BytePairTokenizer):
    """GPT-2's own table of 50,257 ids, from the verified merges."""

    name = "gpt2"

    def __init__(self, merges: str) -> None:
        self.merges = merges
        tokens = [*gpt2_ranks(merges), NO_TEXT]
        super().__init__(tokens, separator=len(tokens) - 1)  # 50256

    def to_dict(self) -> dict[str, Any]:
        """The merges, as they are in the vocabulary file."""
        return {"kind": self.name, "merges": self.merges}


def from_plain(tokens: Sequence[str | None], separator: int) -> BytePairTokenizer:
    """The inverse of `BytePairTokenizer.to_dict`. Raises ConfigError."""
    return BytePairTokenizer(from_visible(token or "" for token in tokens), separator)


def _with_short_words(texts: Iterable[str]) -> Iterator[str]:
    """The same texts, cut after 1,000 letters, signs or spaces on end: a word of n takes n^2 time to learn from."""
    for text in texts:
        start = 0
        if _BLANK.search(text) or max(map(len, text.split()), default=0) >= LONGEST_WORD:
            for run in _LONG_WORD.finditer(text):
                yield text[start : run.end()]
                start = run.end()
        yield text[start:]


def train_bpe(texts: Iterable[str], vocab_size: int) -> BytePairTokenizer:
    """Learn a table from texts: the most frequent pair of neighbours is joined, again and again.

    Joins that occur only once are not learnt, so that a small text may give fewer ids than were asked for.

    Args:
        vocab_size: ids at most, the 256 bytes and the separator included.

    Raises:
        ConfigError: vocab_size below 257.
    """
    if vocab_size < SMALLEST:
        raise ConfigError(
            f"a vocabulary of {vocab_size} ids cannot be trained: the 256 bytes and the separator are {SMALLEST}; "
            "--tokenizer byte has just those"
        )
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    _interruptible(lambda given: learner.train_from_iterator(given, trainer), _with_short_words(texts))
    by_id = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    return BytePairTokenizer([*from_visible(token for token, _ in by_id), NO_TEXT], separator=len(by_id))


def _interruptible(learn: Callable[[Iterator[str]], object], texts: Iterable[str]) -> None:
    """Call `learn` in a thread: the library hears of Ctrl-C only when it is done, but waiting for a thread can end.

    Raises:
        KeyboardInterrupt: and nobody waits for what is still being learnt.
    """
    over, unwanted, errors = threading.Event(), threading.Event(), list[BaseException]()

    def given() -> Iterator[str]:
        for text in texts:
            if unwanted.is_set():
                return
            yield text

    def work() -> None:
        try:
            learn(given())
        except BaseException as error:
            errors.append(error)
        finally:
            over.set()

    threading.Thread(target=work, name="learning", daemon=True).start()
    try:
        while not over.wait(0.1):  # Windows hears nothing in a wait without end
            pass
    except BaseException:
        unwanted.set()
        over.wait(1.0)
        raise
    if errors:
        raise errors[0]


def gpt2_ranks(merges: str) -> dict[bytes, int]:
    """GPT-2's ids from its merges: the 256 bytes first, then one id for each merge, in order."""
    lines = merges.split("\n")[1:]  # the first line is a version
    joined = from_visible(line.replace(" ", "") for line in lines if line)
    return {token: i for i, token in enumerate([*(bytes([b]) for b in visible_bytes()), *joined])}


def visible_bytes() -> dict[int, str]:
    """How vocabulary files write each byte, in the order of GPT-2's ids.

    A printable byte of Latin-1 stands for itself, the others are numbered from U+0100 in byte order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = sorted(set(range(256)) - set(printable))
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def from_visible(tokens: Iterable[str]) -> list[bytes]:
    """The bytes of tokens that are written as visible characters. Raises KeyError for a character that stands for none.

    >>> from_visible(["Ġthe", "é"])
    [b' the', b'\\xe9']
    """
    byte_of = {c: b for b, c in visible_bytes().items()}
    return [bytes(byte_of[c] for c in token) for token in tokens]
