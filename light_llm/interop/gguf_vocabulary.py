"""The vocabulary of a GGUF file as a `tokenizer.json`, and the reverse, so that llama.cpp gives the same ids.

A GGUF file has the tokens in id order, a type for each, and either merges (`tokenizer.ggml.model` gpt2: byte-level BPE,
with `tokenizer.ggml.pre` for the way to split texts) or scores (llama: SentencePiece's BPE; t5: its Unigram).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import repr_short
from ..data import Tokenizer
from ..data.bpe import MAX_IDS, unicode_to_bytes
from ..data.tokenizer_file import read_tokenizer_json
from ..data.tokenizer_json import bpe_tokenizer_json
from ..errors import CheckpointError, ConfigError
from .gguf_patterns import find_pattern, pre_tokenizer_json
from .sentencepiece_json import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    Normalization,
    added_tokens,
    dump,
    sentencepiece_json,
    template,
)

MODELS = ("gpt2", "llama", "t5")
_KEY = "tokenizer.ggml."
_LLAMA_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_T5_IDS = {"eos_token_id": 1, "unknown_token_id": 2, "padding_token_id": 0}
ANOTHER = "use another copy of the file"


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a GGUF file, checked, with llama.cpp's values for the fields that a file may lack.

    Args:
        model: gpt2, llama or t5.
        tokens, types, scores: of each id, (V,).
        bos, eos, unknown, padding: ids of special tokens.
        add_bos, add_eos: whether these are put around each text.
    """

    model: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    add_bos: bool
    add_eos: bool


def read_vocabulary(fields: Mapping[str, Any]) -> Vocabulary:
    """Read the vocabulary of a GGUF file from its fields, by key.

    Raises:
        CheckpointError: the file has none, one of another kind (by name), or one that is damaged.
    """
    model = fields.get(_KEY + "model")
    if model not in MODELS:
        kind = "no tokenizer" if model in (None, "none", "no_vocab") else f"a tokenizer of kind {repr_short(model)}"
        raise CheckpointError(f"the GGUF file has {kind}; light-llm reads {', '.join(MODELS)}")
    tokens = _strings(fields, "tokens")
    n = len(tokens)
    if not 0 < n <= MAX_IDS:
        raise CheckpointError(f"the vocabulary of the GGUF file has {n:,} tokens, not 1 to {MAX_IDS:,}; {ANOTHER}")
    # llama.cpp's name for a token without a text
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    if len(set(tokens)) < n:
        raise CheckpointError(
            f"{n - len(set(tokens)):,} tokens of the GGUF file occur twice in its vocabulary; {ANOTHER}"
        )
    types = _numbers(fields, "token_type", n, default=NORMAL)
    scores = _numbers(fields, "scores", n, default=0.0)
    if model != "gpt2" and _KEY + "scores" not in fields:
        raise CheckpointError(f"the GGUF file has a tokenizer of kind {model} without scores; {ANOTHER}")
    default_ids = {"llama": _LLAMA_IDS, "t5": _T5_IDS}.get(model, {})
    if UNKNOWN in types:
        default_ids = default_ids | {"unknown_token_id": types.index(UNKNOWN)}
    ids = {
        name: _token_id(fields, name, n, default_ids.get(name))
        for name in ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id")
    }
    adds_bos = model == "llama" or (model == "gpt2" and find_pattern(fields.get(_KEY + "pre", "default")).add_bos)
    add_bos, add_eos = _flag(fields, "add_bos_token", adds_bos), _flag(fields, "add_eos_token", model == "t5")
    for adds, name in ((add_bos, "bos"), (add_eos, "eos")):
        if adds and ids[f"{name}_token_id"] is None:
            raise CheckpointError(
                f"the GGUF file has tokenizer.ggml.add_{name}_token and no {name}_token_id; {ANOTHER}"
            )
    special = {ids["bos_token_id"], ids["eos_token_id"]}
    return Vocabulary(
        model=model,
        tokens=tuple(tokens),
        types=tuple(_with_control(tokens, types, special)),
        scores=tuple(scores),
        bos=ids["bos_token_id"],
        eos=ids["eos_token_id"],
        unknown=ids["unknown_token_id"],
        padding=ids["padding_token_id"],
        add_bos=add_bos,
        add_eos=add_eos,
    )


