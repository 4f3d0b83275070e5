"""A text as a stream: stretches of it, with None where one document ends and the next begins."""

import re
from collections.abc import Callable, Iterator

Piece = str | None  # a stretch of text; None: one document ends here and the next begins
Progress = Callable[[int, int], None]  # bytes done, bytes in all
Say = Callable[[str], object]  # takes a line for the user

LONGEST_RUN = 100_000  # characters without a safe cut before one is made all the same
_WORD_END = re.compile(r"\S[ \n]")


def silent(line: str) -> None:
    """Say nothing."""


def tidy(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same documents without empty pieces and empty documents: a break is never first, last or doubled.

    >>> list(tidy(iter([None, "a", "", "b", None, "", None, "c", None])))
    ['a', 'b', None, 'c']
    """
    started = due = False
    for piece in pieces:
        if piece is None:
            due = started
        elif piece:
            if due:
                yield None
            yield piece
            started, due = True, False


def at_safe_cuts(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same documents, each cut only where a word ends and a space or line break begins.

    Every pre-tokenizer of the GPT-2 family also splits there, so that encoding the pieces one by one gives the very
    ids that encoding the whole gives. A run of 100,000 characters without such a place is cut all the same.
    """
    held = ""
    for piece in pieces:
        if piece is None:
            yield from _in_parts(held, last=True)
            yield None
            held = ""
        elif held:
            *parts, rest = _in_parts(held, last=False)
            yield from parts
            held = rest + piece
        else:
            held = piece
    yield from _in_parts(held, last=True)


def _in_parts(text: str, *, last: bool) -> Iterator[str]:
    """What of a text can be encoded now, then (unless it is the last of its document) what has to wait for more."""
    if last and len(text) <= LONGEST_RUN:  # most documents are short: no need to look for a place
        if text:
            yield text
        return
    start = _last_safe_cut(text)
    if start:
        yield text[:start]
    else:
        while len(text) - start > LONGEST_RUN:
            yield text[start : start + LONGEST_RUN]
            start += LONGEST_RUN
    if text[start:] or not last:
        yield text[start:]


def split_at(
    pieces: Iterator[Piece], n_chars: int, documents: int = 1
) -> tuple[Iterator[Piece], Callable[[], Iterator[Piece]]]:
    """Two iterators over one: what comes before the cut, then (once that is read) a call for the rest.

    Args:
        pieces: a stream as `tidy` leaves it.
        n_chars: characters before the cut, breaks not counted.
        documents: how many there are in all. One is cut at exactly n_chars. Of several none is cut in two: the cut is
            the first break at or after n_chars, or the last break if none comes after, so that neither side is empty.
    """
    return _split_text(pieces, n_chars) if documents == 1 else _split_documents(pieces, n_chars, documents)


def _split_text(pieces: Iterator[Piece], n_chars: int) -> tuple[Iterator[Piece], Callable[[], Iterator[Piece]]]:
    left = [""]

    def head() -> Iterator[Piece]:
        wanted = n_chars
        for piece in pieces:
            assert piece is not None, "a text of one document has no breaks"
            if len(piece) >= wanted:
                left[0] = piece[wanted:]
                if wanted:
                    yield piece[:wanted]
                return
            wanted -= len(piece)
            yield piece

    def tail() -> Iterator[Piece]:
        if left[0]:
            yield left[0]
        yield from pieces

    return head(), tail


def _split_documents(
    pieces: Iterator[Piece], n_chars: int, documents: int
) -> tuple[Iterator[Piece], Callable[[], Iterator[Piece]]]:
    def head() -> Iterator[Piece]:
        seen, breaks_left = 0, documents - 1
        for piece in pieces:
            if piece is None:
                breaks_left -= 1
                if seen >= n_chars or breaks_left == 0:
                    return
            else:
                seen += len(piece)
            yield piece

    return head(), lambda: pieces


def _last_safe_cut(text: str) -> int:
    """Where the last word that a space or line break follows ends; 0 if there is none.

    Looked for in ever larger parts from the end: one look at the whole would be slow for a text of words, and one
    step at a time slow for a text of spaces.
    """
    part = 1024
    while True:
        start = max(0, len(text) - part)
        if ends := list(_WORD_END.finditer(text, start)):
            return ends[-1].start() + 1
        if start == 0:
            return 0
        part *= 8
