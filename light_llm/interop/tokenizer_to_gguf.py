"""The vocabulary fields of a GGUF file for a `tokenizer.json`, so that llama.cpp gives the same ids.

llama.cpp has two kinds of BPE. "gpt2" is byte-level, with merges and one of a list of named ways to split a text.
"llama" is SentencePiece's: it may merge any two neighbours whose joined text is a token, the highest score first.
A tokenizer that is neither is refused, and the message names the part that llama.cpp does not have.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import repr_short
from ..data.bpe import bytes_to_unicode
from ..errors import ConfigError
from .gguf_patterns import find_name
from .sentencepiece_json import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, byte_token

LEADING_SPACE = "llama.cpp puts a space before a text that begins with one, too"  # and the tokenizer does not
NEVER = -1e9  # the score of a token that no merge makes
_KEY = "tokenizer.ggml."


@dataclass(frozen=True)
class GGUFVocabulary:
    """The fields of a file by key, and what is different in llama.cpp, one sentence each."""

    fields: dict[str, Any]
    notes: tuple[str, ...]


def gguf_fields_from_tokenizer_json(
    data: bytes,
    *,
    vocab_size: int,
    separator: int,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    stop_ids: Sequence[int] = (),
    control: Sequence[int] = (),
) -> GGUFVocabulary:
    """Return the vocabulary fields of a GGUF file for a `tokenizer.json`.

    Args:
        data: the bytes of the file.
        vocab_size: rows of the model's table. An id without a token gets an unused one.
        separator: the end-of-text id.
        prefix, suffix: ids around each text; llama.cpp can put one on each side.
        stop_ids: ids at which generation stops; the second one becomes the end of a turn.
        control: ids that are special beside those that the file says are.

    Raises:
        ConfigError: llama.cpp has no such tokenizer; the message names the part.
    """
    values = json.loads(data)
    kind, decoder = values["model"].get("type"), _types_of(values.get("decoder"), "decoders")
    is_byte_level, is_sentencepiece = decoder == ["ByteLevel"], bool({"ByteFallback", "Metaspace"} & {*decoder})
    if kind != "BPE" or not (is_byte_level or is_sentencepiece):
        raise _refused(f"{kind} model with the decoder {', '.join(decoder) or 'none'}")
    tokens, types = _tokens(values, vocab_size, separator, control)
    fields, notes = _byte_level_fields(values) if is_byte_level else _sentencepiece_fields(values, tokens, types)
    if len(prefix) > 1 or len(suffix) > 1 or (suffix and suffix[0] != separator):
        raise _refused(f"a tokenizer that puts the ids {[*prefix]} before and {[*suffix]} after each text")
    unknown = [i for i, type_ in enumerate(types) if type_ == UNKNOWN]
    turn = [i for i in stop_ids if i != separator][:1]
    fields |= {
        "tokens": tokens,
        "token_type": types,
        "bos_token_id": prefix[0] if prefix else separator,
        "eos_token_id": separator,
        "add_bos_token": bool(prefix),
        "add_eos_token": bool(suffix),
        **({"unknown_token_id": unknown[0]} if unknown else {}),
        **({"eot_token_id": turn[0]} if turn else {}),
    }
    return GGUFVocabulary({_KEY + key: value for key, value in fields.items()}, tuple(notes))


def _refused(what: str) -> ConfigError:
    return ConfigError(f"llama.cpp has no {what}; export the model for Transformers instead: light-llm export hf")


def _types_of(part: Any, key: str) -> list[str]:
    """Return the types of the steps of a part of a `tokenizer.json`."""
    if part is None:
        return []
    steps = part[key] if part["type"] == "Sequence" else [part]
    return [str(step["type"]) for step in steps]


def _steps(part: Any, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _tokens(
    values: Mapping[str, Any], vocab_size: int, separator: int, control: Sequence[int]
) -> tuple[list[str], list[int]]:
    """Return text and type of each id, (vocab_size,). Raises ConfigError for an added token that takes spaces along."""
    model = values["model"]
    texts = {i: token for token, i in model["vocab"].items()}
    types = dict.fromkeys(texts, NORMAL)
    if model.get("byte_fallback"):
        types |= {i: BYTE for byte in range(256) if (i := model["vocab"].get(byte_token(byte))) is not None}
    for token in values.get("added_tokens") or []:
        i, text = token["id"], token["content"]
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            raise _refused(
                f"added token like {repr_short(text)}, which takes the spaces beside it, or only whole words"
            )
        texts[i] = text
        # llama.cpp shows the text of a user-defined token as it is, and these stand for spaces.
        types[i] = CONTROL if token["special"] else USER_DEFINED if text.strip(SPACE) else NORMAL
    unknown = model["vocab"].get(model.get("unk_token"))
    if unknown is not None:
        types[unknown] = UNKNOWN
    types |= dict.fromkeys(control, CONTROL)
    # A separator that the file lacks is the id after its last one.
    types.setdefault(separator, CONTROL)
    texts |= {i: f"[PAD{i}]" for i in range(vocab_size) if i not in texts}
    if len(set(texts.values())) < len(texts):
        raise _refused("vocabulary with a token twice")
    return [texts[i] for i in range(vocab_size)], [types.get(i, UNUSED) for i in range(vocab_size)]


def _pairs(model: Mapping[str, Any]) -> list[list[str]]:
    """Return the merges as pairs, which older files write as one text."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]


