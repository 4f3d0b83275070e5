"""Ids and texts by llama.cpp itself, where it is installed, and texts to compare them on.

`python -m tests.support.llama_cpp_ids FILE.gguf` prints the digest of the ids of TEXTS, which tests compare with where
it is not installed.
"""

import hashlib
import json
import random
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import create_string_buffer
from functools import cache
from pathlib import Path
from typing import Any

from light_llm.interop.llama_cpp import has_llama_cpp

# What the patterns treat differently: contractions, digits, letters with marks, signs, scripts, white space.
TEXTS = (
    "I'm sure they'LL say it's 'told', don't 'Re you?",
    "3 33 333 3333 33333 1234567 3.14 2024-01-02 x42y ½ Ⅷ ٣٤٥",
    "Hello HelloWorld HELLO hello_world  camelCase naïve Äpfel Übergröße ſtraße e\u0301te\u0301",
    "foo(bar)[0] += {'a': 1};\n\treturn x != y && z; // <|done|> https://example.org/a?b=c#d",
    "  two   three    four\n\n\n five\r\n\r\nsix \t\t seven\u00a0eight\u3000nine   ",
    "нещо на Български Ελληνικά العربية हिन्दी ไทย ខ្មែរ 中文，标点。日本語カタカナ 한국어 ქართული",
    "🚀 (normal) 😶‍🌫️ ✅ 🦙🦙 …—–“quotes”‘single’ $5 €6 `code` ~a|b^c",
    "<s> </s> <unk> <|endoftext|> <0x0A> \u2581 [PAD] \x00\x01\x7f",
    "!!!!!!?????? ....... ------======= ''''''```````",
)
_BLOCKS = (
    "20-7e a0-17f 300-36f 370-3ff 400-4ff 530-58f 590-5ff 600-6ff 900-97f 980-9ff b80-bff e00-e7f f00-fff 10a0-10ff "
    "1100-11ff 1200-137f 1780-17ff 2000-206f 2100-214f 2190-21ff 2580-259f 3000-30ff 4e00-9fff ac00-d7a3 ff00-ffef "
    "1f300-1f64f 1f900-1f9ff"
)
_PARTS = [
    *(" " * n for n in (1, 2, 3, 8, 17, 40)),
    *(
        "\n\n\n",
        "\t\t",
        "\r\n",
        "aaaaaaaaaaaa",
        "=" * 70,
        "-" * 17,
        "0",
        "2024",
        "1234567",
        "'s",
        "'LL",
        "I'm",
        " word",
    ),
    *(
        "Word",
        "don't",
        "\x00",
        "\x7f",
        "</s>",
        "<s>",
        "<unk>",
        "<|endoftext|>",
        "<0x0A>",
        "\u2581",
        "é",
        "…",
        "。",
        "½",
    ),
]


@cache
def many_texts(n: int) -> tuple[str, ...]:
    """Return n short texts in turn: of one script, of all scripts, and of awkward parts. The same in each call."""
    rng = random.Random(n)
    ranges = [[int(end, 16) for end in block.split("-")] for block in _BLOCKS.split()]
    scripts = [
        [c for c in map(chr, range(first, last + 1)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
        for first, last in ranges
    ]

    def of_one_script() -> str:
        script = rng.choice(scripts)
        return "".join(rng.choice(script) if rng.random() < 0.8 else rng.choice(" \n.,0") for _ in range(40))

    def of_all_scripts() -> str:
        return "".join(rng.choice(rng.choice(scripts)) for _ in range(25))

    def of_parts() -> str:
        return "".join(rng.choice(_PARTS) for _ in range(rng.randrange(1, 12)))

    makers = (of_one_script, of_all_scripts, of_parts)
    return tuple(makers[i % 3]() for i in range(n))


def digest(encode: Callable[[str], Sequence[int]], texts: Iterable[str] = TEXTS) -> str:
    """Return twelve digits that stand for the ids of texts."""
    return hashlib.sha256(json.dumps([[*encode(text)] for text in texts]).encode()).hexdigest()[:12]


class LlamaCppVocabulary:
    """The vocabulary of a GGUF file by llama.cpp: control tokens in a text are text, nothing is added."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        self.llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False, n_threads=1, n_ctx=8)
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama.model)

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self.llama.tokenize(text.encode(), add_bos=False, special=False)]

    def encode_with_special(self, text: str) -> list[int]:
        """Return the ids with what the model's own tokenizer puts around a text."""
        return [int(i) for i in self.llama.tokenize(text.encode(), add_bos=True, special=False)]

    def decode(self, ids: Sequence[int]) -> str:
        size = 64 * len(ids) + 64
        buffer = create_string_buffer(size)
        array = (self.api.llama_token * len(ids))(*ids)
        n = int(self.api.llama_detokenize(self.vocab, array, len(ids), buffer, size, False, False))
        assert n >= 0
        return buffer.raw[:n].decode("utf-8", errors="replace")


def llama_cpp_vocabulary(path: Path) -> LlamaCppVocabulary | None:
    """Open a file with llama.cpp; None where that is not installed."""
    return LlamaCppVocabulary(path) if has_llama_cpp() else None


def write_vocabulary(path: Path, fields: Mapping[str, Any]) -> Path:
    """Write a GGUF file without tensors that llama.cpp opens."""
    import gguf

    writer = gguf.GGUFWriter(path, "gpt2")
    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    for key, value in {
        **{f"gpt2.{size}": 8 for size in sizes},
        "gpt2.attention.layer_norm_epsilon": 1e-5,
        **fields,
    }.items():
        add: dict[type, Callable[..., None]] = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        add.get(type(value), writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    print(digest(LlamaCppVocabulary(Path(sys.argv[1])).encode))
