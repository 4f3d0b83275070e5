"""Split CSV and TSV files into documents: one per row, the text in a column."""

import csv
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from .decode_utf8 import ReadCallbacks, read_text
from .documents import MAX_LINE_BYTES, document_chunks, missing_field_error
from .text_stream import Chunk

_DELIMITERS = ",;\t"


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
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
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


def _delimiter_of(header: str, text_field: str) -> str:
    """Return the separator by which a first line has the column, or else the one that it has most often."""
    for delimiter in _DELIMITERS:
        if text_field in (name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])):
            return delimiter
    return max(_DELIMITERS, key=header.count)


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
