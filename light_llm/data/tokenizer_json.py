"""Convert a byte-pair table to and from Hugging Face's `tokenizer.json`."""

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .bpe import MAX_IDS, NO_BYTES, SEPARATOR, BytePairTokenizer, bytes_to_unicode, unicode_to_bytes

END_OF_TEXT_NAMES = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>")  # in files of various programs


def to_tokenizer_json(tokenizer: BytePairTokenizer) -> dict[str, Any]:
    """Return the table in the format of Hugging Face's `tokenizer.json`."""
    # That format allows only listed merges, so list every way to make a token from two others.
    char_of = bytes_to_unicode()
    vocab = {"".join(char_of[b] for b in token): i for i, token in enumerate(tokenizer.tokens) if token}
    merges = [
        [token[:cut], token[cut:]]
        for token in vocab
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return bpe_tokenizer_json(vocab, merges) | {
        "added_tokens": [{"id": tokenizer.separator, "content": SEPARATOR, **special}],
        "pre_tokenizer": level,
        "decoder": level,
    }


def bpe_tokenizer_json(vocab: Mapping[str, int], merges: list[list[str]]) -> dict[str, Any]:
    """Return a `tokenizer.json` with these merges; it drops characters that are not in the vocabulary."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(vocab),
            "merges": merges,
        },
    }


def from_tokenizer_json(values: Any) -> BytePairTokenizer:
    """Return the table of a `tokenizer.json` that `to_tokenizer_json` wrote, or one like it.

    Raises ConfigError, or another error for missing values, if it is no byte-level BPE with GPT-2's pattern, or its
    merges are not in the order of its ids, so that tiktoken would apply them in another order.
    """
    model, before = values["model"], values["pre_tokenizer"]
    kind = [model["type"], before["type"], before.get("use_regex", True), before["add_prefix_space"]]
    if kind != ["BPE", "ByteLevel", True, False]:
        raise ConfigError(f"it is a {kind}")
    vocab: Mapping[str, int] = model["vocab"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    made = [vocab[first + second] for first, second in merges]
    special = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
    if not all(type(i) is int and 0 <= i < MAX_IDS for i in [*vocab.values(), *special.values()]):
        raise ConfigError(f"its ids are not all whole numbers from 0 to {MAX_IDS - 1:,}")
    if made != sorted(made):
        raise ConfigError("its merges are not in the order of their ids")
    tokens = [NO_BYTES] * (1 + max([*vocab.values(), *special.values()]))
    for i, token in zip(vocab.values(), unicode_to_bytes(t if t not in special else "" for t in vocab), strict=True):
        tokens[i] = token
    # Without an end-of-text token, add an id for the separator.
    ends = [special[name] for name in (*END_OF_TEXT_NAMES, *special) if name in special]
    if not ends:
        tokens.append(NO_BYTES)
    return BytePairTokenizer(tokens, ends[0] if ends else len(tokens) - 1)
