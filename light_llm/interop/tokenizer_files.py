"""Write tokenizers as the two files that Hugging Face's programs read: tokenizer.json and tokenizer_config.json.

All four kinds of our own are written as byte-pair encodings, two of them without a merge, so that each byte or
character gets its id. The separator is a special token there and 13 characters here, so a text with `<|endoftext|>` in
it gets other ids; the model card says so.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic_io import atomic_write
from ..data import Tokenizer
from ..data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from ..data.hf_tokenizer import HuggingFaceTokenizer
from ..data.tokenizer_json import bpe_tokenizer_json, to_tokenizer_json
from ..data.tokenizers import ByteTokenizer, CharTokenizer
from ..errors import ConfigError

SPECIAL_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_files(tokenizer: Tokenizer | None, window: int) -> dict[str, dict[str, Any] | bytes]:
    """Return the content of both files by name, none without a tokenizer. A training window has `window` tokens.

    The `tokenizer.json` of a published tokenizer is the one that it was made from, byte for byte.
    """
    if tokenizer is None:
        return {}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return {"tokenizer.json": tokenizer.data, "tokenizer_config.json": _config_of_published(tokenizer, window)}
    return {"tokenizer.json": tokenizer_json(tokenizer), "tokenizer_config.json": tokenizer_config(window)}


def write_json_files(folder: Path, contents: Mapping[str, dict[str, Any] | bytes]) -> None:
    """Write values as JSON files by name; bytes are those of a file."""
    for name, values in contents.items():
        if isinstance(values, bytes):
            atomic_write(folder / name, values)
            continue
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        atomic_write(folder / name, text.encode())


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of `tokenizer.json`. Raises ConfigError for a kind of tokenizer that has no such form.

    A character that an alphabet lacks is dropped there in silence, because the format cannot raise an error.
    """
    if isinstance(tokenizer, GPT2Tokenizer):  # its own merges, not each way to make a token
        lines = tokenizer.merges.split("\n")[1:]
        values = byte_level_json(_vocabulary(tokenizer), [line.split(" ") for line in lines if line])
    elif isinstance(tokenizer, BytePairTokenizer):
        values = to_tokenizer_json(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        values = byte_level_json(_vocabulary(tokenizer), [], split_words=False)
    elif isinstance(tokenizer, CharTokenizer):
        values = bpe_tokenizer_json(tokenizer.ids, []) | {"decoder": {"type": "Fuse"}}
    else:
        raise ConfigError(
            f"a tokenizer of kind {tokenizer.name!r} has no form that other programs read; "
            "those of light-llm have: gpt2, bpe, char, byte"
        )
    silent = [i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i)]
    names = {i: SEPARATOR if i == tokenizer.separator else f"<|no text {i}|>" for i in silent}
    # An added token keeps its id only if the vocabulary has it too.
    values["model"]["vocab"] |= {name: i for i, name in names.items()}
    values["added_tokens"] = [{"id": i, "content": name, **SPECIAL_TOKEN} for i, name in names.items()]
    return values


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the id of each token that has a text, with its bytes as visible characters."""
    char_of = bytes_to_unicode()
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return {"".join(char_of[b] for b in token): i for i, token in enumerate(tokens) if token}


def byte_level_json(vocab: Mapping[str, int], merges: list[list[str]], *, split_words: bool = True) -> dict[str, Any]:
    """Return a tokenizer over bytes. With `split_words` no merge crosses the words of GPT-2's pattern."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": split_words}
    return bpe_tokenizer_json(vocab, merges) | {"pre_tokenizer": level, "decoder": level}


def tokenizer_config(window: int) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json` for a model trained on windows of `window` tokens.

    A padding token is not set, as in GPT-2: if it were the separator, a program that leaves padding out of the loss
    would silently leave out the ends of texts too.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json unchanged
        "model_max_length": window,
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _config_of_published(tokenizer: HuggingFaceTokenizer, window: int) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json` beside a published tokenizer.json that came without one."""
    values = {name: value for name, value in tokenizer_config(window).items() if name not in ("bos_token", "eos_token")}
    del values["add_prefix_space"]  # tokenizer.json decides
    if (end := tokenizer.library.id_to_token(tokenizer.separator)) is not None:
        values["eos_token"] = end
    if tokenizer.prefix:
        values["bos_token"] = tokenizer.library.id_to_token(tokenizer.prefix[0])
    return values


def generation_config(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the content of `generation_config.json`: the ids that begin and end a text, and that of padding."""
    if tokenizer is None:
        return dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    ends, separator = list(tokenizer.stop_ids), tokenizer.separator
    return {
        "bos_token_id": tokenizer.prefix[0] if tokenizer.prefix else separator,
        "eos_token_id": ends if len(ends) > 1 else separator,
        "pad_token_id": separator,
    }
