"""Split Parquet files into documents, some hundred rows at a time. Needs the extra `parquet` (pyarrow)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .decode_utf8 import ReadCallbacks, decode_bytes
from .documents import document_chunks, missing_field_error
from .text_stream import Chunk

BATCH_ROWS = 256  # in memory at a time


def parquet_documents(path: Path, text_field: str, errors: str, callbacks: ReadCallbacks) -> Iterator[Chunk]:
    """Yield one document per row: the text in a column or struct field (`meta.text`). Null is skipped.

    Raises:
        DataError: pyarrow is missing; the file is damaged; the column is missing or no text; bytes are not UTF-8.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(
            f"{path} is a Parquet file, and reading it needs pyarrow: pip install 'light-llm[parquet]'"
        ) from None
    # Without memory mapping a file that is cut off while it is read raises an error instead of crashing the process.
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            column = _find_column(file.schema_arrow, text_field, path, pa)
            row, n_bytes, n_rows = 0, path.stat().st_size, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(BATCH_ROWS, columns=[".".join(column)], use_threads=False):
                for value in _column_values(batch, column, pa):
                    row += 1
                    if value is not None:
                        yield from _decode_document(value, errors, callbacks, f"row {row:,} of {path}")
                # pyarrow does not report a position in the file, so estimate it from the rows.
                callbacks.on_position(n_bytes * row // n_rows)
    except pa.ArrowException as error:
        reason = _first_line(error)
        raise DataError(f"{path} is damaged or not a Parquet file ({reason}); download or write it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read as Parquet: {error.strerror or _first_line(error)}") from None


def _find_column(schema: Any, name: str, path: Path, pa: Any) -> list[str]:
    """Return the path to a text column: its name, preceded by those of the structs that contain it."""
    columns = dict(_walk_columns(schema, []))
    for column, kind in columns.values():
        if ".".join(column) == name:
            value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(value_type) or pa.types.is_large_string(value_type)):
                raise DataError(
                    f"{path} has {kind} in column {name!r}, not text; name the column that holds the text with "
                    f"{{--text-field}} (its columns are {', '.join(columns)})"
                )
            return column
    raise missing_field_error(str(path), "column", name, list(columns))


def _walk_columns(fields: Any, parents: list[str]) -> Iterator[tuple[str, tuple[list[str], Any]]]:
    """Yield every column and struct field: its dotted name, its path, and its type."""
    for field in fields:
        path = [*parents, field.name]
        yield ".".join(path), (path, field.type)
        if hasattr(field.type, "fields"):
            yield from _walk_columns(field.type.fields, path)


def _column_values(batch: Any, column: list[str], pa: Any) -> list[bytes | None]:
    """Return the values of a column as bytes, so that our own decoder can name the row of invalid UTF-8."""
    array = batch.column(column[0])
    for name in column[1:]:
        array = pa.compute.struct_field(array, name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_binary()).to_pylist()


def _decode_document(value: bytes, errors: str, callbacks: ReadCallbacks, where: str) -> Iterator[Chunk]:
    try:
        text, _, replaced = decode_bytes(value, errors, final=True)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{value[error.start]:02x} at offset {error.start:,} of the text ({error.reason})"
        raise DataError(
            f"{where} is not UTF-8 text: {byte}; write the file again, or use {{--errors replace}}, which "
            "replaces such bytes by U+FFFD"
        ) from None
    if replaced:
        callbacks.on_replaced(replaced)
    yield from document_chunks(text, errors, callbacks, where)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
