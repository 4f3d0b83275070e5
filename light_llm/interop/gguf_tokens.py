"""A tokenizer in the words of GGUF: all of ours are byte-pair encodings there, of llama.cpp's kind "gpt2".

That kind cuts a text by GPT-2's pattern, writes each byte as a visible character, and joins neighbours by a list of
joins, the earliest first. What a join gives need not be a token unless it is left at the end. So
  - bytes are 256 tokens and no join;
  - characters of several bytes are joined from their bytes, the first with the second, then with the third. A join
    always begins at a first byte, and none is both first and later, so that characters never grow together;
  - of a trained table each way to make a token from two others is listed.
"""

from dataclasses import dataclass
from typing import Any

from ..data import Tokenizer
from ..data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from ..data.tokenizer_json import to_tokenizer_json

NORMAL, CONTROL = 1, 3  # kinds of a token; a control token is never found in a text and never shown


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, bytes written as visible characters, and the joins in order."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    separator: int

    def fields(self) -> dict[str, Any]:
        """As fields of a GGUF file."""
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": list(self.tokens),
            "tokenizer.ggml.token_type": list(self.kinds),
            "tokenizer.ggml.merges": list(self.merges),
            "tokenizer.ggml.bos_token_id": self.separator,
            "tokenizer.ggml.eos_token_id": self.separator,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_eos_token": False,
        }


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of any of our tokenizers, ids as they are."""
    char_of = bytes_to_unicode()
    texts = ["".join(char_of[b] for b in tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    names = {i: f"<|no-text-{i}|>" for i, text in enumerate(texts) if not text} | {tokenizer.separator: SEPARATOR}
    return Vocabulary(
        tokens=tuple(names.get(i, text) for i, text in enumerate(texts)),
        kinds=tuple(NORMAL if text else CONTROL for text in texts),
        merges=tuple(_merges(tokenizer, texts)) or (f"{SEPARATOR} {SEPARATOR}",),
        separator=tokenizer.separator,
    )


def _merges(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """The joins, "left right" each. An empty list cannot be written: `vocabulary` puts one that never applies."""
    if isinstance(tokenizer, GPT2Tokenizer):
        return [line for line in tokenizer.merges.split("\n")[1:] if line]
    if isinstance(tokenizer, BytePairTokenizer):
        return [f"{left} {right}" for left, right in to_tokenizer_json(tokenizer)["model"]["merges"]]
    joins = (f"{text[:cut]} {text[cut]}" for text in texts for cut in range(1, len(text)))
    return list(dict.fromkeys(joins))
