"""Split CSV and TSV files into documents: one per row, the text in a column."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from .decode_utf8 import ReadCallbacks, read_text
from .documents import MAX_LINE_BYTES, document_chunks, missing_field_error
from .text_stream import Chunk

_DELIMITERS = ",;\t"
_COLUMN = re.compile(r"\w([\w .-]{0,30}\w)?")


def csv_documents(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield one document per row: the text in a column, which the first row names. Empty rows and texts are skipped.

    Values are separated by commas, semicolons or tabs, and quoted as RFC 4180 says.

    Raises:
        DataError: with the line, a column that is missing, a row of another length, quotes that are not closed.
    """
    # Of the whole process, and only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    lines = _lines(read_text(path, errors=errors, callbacks=callbacks), path)
    header = next(lines, "")
    delimiter = _delimiter_of(header, text_field)
    names = [name.strip() for name in _rows([header], delimiter)[0]]
    if text_field not in names:
        raise missing_field_error(str(path), "column", text_field, names)
    column, rows = names.index(text_field), csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in rows:
            where = f"line {rows.line_num + 1:,} of {path}"
            if not row:
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{where} ends a row of {len(row)} values, and the first line names {len(names)} columns; put a "
                    "text with commas, quotes or line breaks in quotes, and write quotes in it twice"
                )
            yield from document_chunks(row[column], errors, callbacks, where)
    except csv.Error as error:
        raise DataError(
            f"line {rows.line_num + 1:,} of {path} is not CSV ({error}); is a quote missing, or not written twice?"
        ) from None


def csv_columns(start: str) -> list[str]:
    r"""Return the columns that a text names in its first line, if it begins as a table does; empty for other texts.

    >>> csv_columns("id,text\n1,a\n2,b\n3,c\n"), csv_columns("Roses, red\nviolets, blue\nand, you\n")
    (['id', 'text'], [])
    """
    lines = start.split("\n")[:-1][:10]  # the last one may be cut
    for delimiter in _DELIMITERS:
        rows = [row for row in _rows(lines, delimiter) if row]
        names = rows[0] if rows else []
        # In prose a space follows a comma.
        named = all(_COLUMN.fullmatch(name) for name in names) and len({*names}) == len(names)
        if len(rows) > 2 and len(names) > 1 and named and all(len(row) == len(names) for row in rows):
            return names
    return []


def _delimiter_of(header: str, text_field: str) -> str:
    """Return the separator by which a first line has the column, or else the one that it has most often."""
    for delimiter in _DELIMITERS:
        if text_field in (name.strip() for name in _rows([header], delimiter)[0]):
            return delimiter
    return max(_DELIMITERS, key=header.count)


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """Return the rows of some lines; lines that are not CSV, such as those with CR inside, are one value."""
    try:
        return list(csv.reader(lines, delimiter=delimiter)) or [[]]
    except csv.Error:
        return [lines]


def _lines(chunks: Iterator[str], path: Path) -> Iterator[str]:
    """Yield lines with their ends. Raises DataError for one that is too long to be held in memory."""
    held = ""
    for chunk in chunks:
        *lines, held = (held + chunk).split("\n")
        yield from (f"{line}\n" for line in lines)
        if len(held) > MAX_LINE_BYTES:
            raise DataError(f"{path} has a line of more than {MAX_LINE_BYTES:,} characters")
    if held:
        yield held
