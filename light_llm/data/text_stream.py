"""A text as a stream of chunks, with None between documents; where to cut chunks; splitting a stream in two."""

import re
from collections.abc import Callable, Iterator
from itertools import chain

Chunk = str | None  # a part of a document; None: a document ends here and the next begins
ProgressFn = Callable[[int, int], object]  # (done, total), in bytes unless stated otherwise
LogFn = Callable[[str], object]  # receives a message for the user

MAX_CHUNK_CHARS = 100_000  # a longer run without a word boundary is cut anyway
_WORD_END = re.compile(r"\S[ \n]")


def no_log(message: str) -> None:
    """Discard a message."""


def drop_empty_chunks(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Drop empty chunks and empty documents, so that None is never first, last or repeated.

    >>> list(drop_empty_chunks(iter([None, "a", "", "b", None, "", None, "c", None])))
    ['a', 'b', None, 'c']
    """
    started = pending_break = False
    for chunk in chunks:
        if chunk is None:
            pending_break = started
        elif chunk:
            # A break is only due once text follows it, so an empty document leaves no trace.
            if pending_break:
                yield None
            yield chunk
            started, pending_break = True, False


def split_at_word_boundaries(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Move the cuts between chunks to places where a word ends and a space or line break begins.

    Every pre-tokenizer of the GPT-2 family splits there too, so encoding chunk by chunk gives the same ids as encoding
    the whole document. A run of 100,000 characters without such a place is cut anyway.
    """
    held = ""
    for chunk in chunks:
        if chunk is None:
            yield from _split_text_chunk(held, is_last=True)
            yield None
            held = ""
        elif held:
            *parts, rest = _split_text_chunk(held, is_last=False)
            yield from parts
            held = rest + chunk
        else:
            held = chunk
    yield from _split_text_chunk(held, is_last=True)


def _split_text_chunk(text: str, *, is_last: bool) -> Iterator[str]:
    """Yield the parts that can be encoded now, then (unless the document ends here) the rest, which needs more text."""
    if is_last and len(text) <= MAX_CHUNK_CHARS:
        # Most documents are this short, so skip the search for a boundary.
        if text:
            yield text
        return
    start = _last_word_boundary(text)
    if start:
        yield text[:start]
    else:
        while len(text) - start > MAX_CHUNK_CHARS:
            yield text[start : start + MAX_CHUNK_CHARS]
            start += MAX_CHUNK_CHARS
    if text[start:] or not is_last:
        yield text[start:]


def split_at(
    chunks: Iterator[Chunk], n_chars: int, documents: int = 1, total: int | None = None
) -> tuple[Iterator[Chunk], Callable[[], Iterator[Chunk]]]:
    """Split a stream: return an iterator over the head, and a function to call for the tail once the head is read.

    A single document is cut at exactly n_chars. Several are split at the first break at or after n_chars, or at the
    last break if none comes after, so that no side is empty. If that would make either side more than twice or less
    than half as long as asked for, a long document is in the way, and it is cut at exactly n_chars too.

    Args:
        chunks: a stream without empty chunks.
        n_chars: characters of the head, breaks not counted.
        documents: in the whole stream.
        total: characters of the whole stream; None: never cut one of several documents.
    """
    rest_of_document: list[Chunk] = []
    wanted = 0 if total is None else total - n_chars  # characters of the tail
    # Characters that may move to the head, so that it is at most doubled and the tail at most halved; and to the tail.
    to_head, to_tail = min(wanted / 2, n_chars), min(wanted, n_chars / 2)

    def head() -> Iterator[Chunk]:
        missing, breaks_left = n_chars, documents - 1
        # Chunks from n_chars on, which is at `cut` in the first, until their document ends or has to be cut.
        crossing, cut = list[str](), 0
        for chunk in chunks:
            if chunk is None:
                breaks_left -= 1
                # Stop at the last break too, so that the tail gets at least one document.
                if missing <= 0 or (breaks_left == 0 and (total is None or missing <= to_tail)):
                    break
                yield None
            elif len(chunk) < missing:
                missing -= len(chunk)
                yield chunk
            else:
                cut = cut if crossing else missing
                missing -= len(chunk)
                crossing.append(chunk)
                if breaks_left == 0 or (total is not None and -missing > to_head):
                    rest_of_document.extend(filter(None, [crossing[0][cut:], *crossing[1:]]))
                    crossing = [crossing[0][:cut]]
                    break
        yield from filter(None, crossing)

    return head(), lambda: chain(rest_of_document, chunks)


def _last_word_boundary(text: str) -> int:
    """Return the index after the last word that a space or line break follows; 0 without such a word."""
    # Search ever larger parts from the end: searching the whole text would be slow for ordinary prose, and stepping
    # back one character at a time would be slow for a text of spaces.
    part = 1024
    while True:
        start = max(0, len(text) - part)
        if ends := list(_WORD_END.finditer(text, start)):
            return ends[-1].start() + 1
        if start == 0:
            return 0
        part *= 8
