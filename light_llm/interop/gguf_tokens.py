"""The tokenizer in a GGUF file. All of ours are byte-pair encodings there, of llama.cpp's kind "gpt2".

That kind splits a text by GPT-2's pattern, writes each byte as a visible character, and merges neighbours by a list of
merges, the earliest first. The result of a merge need not be a token unless it remains at the end. So
  - bytes are 256 tokens and no merge;
  - a character of several bytes is merged from them, the first two first. A merge always begins at a first byte, and no
    byte is both first and later, so two characters never merge;
  - for a trained vocabulary each way to make a token from two others is listed.
"""

from typing import Any

from ..data import Tokenizer
from ..data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from ..data.tokenizer_json import to_tokenizer_json

NORMAL, CONTROL = 1, 3  # token types; a control token is never found in a text and never shown


def vocabulary_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the vocabulary of a tokenizer as fields of a GGUF file; ids stay the same."""
    char_of = bytes_to_unicode()
    texts = ["".join(char_of[b] for b in tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    names = {i: f"<|no-text-{i}|>" for i, text in enumerate(texts) if not text} | {tokenizer.separator: SEPARATOR}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [names.get(i, text) for i, text in enumerate(texts)],
        "tokenizer.ggml.token_type": [NORMAL if text else CONTROL for text in texts],
        # The writer skips an empty list. This merge never applies, because no text contains the separator.
        "tokenizer.ggml.merges": _merges(tokenizer, texts) or [f"{SEPARATOR} {SEPARATOR}"],
        "tokenizer.ggml.bos_token_id": tokenizer.separator,
        "tokenizer.ggml.eos_token_id": tokenizer.separator,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


def _merges(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Return the merges, "left right" each."""
    if isinstance(tokenizer, GPT2Tokenizer):
        return [line for line in tokenizer.merges.split("\n")[1:] if line]
    if isinstance(tokenizer, BytePairTokenizer):
        return [f"{left} {right}" for left, right in to_tokenizer_json(tokenizer)["model"]["merges"]]
    # Byte by byte from the left: a merge needs both of its sides to exist already.
    merges = (f"{text[:cut]} {text[cut]}" for text in texts for cut in range(1, len(text)))
    return list(dict.fromkeys(merges))
