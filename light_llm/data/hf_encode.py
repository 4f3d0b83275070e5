"""Encode texts of any length with the `tokenizers` library: long ones in windows that overlap.

A tokenizer may look at a whole text, so a text can be cut only where that provably changes nothing. Windows of 262,144
characters overlap by 4,096. Where two windows meet, both must have the same tokens, with the same places in the text,
over 2,048 characters; there they are joined. If they have not, both are encoded as one window, if need be up to the
whole text. A pre-tokenizer's pattern that matches from the left, and the merges inside its matches, depend on nothing
but the text after a token's beginning, so the tokens after a common one are common as long as both windows last; a
model without a pre-tokenizer joins neighbours only, and 2,048 characters are many times its longest token.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Encoding
from tokenizers import Tokenizer as Library

WINDOW = 1 << 18  # characters that are new in each window
OVERLAP = 1 << 11  # characters that a window shares with its neighbour, on each side of their border


@dataclass
class _Part:
    """The tokens of text[start:stop]: ids, and the places of their beginnings and ends in the whole text."""

    start: int
    stop: int
    ids: list[int]
    starts: list[int]
    ends: list[int]

    def index_after(self, place: int) -> int:
        """Return the index of the first token that begins at a place or after it."""
        return next((i for i, start in enumerate(self.starts) if start >= place), len(self.ids))


def encode_long(
    library: Library, text: str, *, with_ends: bool = False, window: int = WINDOW, overlap: int = OVERLAP
) -> tuple[list[int], list[int]]:
    """Return the ids of a text, and (with_ends) the index of the character after each token.

    Args:
        window, overlap: characters, for tests.
    """
    if len(text) <= window + overlap:
        encoding = _encode(library, text, with_places=with_ends)
        return encoding.ids, [end for _, end in encoding.offsets] if with_ends else []
    ids: list[int] = []
    ends: list[int] = []
    for part, first, last in _join(library, text, window, overlap):
        ids += part.ids[first:last]
        ends += part.ends[first:last]
    return ids, ends


def _encode(library: Library, text: str, *, with_places: bool) -> Encoding:
    # As a batch, because other threads run only while the library encodes one; `fast` leaves the places out.
    encode = library.encode_batch if with_places else library.encode_batch_fast
    return encode([text], add_special_tokens=False)[0]


def _encode_part(library: Library, text: str, start: int, stop: int) -> _Part:
    encoding = _encode(library, text[start:stop], with_places=True)
    starts, ends = ([start + place[side] for place in encoding.offsets] for side in (0, 1))
    return _Part(start, stop, encoding.ids, starts, ends)


def _join(library: Library, text: str, window: int, overlap: int) -> Iterator[tuple[_Part, int, int]]:
    """Yield windows with the range of their tokens that belongs to the whole text."""
    borders = list(range(window, len(text) - overlap, window))
    part = _encode_part(library, text, 0, borders[0] + overlap)
    first = 0
    for border, following in zip(borders, [*borders[1:], len(text)], strict=True):
        stop = min(following + overlap, len(text))
        new = _encode_part(library, text, border - overlap, stop)
        seam = _find_seam(part, new, border - overlap // 2, border + overlap // 2)
        if seam is None:
            # What was yielded is certain; the rest of this window and the new one are encoded together.
            part = _encode_part(library, text, part.start, stop)
            continue
        yield part, first, seam[0]
        part, first = new, seam[1]
    yield part, first, len(part.ids)


def _find_seam(left: _Part, right: _Part, start: int, stop: int) -> tuple[int, int] | None:
    """Return the indices of a token that both windows have, amid equal ones; None if they differ in [start, stop)."""
    a, b = (part.index_after(start) for part in (left, right))
    n = left.index_after(stop) - a
    same = n > 1 and right.index_after(stop) - b == n
    for field in ("ids", "starts", "ends"):
        same = same and getattr(left, field)[a : a + n] == getattr(right, field)[b : b + n]
    # In the middle, at a token that begins where the one before it ends: not inside a character.
    for i in range(n // 2, n):
        if same and left.starts[a + i] == left.ends[a + i - 1]:
            return a + i, b + i
    return None