def tokenizer_json_from_gguf(fields: Mapping[str, Any]) -> bytes:
    """Return the vocabulary of a GGUF file as a `tokenizer.json` that gives llama.cpp's ids.

    llama.cpp never normalises a text of kind gpt2, so neither does the result, even where the published tokenizer
    does (Qwen's NFC); for a text that is already normalised, as nearly all are, the ids are the same.

    Args:
        fields: of the file, by key; those under `tokenizer.ggml.` are used.

    Raises:
        CheckpointError: the file has no vocabulary, one of another kind, or one that is damaged; the message names it.
    """
    vocabulary = read_vocabulary(fields)
    if vocabulary.model == "gpt2":
        values = _byte_level_json(fields, vocabulary)
    else:
        is_unigram = vocabulary.model == "t5"
        normalization = Normalization(
            charsmap=_charsmap(fields) if is_unigram else b"",
            add_space_prefix=_flag(fields, "add_space_prefix", not is_unigram),
            # llama.cpp has no such step for the kind llama.
            remove_extra_spaces=is_unigram and _flag(fields, "remove_extra_whitespaces", False),
        )
        v = vocabulary
        values = sentencepiece_json(v.tokens, v.scores, v.types, normalization, unigram=is_unigram, unknown=v.unknown)
    prefix = [vocabulary.bos] if vocabulary.add_bos else []
    suffix = [vocabulary.eos] if vocabulary.add_eos else []
    around = [[(vocabulary.tokens[i], i) for i in ids if i is not None] for ids in (prefix, suffix)]
    return dump(values | {"post_processor": template(*around)})


def tokenizer_config_from_gguf(fields: Mapping[str, Any]) -> bytes:
    """Return a `tokenizer_config.json`, which tells Transformers which tokens are special. Raises CheckpointError."""
    vocabulary = read_vocabulary(fields)
    ids = {
        "bos_token": vocabulary.bos,
        "eos_token": vocabulary.eos,
        "unk_token": vocabulary.unknown,
        "pad_token": vocabulary.padding,
    }
    values = {name: vocabulary.tokens[i] for name, i in ids.items() if i is not None}
    return dump(values | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False})


def tokenizer_from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a GGUF file: one of ours if it has the same ids, or else the library's.

    Raises:
        CheckpointError: see `tokenizer_json_from_gguf`; the message does not name the file.
    """
    vocabulary = read_vocabulary(fields)
    n = len(vocabulary.tokens)
    stops = [_token_id(fields, name, n, None) for name in ("eot_token_id", "eom_token_id")]
    try:
        return read_tokenizer_json(
            tokenizer_json_from_gguf(fields),
            "its vocabulary",
            ends=[] if vocabulary.eos is None else [vocabulary.eos],
            stop_ids=[i for i in stops if i is not None],
        )
    except ConfigError as error:
        raise CheckpointError(error.message) from None


def _byte_level_json(fields: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the `tokenizer.json` of a byte-level BPE. Raises CheckpointError for a merge without a token."""
    pattern = find_pattern(fields.get(_KEY + "pre", "default"))
    if (characters := _characters(vocabulary)) is not None:
        return characters
    pairs = _merges(fields)
    vocab = {token: i for i, token in enumerate(vocabulary.tokens)}
    made = {left + right for left, right in pairs}
    merges = []
    for left, right in pairs:
        if not (left in vocab and right in vocab and left + right in vocab):
            # Only a merge makes a token of several characters, so this one never applies.
            if any(len(part) > 1 and part not in made for part in (left, right)):
                continue
            raise CheckpointError(
                f"the GGUF file merges {repr_short(left)} and {repr_short(right)}, and its vocabulary lacks one of "
                f"them or the result; {ANOTHER}"
            )
        merges.append([left, right])
    values = bpe_tokenizer_json(vocab, merges)
    values["model"]["ignore_merges"] = pattern.ignore_merges
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return values | {
        "added_tokens": added_tokens(vocabulary.tokens, vocabulary.types),
        "pre_tokenizer": pre_tokenizer_json(pattern),
        "decoder": level,
    }


