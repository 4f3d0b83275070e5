"""Run a byte-level BPE of a `tokenizer.json` through tiktoken, six times as fast, where its ids are proven equal.

tiktoken splits a text by one pattern, and in each word merges the neighbours whose joined bytes have the smallest id.
The library merges listed pairs in the order of the list. What is checked:

- the pipeline is one pattern (ByteLevel's own, or a Split that keeps what it finds) and ByteLevel, without a
  normalizer, and added tokens are control tokens only, which no text gives;
- each token of several bytes is made by a merge, and the merges are in the order of the ids that they make;
- both give the same ids for the text of every token alone (so each is reached by the same merges), for all of them
  joined and with spaces between, for a text with every character up to U+FFFF beside letters, digits and spaces (both
  libraries know the same classes of characters), and for sentences in several scripts.

Not covered are pairs that are not listed though their joined bytes are a token, where they meet only in words that are
no tokens, and characters beyond U+FFFF.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer as Library

from .bpe import GPT2_PATTERN, MAX_ENCODE_CHARS, unicode_to_bytes
from .hf_encode import OVERLAP, Engine, LibraryEngine, Places, is_failure

# Of letters or spaces: the patterns of published tokenizers backtrack, and tiktoken stops at a million steps.
_LONG_RUN = re.compile(r"\S{5000}|\s{5000}")
SENTENCES = (
    "I'm we'LL THEY'RE 'tis don't  rock'n'roll\n\n\ttabs\r\nand 1234567 numbers, 3.14!?  (a) [b]\n  {c: 'd'};\r\n\r\n",
    "naïve café über señor háček żółw ığdır œuvre Ångström, e\u0301 A\u030a, İstanbul ẞtraße ǆ",
    "Кошка спит, і їжак; Η γάτα κοιμάται; Կատուն քնում է։ კატას სძინავს",
    "החתול יָשֵׁן عَلى السطح ١٩٨٤، बिल्ली १९८४ বিড়ালটি பூனை పిల్లి แมวนอน ฝนปี ๒๕๒๗",
    "猫在温暖的屋顶上睡觉，一九八四年。日本語のネコ、ﾈｺ。고양이는 잔다. Ⅻ ½ ² 〇",
    "👩\u200d👩\u200d👧\u200d👦 👨🏽\u200d🚀 ❤\ufe0f 🇩🇪!!😀   \u00a0\u2003\u3000\u200b \x00\x1c\x1f\x7f\x85\u2028 e  ",
)


class TiktokenEngine(Engine):
    """tiktoken with the same ids as a library's tokenizer; places are UTF-8 bytes."""

    def __init__(self, encoding: tiktoken.Encoding, library: Library, n_bytes: Callable[[], list[int]]) -> None:
        self.encoding, self.reference = encoding, LibraryEngine(library)
        self.n_bytes = np.array(n_bytes(), dtype=np.int64)  # of each id

    def encode(self, text: str) -> list[int]:
        if len(text) > MAX_ENCODE_CHARS + 2 * OVERLAP or _LONG_RUN.search(text):
            return self.reference.encode(text)
        return self.encoding.encode_ordinary(text)

    def encode_places(self, text: str) -> Places:
        ids = np.array(self.encode(text), dtype=np.int64)
        ends = np.cumsum(self.n_bytes[ids])
        return ids, ends - self.n_bytes[ids], ends

    def length(self, text: str) -> int:
        return len(text) if text.isascii() else len(text.encode())


def find_encoding(library: Library, data: bytes) -> tiktoken.Encoding | None:
    """Return tiktoken's encoding of a `tokenizer.json`; None if it is not proven to give the same ids.

    Args:
        library: the tokenizer of the file, with `encode_special_tokens` and without a post-processor.
        data: the bytes of the file.
    """
    values = json.loads(data)
    pattern, model = _pattern(values), values["model"]
    if pattern is None or model["type"] != "BPE" or values.get("normalizer"):
        return None
    added = library.get_added_tokens_decoder()
    if not all(token.special for token in added.values()):
        return None
    try:
        texts = {i: text for text, i in model["vocab"].items() if i not in added}
        tokens = dict(zip(texts, unicode_to_bytes(texts.values()), strict=True))
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        made = [model["vocab"][left + right] for left, right in pairs]
        ranks = {token: i for i, token in tokens.items()}
        if made != sorted(made) or {*made} != {i for i, token in tokens.items() if len(token) > 1}:
            return None
        encoding = tiktoken.Encoding("hf", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except Exception:  # a pattern that tiktoken cannot run, or tokens that are no bytes
        return None
    return encoding if _is_equal(encoding, library, [*tokens.values()]) else None


def _pattern(values: Any) -> str | None:
    """Return the one pattern that a pre-tokenizer splits by; None if it does anything else."""
    pre = values.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else [pre]
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space") is not False:
        return None
    splits_itself = parts[-1].get("use_regex", True)
    if len(parts) == 1:
        return GPT2_PATTERN if splits_itself else None
    split = parts[0]
    is_plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    pattern = split.get("pattern", {}).get("Regex")
    return pattern if len(parts) == 2 and is_plain and not splits_itself and isinstance(pattern, str) else None


def _is_equal(encoding: tiktoken.Encoding, library: Library, tokens: list[bytes]) -> bool:
    """Return whether both give the same ids for the texts of the proof."""
    try:
        for texts in _texts(tokens):
            expected = library.encode_batch_fast(texts, add_special_tokens=False)
            if encoding.encode_ordinary_batch(texts) != [encoded.ids for encoded in expected]:
                return False
    except BaseException as error:  # tiktoken's PanicException, where its pattern engine gives up
        if not is_failure(error):
            raise
        return False
    return True


def _texts(tokens: list[bytes]) -> Iterator[list[str]]:
    """Yield the texts of the proof, in batches that are compared one after the other."""
    yield list(SENTENCES)
    decoded = [token.decode("utf-8", errors="ignore") for token in tokens]
    for start in range(0, len(decoded), 1 << 12):
        some = decoded[start : start + (1 << 12)]
        yield ["".join(some), " ".join(some), *filter(None, some)]
    letters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(letters), 1 << 12):
        yield ["".join(f"x{c} {c}1{c}{c}\n{c}!{c} " for c in letters[start : start + (1 << 12)])]
