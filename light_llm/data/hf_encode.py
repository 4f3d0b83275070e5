"""Encode texts of any length with a published tokenizer: long ones in windows that overlap.

A tokenizer may look at a whole text, so a text can be cut only where that provably changes nothing. Windows of 262,144
characters overlap by 4,096. Where two windows meet, both must have the same tokens, with the same places in the text,
over 2,048 characters; there they are joined. If they have not, both are encoded as one window, if need be up to the
whole text. A pre-tokenizer's pattern that matches from the left, and the merges inside its matches, depend on nothing
but the text after a token's beginning, so the tokens after a common one are common as long as both windows last; a
model without a pre-tokenizer joins neighbours only, and 2,048 characters are many times its longest token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library

from ..config import repr_short
from ..errors import DataError

WINDOW = 1 << 18  # characters that are new in each window
OVERLAP = 1 << 11  # characters that a window shares with its neighbour, on each side of their border
Array = NDArray[np.int64]
Places = tuple[Array, Array, Array]  # ids, and where each begins and ends in the text: all (n,)


class Engine(Protocol):
    """Encodes texts. Places in a text are counted in units of its own: characters or bytes."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def encode_places(self, text: str) -> Places:
        """Return the ids of a text, and the places where each begins and ends."""
        ...

    def length(self, text: str) -> int:
        """Return the length of a text in the units of places."""
        ...


class LibraryEngine(Engine):
    """The `tokenizers` library; places are characters.

    Raises DataError for a text with an unknown part if the tokenizer has no token for one.
    """

    def __init__(self, library: Library) -> None:
        self.library = library

    def encode(self, text: str) -> list[int]:
        # As a batch, because other threads run only while the library encodes one; `fast` leaves the places out.
        try:
            return list(self.library.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        except BaseException as error:
            raise self._explain(error, text) from None

    def encode_places(self, text: str) -> Places:
        try:
            encoding = self.library.encode_batch([text], add_special_tokens=False)[0]
        except BaseException as error:
            raise self._explain(error, text) from None
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1]

    def length(self, text: str) -> int:
        return len(text)

    def _explain(self, error: BaseException, text: str) -> BaseException:
        """Return a DataError with the word or character that the library fails on, or the error if it is not one."""
        if not is_failure(error):
            return error
        part = text
        # A panic is not repeated, because each prints a long report.
        if isinstance(error, Exception):
            part = next((word for word in dict.fromkeys(text.split()) if self._fails(word)), text)
        if isinstance(error, Exception) and type(self.library.model).__name__ != "WordLevel":
            part = next((char for char in dict.fromkeys(part) if self._fails(char)), part)
        return DataError(
            f"the tokenizer cannot encode {repr_short(part)} ({error}); leave it out of the text, or name an unknown "
            "token that is in the vocabulary in tokenizer.json, and import the model again"
        )

    def _fails(self, text: str) -> bool:
        try:
            self.library.encode_batch_fast([text], add_special_tokens=False)
        except BaseException as error:
            if not is_failure(error):
                raise
            return True
        return False


def is_failure(error: BaseException) -> bool:
    """Return whether the library raised an error: an Exception, or Rust's PanicException, which is not even that."""
    return not isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError)


@dataclass
class _Part:
    """The tokens of a window that begins at the character `begin`, with their places in the whole text."""

    begin: int
    ids: Array
    starts: Array
    ends: Array

    def index_after(self, place: int) -> int:
        """Return the index of the first token that begins at a place or after it."""
        after = self.starts >= place
        return int(after.argmax()) if after.any() else len(self.ids)


def encode_long(engine: Engine, text: str, *, window: int = WINDOW, overlap: int = OVERLAP) -> Array:
    """Return the ids of a text, (n,).

    Args:
        window, overlap: characters, for tests.
    """
    if len(text) <= window + overlap:
        return np.array(engine.encode(text), dtype=np.int64)
    parts = [part.ids[first:last] for part, first, last in _join(engine, text, window, overlap)]
    return np.concatenate(parts)


def encode_with_ends(engine: Engine, text: str, *, window: int = WINDOW, overlap: int = OVERLAP) -> tuple[Array, Array]:
    """Return the ids of a text, and the place after each token, both (n,); see `encode_long`."""
    if len(text) <= window + overlap:
        ids, _, ends = engine.encode_places(text)
        return ids, ends
    parts = [(part.ids[i:j], part.ends[i:j]) for part, i, j in _join(engine, text, window, overlap)]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([ends for _, ends in parts])


def _join(engine: Engine, text: str, window: int, overlap: int) -> Iterator[tuple[_Part, int, int]]:
    """Yield windows with the range of their tokens that belongs to the whole text."""
    borders = list(range(window, len(text) - overlap, window))
    part = _encode_part(engine, text, 0, borders[0] + overlap, 0)
    first, place, place_of = 0, 0, 0  # the length of text[:place_of]
    for border, following in zip(borders, [*borders[1:], len(text)], strict=True):
        begin, stop = border - overlap, min(following + overlap, len(text))
        place, place_of = place + engine.length(text[place_of:begin]), begin
        new = _encode_part(engine, text, begin, stop, place)
        middle = place + engine.length(text[begin:border])
        seam = _find_seam(part, new, middle - overlap // 2, middle + overlap // 2)
        if seam is None:
            # What was yielded is certain; the rest of this window and the new one are encoded together.
            part = _encode_part(engine, text, part.begin, stop, place - engine.length(text[part.begin : begin]))
            continue
        yield part, first, seam[0]
        part, first = new, seam[1]
    yield part, first, len(part.ids)


def _encode_part(engine: Engine, text: str, begin: int, stop: int, place: int) -> _Part:
    """Return the window text[begin:stop], which begins at `place` in the units of the engine."""
    ids, starts, ends = engine.encode_places(text[begin:stop])
    return _Part(begin, ids, place + starts, place + ends)


def _find_seam(left: _Part, right: _Part, start: int, stop: int) -> tuple[int, int] | None:
    """Return the indices of a token that both windows have, amid equal ones; None if they differ in [start, stop)."""
    a, b = (part.index_after(start) for part in (left, right))
    n = left.index_after(stop) - a
    same = n > 1 and right.index_after(stop) - b == n
    for field in ("ids", "starts", "ends"):
        same = same and np.array_equal(getattr(left, field)[a : a + n], getattr(right, field)[b : b + n])
    # In the middle, at a token that begins where the one before it ends: not inside a character.
    for i in range(n // 2, n):
        if same and left.starts[a + i] == left.ends[a + i - 1]:
            return a + i, b + i
    return None