def _merges(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the merges, left and right. Raises CheckpointError."""
    pairs = []
    for merge in _strings(fields, "merges"):
        # The left part may begin with a space.
        at = merge.find(" ", 1)
        if at < 0:
            raise CheckpointError(f"the GGUF file has a merge without a space, {repr_short(merge)}; {ANOTHER}")
        pairs.append((merge[:at], merge[at + 1 :]))
    return pairs


def _characters(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return the `tokenizer.json` of a vocabulary of characters that light-llm exported; None for any other.

    There, merges of bytes make each character, and need no token on the way; here, characters are tokens as they are.
    """
    is_text = [type_ != CONTROL for type_ in vocabulary.types]
    try:
        all_bytes = unicode_to_bytes(token * text for token, text in zip(vocabulary.tokens, is_text, strict=True))
        texts = [token.decode() for token in all_bytes]
    except (KeyError, UnicodeDecodeError):
        return None
    if is_text.count(False) != 1 or any(len(text) > 1 for text in texts):
        return None
    vocab = {text or name: i for i, (text, name) in enumerate(zip(texts, vocabulary.tokens, strict=True))}
    added = added_tokens(vocabulary.tokens, vocabulary.types)
    return bpe_tokenizer_json(vocab, []) | {"added_tokens": added, "decoder": {"type": "Fuse"}}


def _with_control(tokens: Sequence[str], types: Sequence[int], special: set[int | None]) -> list[int]:
    """Return the types, with control for a beginning or end of text that old files call normal, such as `</s>`."""
    fixed = list(types)
    for i in special - {None}:
        assert i is not None
        if fixed[i] == NORMAL and tokens[i][:1] + tokens[i][-1:] in ("<>", "[]"):
            fixed[i] = CONTROL
    return fixed


def _strings(fields: Mapping[str, Any], name: str) -> list[str]:
    value = fields.get(_KEY + name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise CheckpointError(f"the GGUF file has no list of texts {_KEY}{name}; {ANOTHER}")
    return value


def _numbers(fields: Mapping[str, Any], name: str, n: int, default: float) -> list[Any]:
    """Return a list of n numbers, all the default if the file lacks it. Raises CheckpointError for another length."""
    value = fields.get(_KEY + name, [default] * n)
    is_list = isinstance(value, list) and all(type(x) in (int, float) and x - x == 0 for x in value)
    if not is_list or len(value) != n:
        raise CheckpointError(f"the field {_KEY}{name} of the GGUF file is not a list of {n:,} numbers; {ANOTHER}")
    return list(value)


def _token_id(fields: Mapping[str, Any], name: str, n: int, default: int | None) -> int | None:
    """Return the id that a field gives, or the default. Raises CheckpointError for one outside the vocabulary."""
    value = fields.get(_KEY + name, default if default is not None and default < n else None)
    # -1 and its unsigned form stand for none in some files.
    if value is None or value in (-1, (1 << 32) - 1):
        return None
    if type(value) is not int or not 0 <= value < n:
        raise CheckpointError(
            f"{_KEY}{name}={repr_short(value)} in the GGUF file is no id of its {n:,} tokens; {ANOTHER}"
        )
    return value


def _flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    value = fields.get(_KEY + name, default)
    if type(value) is not bool:
        raise CheckpointError(f"{_KEY}{name}={repr_short(value)} in the GGUF file is not true or false; {ANOTHER}")
    return value


def _charsmap(fields: Mapping[str, Any]) -> bytes:
    value = fields.get(_KEY + "precompiled_charsmap", [])
    try:
        return bytes(x & 255 for x in value)
    except TypeError:
        raise CheckpointError(
            f"{_KEY}precompiled_charsmap of the GGUF file is not a list of bytes; {ANOTHER}"
        ) from None
