"""Write a SentencePiece vocabulary as a `tokenizer.json`, for vocabularies from GGUF files and from `tokenizer.model`.

SentencePiece (Kudo and Richardson, 2018) works on characters, writes a space as U+2581, and gives a character that is
no token as its UTF-8 bytes, if the vocabulary has them. It has two kinds of models. "BPE" merges the neighbours whose
joined token has the highest score; the `tokenizers` library merges by a list of merges, which is made from the scores
here. "Unigram" takes the tokens with the highest sum of scores, in both.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import repr_short
from ..data.charsmap import check_charsmap
from ..data.tokenizer_json import bpe_tokenizer_json
from ..errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens, the same in both kinds of files
SPACE = "\u2581"
MAX_TOKEN = 1 << 10  # characters of one that is merged from others: its merges take the square in memory


def byte_token(byte: int) -> str:
    """Return the text of the token that stands for a byte."""
    return f"<0x{byte:02X}>"


@dataclass(frozen=True)
class Normalization:
    """Changes to a text before it is tokenized.

    Args:
        charsmap: SentencePiece's compiled table of replacements of characters (NFKC and others); empty for none.
        add_space_prefix: put a space before a text.
        remove_extra_spaces: drop spaces at both ends, and all but one of several.
        escape_spaces: write a space as U+2581.
    """

    charsmap: bytes = b""
    add_space_prefix: bool = True
    remove_extra_spaces: bool = False
    escape_spaces: bool = True


def sentencepiece_json(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    normalization: Normalization,
    *,
    unigram: bool,
    unknown: int | None,
) -> dict[str, Any]:
    """Return a `tokenizer.json`, without a post-processor.

    Args:
        tokens, scores, types: of each id, (V,).
        unigram: a Unigram model, not a BPE.
        unknown: the id for characters that are no token.

    Raises:
        CheckpointError: a Unigram model without an unknown id, a token of more than MAX_TOKEN characters, or a damaged
            charsmap.
    """
    if normalization.charsmap:
        try:
            check_charsmap(normalization.charsmap)
        except ValueError as error:
            raise CheckpointError(f"the vocabulary cannot be read: {error}; use another copy of it") from None
    vocab = {token: i for i, token in enumerate(tokens)}
    has_bytes = all(byte_token(byte) in vocab for byte in range(256))
    values = bpe_tokenizer_json(vocab, [])
    if unigram:
        if unknown is None:
            raise CheckpointError("the vocabulary is a Unigram model and has no unknown token; use another copy of it")
        pieces = [[token, float(score)] for token, score in zip(tokens, scores, strict=True)]
        values["model"] = {"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": has_bytes}
        values["pre_tokenizer"] = _split_control_tokens(tokens, types)
    else:
        merges = merges_by_score(tokens, scores, types)
        unk = None if unknown is None else tokens[unknown]
        values["model"] |= {
            "merges": merges,
            "unk_token": unk,
            "fuse_unk": unk is not None,
            "byte_fallback": has_bytes,
        }
    return values | {
        "added_tokens": added_tokens(tokens, types),
        "normalizer": _normalizer(normalization),
        "decoder": _decoder(normalization),
    }


def _split_control_tokens(tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any] | None:
    """Return a pre-tokenizer that splits the text of each control token, so that no text becomes one.

    SentencePiece finds only normal and user-defined tokens in a text. The Unigram model of the `tokenizers` library
    finds all of them, `</s>` too, but none across a split. Neighbours that are both no token are not split, because
    together they become one unknown token.
    """
    known = {token for token in tokens if len(token) == 1}
    rests: dict[str, list[str]] = {}
    for token, type_ in zip(tokens, types, strict=True):
        if type_ not in (NORMAL, USER_DEFINED) and len(token) > 1:
            cuts = (cut for cut in range(1, len(token)) if known & set(token[cut - 1 : cut + 1]))
            cut = next(cuts, 1)
            rests.setdefault(re.escape(token[:cut]), []).append(re.escape(token[cut:]))
    if not rests:
        return None
    regex = "|".join(f"{first}(?={'|'.join(found)})" for first, found in rests.items())
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "MergedWithPrevious", "invert": False}


def merges_by_score(tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[list[str]]:
    """Return all pairs of tokens that make a token, that with the highest score first: the merges of a BPE.

    Control tokens, the unknown token and bytes are never made. SentencePiece takes the leftmost of pairs with equal
    scores, which a list cannot express. Runs of spaces have equal scores in real vocabularies. There, the leftmost pair
    is the run that has already grown with the next space, so the pair with the longer left part comes first.
    """
    textual = {token for token, type_ in zip(tokens, types, strict=True) if type_ in (NORMAL, USER_DEFINED, UNUSED)}
    if too_long := next((token for token in textual if len(token) > MAX_TOKEN), None):
        raise CheckpointError(
            f"the vocabulary has a token of {len(too_long):,} characters, {repr_short(too_long)}, and at most "
            f"{MAX_TOKEN:,} are read; use another copy of it"
        )
    found: list[tuple[float, int, int, str, str]] = []
    for i, (token, score) in enumerate(zip(tokens, scores, strict=True)):
        if token not in textual:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in textual and right in textual:
                found.append((-score, -cut, i, left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def added_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    """Return the `added_tokens`: user-defined ones are text, and found before all others; the rest has no text."""
    return list(_added_tokens(tokens, types))


def _added_tokens(tokens: Sequence[str], types: Sequence[int]) -> Iterator[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for i, (token, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ not in (NORMAL, BYTE):
            yield {"id": i, "content": token, **plain, "special": type_ != USER_DEFINED}


def _normalizer(normalization: Normalization) -> dict[str, Any] | None:
    """Return the normalizer that makes the same changes."""
    parts: list[dict[str, Any]] = []
    if normalization.charsmap:
        table = base64.b64encode(normalization.charsmap).decode()
        parts.append({"type": "Precompiled", "precompiled_charsmap": table})
    if normalization.remove_extra_spaces:
        # Spaces only: a line break stays.
        parts += [_replace({"Regex": r"\A +| +\z"}, ""), _replace({"Regex": " {2,}"}, " ")]
    space = SPACE if normalization.escape_spaces else " "
    if normalization.add_space_prefix:
        parts.append({"type": "Prepend", "prepend": space})
    if normalization.escape_spaces:
        parts.append(_replace({"String": " "}, SPACE))
    return {"type": "Sequence", "normalizers": parts} if parts else None


def _decoder(normalization: Normalization) -> dict[str, Any]:
    """Return the decoder that joins tokens: spaces for U+2581, bytes as characters, without the space in front."""
    parts: list[dict[str, Any]] = [_replace({"String": SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if normalization.add_space_prefix:
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": parts}


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": dict(pattern), "content": content}


def template(prefix: Sequence[tuple[str, int]], suffix: Sequence[tuple[str, int]]) -> dict[str, Any] | None:
    """Return the post-processor that puts tokens (text and id) before and after each text."""
    if not prefix and not suffix:
        return None

    def special(tokens: Sequence[tuple[str, int]], sequence: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token, "type_id": sequence}} for token, _ in tokens]

    def around(name: str, sequence: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": name, "type_id": sequence}}
        return [*special(prefix, sequence), text, *special(suffix, sequence)]

    ids = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in (*prefix, *suffix)}
    single = around("A", 0)
    return {"type": "TemplateProcessing", "single": single, "pair": single + around("B", 1), "special_tokens": ids}


def dump(values: Mapping[str, Any]) -> bytes:
    """Return a `tokenizer.json` as bytes."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
