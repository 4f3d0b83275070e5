"""Documents out of files: a text each, stories with a line between them, lines of JSON."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from .pieces import Piece
from .reading import PIECE, REPLACEMENT, Hooks, decode, not_utf8, opened, read_text, refuse_utf16

SEPARATOR = "<|endoftext|>"  # a line of its own between the stories of a file; nothing special in a user's text
LONGEST_LINE = 1 << 24  # bytes of one line of JSON; its values can take forty times that in memory
MOST_NAMES = 12  # fields or columns an error lists


def text_documents(path: Path, text_field: str, errors: str, hooks: Hooks) -> Iterator[Piece]:
    """A text file is one document."""
    yield from read_text(path, errors=errors, hooks=hooks)
    yield None


def story_documents(path: Path, text_field: str, errors: str, hooks: Hooks) -> Iterator[Piece]:
    """The stories of a file, which stand between lines that are `<|endoftext|>` and nothing else.

    The line breaks on both sides of such a line belong to it, so that joining documents with it loses nothing.
    """
    mark = f"\n{SEPARATOR}\n"
    # The file is read as if a line break stood before and after it. The break that ends a separator may begin the
    # next one; it is the first character of `held` then, and no part of a story (skip = 1).
    held, skip = "", 1
    for piece in chain(["\n"], read_text(path, errors=errors, hooks=hooks), ["\n"]):
        held, start = held + piece, 0
        while (at := held.find(mark, start)) >= 0:
            yield held[start + skip : at]
            yield None
            start, skip = at + len(mark) - 1, 1
        sure = len(held) - len(mark) + 1  # no later text can make a separator of what is before this
        if sure > start:
            yield held[start + skip : sure]
            start, skip = sure, 0
        held = held[start:]
    yield held[skip:-1]
    yield None


def jsonl_documents(path: Path, text_field: str, errors: str, hooks: Hooks) -> Iterator[Piece]:
    """One document for each line: the text in a field of the object on it. Blank lines and null are passed over.

    Raises:
        DataError: with the line number, what is not UTF-8, not JSON, not an object, or has no text in that field.
    """
    offset = told = number = 0
    with opened(path) as (file, tell):
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            where = f"line {number:,} of {path}"
            if number == 1:
                refuse_utf16(path, line[:4096])
            if len(line) > LONGEST_LINE:
                raise DataError(
                    f"{where} is longer than {LONGEST_LINE:,} bytes; is it one JSON object a line? Longer texts can be "
                    "files of their own in a folder"
                )
            try:
                text, _, replaced = decode(line, errors, final=True)
            except UnicodeDecodeError as error:
                raise not_utf8(path, offset + error.start, error, f" in line {number:,}") from None
            if replaced:
                hooks.replaced(replaced)
            offset += len(line)
            text = text.removeprefix("\ufeff") if number == 1 else text
            if text.strip():
                yield from whole_document(_field(_parsed(text, where), text_field, where), errors, hooks, where)
            if offset - told >= PIECE:
                told = offset
                hooks.position(tell())
        hooks.position(tell())


def whole_document(document: str | None, errors: str, hooks: Hooks, where: str) -> Iterator[Piece]:
    """A document that came in one: handed on in pieces, with a break after it.

    JSON can spell half a surrogate pair (`"\\ud800"`), which is no character and cannot be written as UTF-8.

    Raises:
        DataError: with errors="strict", such a half.
    """
    if document is None:
        return
    try:
        document.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise DataError(
                f"{where} holds half a surrogate pair, \\u{ord(document[error.start]):04x}, which is no character; "
                f"correct it, or use --errors replace, which puts U+FFFD in its place"
            ) from None
        document, replaced = re.subn("[\ud800-\udfff]", REPLACEMENT, document)
        hooks.replaced(replaced)
    for start in range(0, len(document), PIECE):
        yield document[start : start + PIECE]
    yield None


def no_such_field(where: str, kind: str, wanted: str, known: list[str]) -> DataError:
    """What to say where a field (or column) is missing: those that are there, and the nearest."""
    names = ", ".join(known[:MOST_NAMES]) + (f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else "")
    there = f"The {kind}s there are {names}" if known else f"It has no {kind}s"
    return DataError(
        f"{where} has no {kind} {wanted!r}{did_you_mean(wanted, known)} {there}; name the one that holds the text "
        f"with --text-field"
    )


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1:,}"
        ) from None
    except ValueError:
        raise DataError(f"{where} is no JSON that can be read: a number of thousands of digits") from None
    except RecursionError:
        raise DataError(f"{where} is no JSON that can be read: brackets nested thousands deep") from None
    if not isinstance(value, dict):
        kind = "an array" if isinstance(value, list) else "a bare value"
        raise DataError(f'{where} is {kind}, not an object with fields such as {{"text": "..."}}')
    return value


def _field(line: dict[str, Any], name: str, where: str) -> str | None:
    """The text in a field; meta.text is the field "text" of the object in "meta", unless a field has that very name."""
    value: Any = line
    for part in [name] if name in line else name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise no_such_field(where, "field", name, _names(line))
        value = value[part]
    if value is None or isinstance(value, str):
        return value
    kind = {dict: "an object", list: "an array", bool: "true or false"}.get(type(value), "a number")
    raise DataError(
        f"{where} has {kind} in field {name!r}, not text; name the field that holds the text with --text-field "
        f"(there are {', '.join(_names(line)[:MOST_NAMES])})"
    )


def _names(line: dict[str, Any], before: str = "") -> list[str]:
    """The fields of an object as --text-field takes them: those of objects in it with a dot."""
    names: list[str] = []
    for key, value in line.items():
        names.append(before + key)
        if isinstance(value, dict) and before.count(".") < 3:
            names += _names(value, f"{before}{key}.")
    return names