def _byte_level_fields(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of kind gpt2, and notes. Raises ConfigError."""
    model, notes = values["model"], []
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise _refused(f"byte-level BPE with {name}={repr_short(model[name])}")
    normalizers = _types_of(values.get("normalizer"), "normalizers")
    if set(normalizers) - {"NFC"}:
        raise _refused(f"normalizer {', '.join(normalizers)} before a byte-level BPE")
    if normalizers:
        notes.append("llama.cpp does not normalise texts (NFC): one with characters in two parts gets other ids there")
    ignore_merges = bool(model.get("ignore_merges"))
    pre = find_name(values.get("pre_tokenizer"), ignore_merges=ignore_merges)
    if pre is None:
        steps = ", ".join(_types_of(values.get("pre_tokenizer"), "pretokenizers"))
        and_merges = " and ignore_merges" if ignore_merges else ""
        raise _refused(
            f"such pre-tokenizer: it is {steps or 'none'}, with another pattern than those it knows{and_merges}"
        )
    if pre in ("gpt-4o", "tekken"):
        notes.append(f"llama.cpp splits texts with combining marks differently ({pre})")
    if model.get("unk_token") and not bytes_to_unicode().values() <= model["vocab"].keys():
        notes.append(f"llama.cpp drops bytes without a token, and does not write {model['unk_token']}")
    merges = [" ".join(pair) for pair in _pairs(model)]
    # The writer skips an empty list. This merge never applies.
    return {"model": "gpt2", "pre": pre, "merges": merges or [f"{SPACE} {SPACE}"]}, notes


def _sentencepiece_fields(
    values: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of kind llama, and notes. Raises ConfigError."""
    model, notes = values["model"], []
    missing = next((b for b in range(256) if byte_token(b) not in model["vocab"]), None)
    if not model.get("byte_fallback") or missing is not None:
        raise _refused("SentencePiece vocabulary without all 256 bytes")
    add_space, scheme = _space_prefix(values)
    if scheme in ("first", "always"):
        notes.append(LEADING_SPACE)
    inner = next((t for t, k in zip(tokens, types, strict=True) if k == NORMAL and SPACE in t[1:]), None)
    if inner and (values.get("pre_tokenizer") or {}).get("split"):
        raise _refused(f"SentencePiece vocabulary that splits at spaces and has {repr_short(inner)}")
    fields = {"model": "llama", "pre": "default", "scores": _scores(_pairs(model), tokens, types)}
    return fields | {"add_space_prefix": add_space}, notes


def _space_prefix(values: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether a space is put before a text, and by which scheme of Metaspace. Raises ConfigError."""
    steps = _steps(values.get("normalizer"), "normalizers")
    to_space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    pre = values.get("pre_tokenizer")
    if steps in ([to_space], [prepend, to_space]):
        # Nothing is left to split at.
        if pre is None or (pre["type"] == "Split" and pre["pattern"] == {"String": " "}):
            return steps[0] == prepend, ""
    elif not steps and pre is not None and pre["type"] == "Metaspace" and pre.get("replacement") == SPACE:
        scheme = str(pre.get("prepend_scheme", "always"))
        return scheme != "never", scheme
    names = [*_types_of(values.get("normalizer"), "normalizers"), *_types_of(pre, "pretokenizers")]
    raise _refused(f"SentencePiece vocabulary with the steps {', '.join(names) or 'none'} before it")


def _scores(merges: list[list[str]], tokens: Sequence[str], types: Sequence[int]) -> list[float]:
    """Return the score of each token: minus the rank of its first merge, so that earlier merges come first.

    Tokens whose merges alternate get one score, and llama.cpp merges the leftmost pair. For runs of one character that
    is the order of the list: see `merges_by_score`.

    Raises ConfigError if llama.cpp would merge in another order, or a pair that is not in the list.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        first.setdefault(left + right, rank)
        last[left + right] = rank
    scores: dict[str, float] = {}
    block: list[str] = []
    end = -1
    for token, rank in first.items():
        block = [*block, token] if rank < end else [token]
        end = max(end, last[token])
        if block[1:] and any({*token} != {*block[0]} or len({*token}) > 1 for token in block):
            raise _refused(f"list of merges in which {repr_short(block[-2])} is made before and after others")
        scores[token] = float(-first[block[0]])
    listed = {(left, right) for left, right in merges}
    normal = {token for token, type_ in zip(tokens, types, strict=True) if type_ == NORMAL}
    for token in normal:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal and (left, right) not in listed:
                raise _refused(
                    f"SentencePiece vocabulary without the merge of {repr_short(left)} and {repr_short(right)}"
                )
    return [scores.get(token, NEVER) for token in tokens]
