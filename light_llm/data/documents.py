"""Split files into documents: plain text, texts with separator lines, JSON Lines."""

import json
import re
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from .decode_utf8 import (
    READ_BYTES,
    REPLACEMENT,
    ReadCallbacks,
    check_is_text,
    decode_bytes,
    open_file,
    read_text,
    utf8_error,
)
from .file_formats import START_BYTES
from .text_stream import Chunk

SEPARATOR = "<|endoftext|>"  # a line of its own between the stories of a built-in text
MAX_LINE_BYTES = 1 << 24  # of JSON; its values can take forty times that in memory
MAX_LISTED_FIELDS = 12  # in an error message


def text_documents(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield a text file as one document."""
    yield from read_text(path, errors=errors, callbacks=callbacks)
    yield None


def story_documents(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Return the stories of a file, which are separated by lines that are exactly `<|endoftext|>`."""
    return split_documents(text_documents(path, text_field, errors, callbacks), SEPARATOR)


def split_documents(chunks: Iterator[Chunk], separator: str) -> Iterator[Chunk]:
    """Split the documents of a stream at the lines that are exactly `separator`.

    The line breaks on both sides of such a line belong to it, so that joining the parts with it loses nothing.
    """
    for is_break, parts in groupby(chunks, lambda chunk: chunk is None):
        if is_break:
            yield None
        else:
            yield from _split_document(filter(None, parts), separator)


def _split_document(chunks: Iterator[str], separator: str) -> Iterator[Chunk]:
    # A line ends in LF or CRLF. The CR before a separator is part of it only if it ends in CRLF too.
    mark, longest = f"\n{separator}", len(f"\r\n{separator}\r\n")
    # Read the document as if it had a line break before and after it. The break that ends one separator may begin the
    # next: it is then the first `skip` characters of `held`, and no part of a document.
    held, skip = "", 1
    for chunk in chain(["\n"], chunks, ["\n"]):
        held, start, after = held + chunk, 0, 0
        while (at := held.find(mark, after)) >= 0:
            after = at + len(mark)
            if held.startswith("\n", after):
                yield held[start + skip : at]
                yield None
                start, skip = after, 1
            elif held.startswith("\r\n", after):
                yield held[start + skip : at - (held[at - 1 : at] == "\r")]
                yield None
                start, skip = after, 2
        # Text before `safe` cannot become part of a separator, however the document continues.
        safe = len(held) - longest
        if safe >= start + skip:
            yield held[start + skip : safe]
            start, skip = safe, 0
        held = held[start:]
    yield held[skip:-1]


def jsonl_documents(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield one document per line: the text in a field of its JSON object. Blank lines and null are skipped.

    Raises:
        DataError: with the line number, a line that is not UTF-8, not JSON, no object, or has no text in that field.
    """
    offset = reported = number = 0
    with open_file(path) as (file, position):
        # Limit the line: a large file without line breaks would otherwise be read into memory at once.
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"line {number:,} of {path}"
            if number == 1:
                check_is_text(path, line[:START_BYTES])
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{where} is longer than {MAX_LINE_BYTES:,} bytes; is there one JSON object per line? Write "
                    "longer texts as files in a folder"
                )
            try:
                text, _, replaced = decode_bytes(line, errors, final=True)
            except UnicodeDecodeError as error:
                raise utf8_error(path, offset + error.start, error, f" in line {number:,}") from None
            if replaced:
                callbacks.on_replaced(replaced)
            offset += len(line)
            text = text.removeprefix("\ufeff") if number == 1 else text
            if text.strip():
                document = text_of_field(_parse_object(text, where), text_field, where)
                yield from document_chunks(document, errors, callbacks, where)
            if offset - reported >= READ_BYTES:
                reported = offset
                callbacks.on_position(position())
        callbacks.on_position(position())


def document_chunks(document: str | None, errors: str, callbacks: ReadCallbacks, where: str) -> Iterator[Chunk]:
    r"""Yield a document in chunks of limited size, then None. A missing document (None) is skipped.

    Raises:
        DataError: with errors="strict", half a surrogate pair, which JSON can spell (`"\ud800"`) and UTF-8 cannot.
    """
    if document is None:
        return
    try:
        document.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise DataError(
                f"{where} has half a surrogate pair, \\u{ord(document[error.start]):04x}, which is not a character; "
                f"correct it, or use {{--errors replace}}, which replaces it by U+FFFD"
            ) from None
        document, replaced = re.subn("[\ud800-\udfff]", REPLACEMENT, document)
        callbacks.on_replaced(replaced)
    yield from (document[start : start + READ_BYTES] for start in range(0, len(document), READ_BYTES))
    yield None


def missing_field_error(where: str, kind: str, name: str, names: list[str]) -> DataError:
    """Return the error for a missing field (or column), with the names that exist and the nearest of them."""
    more = f" and {len(names) - MAX_LISTED_FIELDS} more" if len(names) > MAX_LISTED_FIELDS else ""
    listed = f"Its {kind}s are {', '.join(names[:MAX_LISTED_FIELDS])}{more}" if names else f"It has no {kind}s"
    return DataError(
        f"{where} has no {kind} {name!r}{did_you_mean(name, names)} {listed}; name the one that holds the text "
        f"with {{--text-field}}"
    )


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1:,}"
        ) from None
    except (ValueError, RecursionError):  # Python converts no integer of more than 4,300 digits
        raise DataError(f"{where} is JSON that cannot be read: it has thousands of digits or nested brackets") from None
    if not isinstance(value, dict):
        kind = "an array" if isinstance(value, list) else "a bare value"
        raise DataError(f'{where} is {kind}, not an object with fields such as {{"text": "..."}}')
    return value


def text_of_field(line: dict[str, Any], name: str, where: str) -> str | None:
    """Return the text in a field of a record: `meta.text` is "text" inside "meta", unless a field has that name."""
    value: Any = line
    for part in [name] if name in line else name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise missing_field_error(where, "field", name, _field_names(line))
        value = value[part]
    if value is None or isinstance(value, str):
        return value
    kind = {dict: "an object", list: "an array", bool: "true or false"}.get(type(value), "a number")
    raise DataError(
        f"{where} has {kind} in field {name!r}, not text; name the field that holds the text with "
        f"{{--text-field}} (its fields are {', '.join(_field_names(line)[:MAX_LISTED_FIELDS])})"
    )


def _field_names(line: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the fields of an object as --text-field takes them: nested ones with dots, four levels deep."""
    names: list[str] = []
    for key, value in line.items():
        names.append(prefix + key)
        if isinstance(value, dict) and prefix.count(".") < 3:
            names += _field_names(value, f"{prefix}{key}.")
    return names
