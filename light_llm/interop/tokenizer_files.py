"""Our tokenizers as the two files that Hugging Face's programs read: `tokenizer.json` and `tokenizer_config.json`.

All four are written as byte-pair encodings, two of them without a single pair: what is left of the algorithm then gives
each byte, or each character, its id. The separator is a special token there and thirteen characters here, so a text
that has `<|endoftext|>` in it is read differently; a card says so.
"""

from typing import Any

from ..data import Tokenizer
from ..data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from ..data.tokenizer_json import bpe_tokenizer_json, to_tokenizer_json
from ..data.tokenizers import ByteTokenizer, CharTokenizer
from ..errors import ConfigError

_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`.

    A character that an alphabet lacks is left out there, as the format has no error to raise.

    Raises:
        ConfigError: a kind of tokenizer that has no such form.
    """
    if isinstance(tokenizer, GPT2Tokenizer):  # its own joins, not each way to make a token
        lines = tokenizer.merges.split("\n")[1:]
        values = _byte_level(_vocabulary(tokenizer), [line.split(" ") for line in lines if line], cut_words=True)
    elif isinstance(tokenizer, BytePairTokenizer):
        values = to_tokenizer_json(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        values = _byte_level(_vocabulary(tokenizer), [], cut_words=False)
    elif isinstance(tokenizer, CharTokenizer):
        values = bpe_tokenizer_json(tokenizer.ids, []) | {"decoder": {"type": "Fuse"}}
    else:
        raise ConfigError(
            f"a tokenizer of kind {tokenizer.name!r} has no form that other programs read; "
            "those of light-llm have: gpt2, bpe, char, byte"
        )
    silent = [i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i)]
    names = {i: SEPARATOR if i == tokenizer.separator else f"<|no text {i}|>" for i in silent}
    values["model"]["vocab"] |= {name: i for i, name in names.items()}  # an id is kept only if it is in the vocabulary
    values["added_tokens"] = [{"id": i, "content": name, **_SPECIAL} for i, name in names.items()]
    return values


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of each token that has a text, its bytes written as visible characters."""
    char_of = bytes_to_unicode()
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return {"".join(char_of[b] for b in token): i for i, token in enumerate(tokens) if token}


def _byte_level(vocab: dict[str, int], merges: list[list[str]], *, cut_words: bool) -> dict[str, Any]:
    """A tokenizer over bytes; `cut_words`: no pair is joined across the words of GPT-2's pattern."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cut_words}
    return bpe_tokenizer_json(vocab, merges) | {"pre_tokenizer": level, "decoder": level}


def tokenizer_config(window: int) -> dict[str, Any]:
    """The content of `tokenizer_config.json`.

    There is no padding token, as GPT-2 has none: were it the separator, a program that leaves padding out of the loss
    would leave the ends of texts out too, and never say so.

    Args:
        window: tokens the model was trained on at once.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is, in all versions
        "model_max_length": window,
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
