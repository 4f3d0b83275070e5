"""Read JSON records: an array of objects or texts, or objects one after another. Recognize them by their beginning."""

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from .decode_utf8 import ReadCallbacks, decode_bytes, read_text
from .documents import MAX_LINE_BYTES, document_chunks, text_of_field
from .text_stream import Chunk

DETECT_BYTES = 1 << 16  # of a file, to recognize records
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
# A text that was cut has its error here, this many characters before its end at most; or in a text without an end.
_CUT_CHARS = 12
_END, _CUT, _OTHER = "the end", "a record that is cut", "something else"  # what comes after records


class Records(NamedTuple):
    """The kind of records that a file begins with, and the first of them."""

    kind: str  # jsonl: one object per line; json: an array, or objects that take several lines
    first: Any  # the first record; None if it is longer than the beginning


def detect_records(start: bytes, *, is_whole: bool) -> Records | None:
    """Return the JSON records that a file begins with; None for any other text, such as a poem that begins with `[`.

    A beginning of objects has two of them, or one and nothing else. An array of texts has nothing but texts in it.

    Args:
        start: the first `DETECT_BYTES` of the file.
        is_whole: the file has no more.
    """
    text = decode_bytes(start, "replace", final=False)[0].removeprefix("\ufeff").strip()
    is_array = text.startswith("[")
    if not is_array and not text.startswith("{"):
        return None
    records, first_end, after = _parse_beginning(text, is_array, is_whole)
    n_objects = sum(isinstance(record, dict) for record in records)
    if (after == _OTHER and n_objects < 2) or (after == _END and not records):
        return None
    # A first record that is not whole has its line ends in all of the beginning.
    lines = text[:first_end] if records else text
    ends_line = text[first_end : first_end + 3].strip(" \r,")[:1] in ("", "\n")
    is_lines = not is_array and "\n" not in lines and (ends_line or not records)
    return Records("jsonl" if is_lines else "json", records[0] if records else None)


def _parse_beginning(text: str, is_array: bool, is_whole: bool) -> tuple[list[Any], int, str]:
    """Return the records at the beginning of a text, where the first one ends, and what comes after them."""
    records: list[Any] = []
    end, first_end = int(is_array), 0
    while True:
        at = _skip_space(text, end)
        if text[at : at + 1] == "," and records:
            at = _skip_space(text, at + 1)
        if is_array and text[at : at + 1] == "]":
            if text[at + 1 :].strip():
                records.clear()  # it is a text that begins with something in brackets
            return records, first_end, _END
        if at == len(text):
            return records, first_end, _END
        if text[at] not in ('{"' if is_array else "{"):
            return records, first_end, _OTHER
        try:
            record, end = _DECODER.raw_decode(text, at)
        except JSONDecodeError as error:
            # A text that merely begins with {" has a quote that is never closed, but no key.
            is_record = text[at] == '"' or ":" in text[at : error.pos]
            return records, first_end, _CUT if is_record and not is_whole and _is_cut(error, text) else _OTHER
        except (ValueError, RecursionError):  # thousands of digits or nested brackets
            return records, first_end, _OTHER
        records.append(record)
        first_end = first_end or end


def json_documents(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield one document per record: the text in a field of an object, or a text in an array of texts.

    Raises:
        DataError: with the number of the record, one that is not JSON, too long, or without text in that field.
    """
    number = 0
    for number, record in enumerate(_json_values(path, errors, callbacks), 1):
        where = f"record {number:,} of {path}"
        if isinstance(record, str):
            document: str | None = record
        elif isinstance(record, dict):
            document = text_of_field(record, text_field, where)
        else:
            kind = "an array" if isinstance(record, list) else "a bare value"
            raise DataError(
                f'{where} is {kind}, not an object with fields such as {{"text": "..."}}; {{--text-field none}} reads '
                "the file as plain text"
            )
        yield from document_chunks(document, errors, callbacks, where)


def _json_values(path: Path, errors: str, callbacks: ReadCallbacks) -> Iterator[Any]:
    """Yield the elements of an array, or the values that stand one after another, with one of them in memory."""
    chunks = read_text(path, errors=errors, callbacks=callbacks)
    text, at, number = next(chunks, ""), 0, 0
    is_array = needs_comma = False
    while True:
        at = _skip_space(text, at)
        if at == len(text):
            text, at = next(chunks, ""), 0
            if not text:
                break
        elif text[at] == "[" and number == 0 and not is_array:
            is_array, at = True, at + 1
        elif text[at] == "]" and is_array:
            is_array, at = False, at + 1
        elif needs_comma and is_array:
            if text[at] != ",":
                raise DataError(f"record {number:,} of {path} is followed by {text[at]!r} and not by a comma")
            needs_comma, at = False, at + 1
        else:
            number += 1
            value, text, at = _next_value(text, at, chunks, f"record {number:,} of {path}")
            yield value
            needs_comma = True
    if is_array:
        raise DataError(f"{path} ends inside its array, after record {number:,}; write or download it again")


def _next_value(text: str, at: int, chunks: Iterator[str], where: str) -> tuple[Any, str, int]:
    """Return the value at a position, the text that was read so far, and the position after the value."""
    while True:
        try:
            value, end = _DECODER.raw_decode(text, at)
            return value, text, end
        except JSONDecodeError as error:
            if len(text) - at > MAX_LINE_BYTES:
                raise DataError(f"{where} is longer than {MAX_LINE_BYTES:,} characters") from None
            # Twice as much text each time, so that a long record is not parsed again for each chunk.
            more = _take(chunks, len(text) - at) if _is_cut(error, text) else ""
            if not more:
                message = f"{error.msg.removesuffix(' at')} at character {error.pos - at + 1:,}"
                raise DataError(f"{where} is not JSON: {message}") from None
            text, at = text[at:] + more, 0
        except (ValueError, RecursionError):  # Python converts no integer of more than 4,300 digits
            raise DataError(
                f"{where} is JSON that cannot be read: it has thousands of digits or nested brackets"
            ) from None


def _take(chunks: Iterator[str], n_chars: int) -> str:
    """Return at least `n_chars` characters of a stream, or all that is left."""
    taken, size = [], 0
    for chunk in chunks:
        taken.append(chunk)
        size += len(chunk)
        if size >= n_chars:
            break
    return "".join(taken)


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _is_cut(error: JSONDecodeError, text: str) -> bool:
    """Return whether invalid JSON could be valid with more text after it."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _CUT_CHARS
