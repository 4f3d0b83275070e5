"""Stream the text of ids whose decoder is more than joining bytes: leading spaces, `##`, bytes in place of characters.

What one id adds to a text depends on its neighbours, so ids are decoded together with those before them, and the text
that is new is what follows the text that was already there.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Library

from .tokenizer_interface import TextStream

if TYPE_CHECKING:
    from .hf_tokenizer import HuggingFaceTokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# What these make of a token depends on the tokens before it up to the last character that is no space, and on nothing
# else. Replace is one of them where it stands before Fuse, or replaces a single character.
LOCAL_DECODERS = {"ByteLevel", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece", "BPEDecoder", "Replace"}


def decoder_types(library: Library) -> tuple[str, ...]:
    """Return the types of a tokenizer's decoders, in order; `Replace` of several characters after Fuse is `Regex`."""
    if library.decoder is None:
        return ()
    types: list[str] = []

    def collect(part: dict[str, Any]) -> None:
        if part["type"] == "Sequence":
            for inner in part["decoders"]:
                collect(inner)
        elif part["type"] == "Replace" and "Fuse" in types and len(part["pattern"].get("String", "  ")) != 1:
            types.append("Regex")
        else:
            types.append(part["type"])

    collect(json.loads(library.decoder.__getstate__()))
    return tuple(types)


def byte_of_token(text: str) -> int | None:
    """Return the byte that a token of byte fallback stands for; None for another token.

    >>> byte_of_token("<0x41>"), byte_of_token("A")
    (65, None)
    """
    match = _BYTE_TOKEN.fullmatch(text)
    return int(match[1], 16) if match else None


class WindowStream(TextStream):
    """Decodes ids one at a time; the pieces joined are the decoded text.

    A character is held back until it is complete. With byte fallback, so is a run of bytes, because the library decodes
    a run that is not valid UTF-8 as a whole to replacement characters.

    Args:
        tokenizer: of the ids.
        after: the ids before the first, which are not part of the text but may decide how it begins.
    """

    def __init__(self, tokenizer: "HuggingFaceTokenizer", after: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        types = set(tokenizer.decoder_types)
        self._has_byte_tokens = "ByteFallback" in types
        self._is_local = types <= LOCAL_DECODERS
        self._ids = [i for i in after if i not in tokenizer.special_ids]
        self._shown = tokenizer.decode_plain(self._ids)  # the text of the first `_n_shown` ids
        self._n_shown = len(self._ids)

    def push(self, token: int) -> str:
        """Return the text that this id completes, possibly none."""
        if token in self.tokenizer.special_ids:
            return ""
        self._ids.append(token)
        if not self._is_local or self._is_byte(token):
            return ""
        text = self.tokenizer.decode_plain(self._ids)
        if text.endswith("\ufffd") or not text.startswith(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._shown = text
        # Keep only the ids of this piece as the context of the next one, if they are enough of one: blank text can be
        # stripped at the beginning, and bytes belong to the run before them.
        if piece.strip() and not self._is_byte(self._ids[self._n_shown]):
            self._ids = self._ids[self._n_shown :]
            self._shown = self.tokenizer.decode_plain(self._ids)
        self._n_shown = len(self._ids)
        return piece

    def close(self) -> str:
        """Return the text that was held back."""
        text = self.tokenizer.decode_plain(self._ids)
        n = next((i for i, (a, b) in enumerate(zip(text, self._shown, strict=False)) if a != b), len(self._shown))
        self._ids, self._shown, self._n_shown = [], "", 0
        return text[n:]

    def _is_byte(self, token: int) -> bool:
        return self._has_byte_tokens and byte_of_token(self.tokenizer.library.id_to_token(token) or "") is not None
