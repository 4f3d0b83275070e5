"""Documents out of Parquet files, some hundred rows at a time. Needs the extra `parquet` (pyarrow)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .documents import no_such_field, whole_document
from .pieces import Piece
from .reading import Hooks, decode

ROWS = 256  # in memory at a time


def parquet_documents(path: Path, text_field: str, errors: str, hooks: Hooks) -> Iterator[Piece]:
    """One document for each row: the text in a column, which may be a field of a struct (`meta.text`); null is skipped.

    Raises:
        DataError: no pyarrow; a damaged file; no such column, or not of text; bytes that are not UTF-8.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(
            f"{path} is a Parquet file, and reading it needs pyarrow: pip install 'light-llm[parquet]'"
        ) from None
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            column = _column(file.schema_arrow, text_field, path, pa)
            row, size, rows = 0, path.stat().st_size, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(ROWS, columns=[".".join(column)], use_threads=False):
                for value in _values(batch, column, pa):
                    row += 1
                    if value is not None:
                        yield from _document(value, errors, hooks, f"row {row:,} of {path}")
                hooks.position(size * row // rows)  # the rows are what can be counted
    except pa.ArrowException as error:
        raise DataError(f"{path} is damaged or no Parquet file ({_short(error)}); fetch or write it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read as Parquet: {error.strerror or _short(error)}") from None


def _column(schema: Any, name: str, path: Path, pa: Any) -> list[str]:
    """The way to a column of text: one name, or those of the structs it lies in and its own."""
    columns = dict(_columns(schema, []))
    for way, kind in columns.values():
        if ".".join(way) == name:
            if not (pa.types.is_string(_plain(kind, pa)) or pa.types.is_large_string(_plain(kind, pa))):
                raise DataError(
                    f"{path} has {kind} in column {name!r}, not text; name the column that holds the text with "
                    f"--text-field (there are {', '.join(columns)})"
                )
            return way
    raise no_such_field(str(path), "column", name, list(columns))


def _columns(fields: Any, before: list[str]) -> Iterator[tuple[str, tuple[list[str], Any]]]:
    """Every column and field of a struct, by its name with dots."""
    for field in fields:
        way = [*before, field.name]
        yield ".".join(way), (way, field.type)
        if hasattr(field.type, "fields"):
            yield from _columns(field.type.fields, way)


def _plain(kind: Any, pa: Any) -> Any:
    """The type of the values: a dictionary-encoded column has that of its dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _values(batch: Any, way: list[str], pa: Any) -> list[bytes | None]:
    """A column of a batch as bytes: whether they are UTF-8 is for us to say, with the row."""
    array = batch.column(way[0])
    for name in way[1:]:
        array = pa.compute.struct_field(array, name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_binary()).to_pylist()


def _document(value: bytes, errors: str, hooks: Hooks, where: str) -> Iterator[Piece]:
    try:
        text, _, replaced = decode(value, errors, final=True)
    except UnicodeDecodeError as error:
        found = f"byte 0x{value[error.start]:02x} at offset {error.start:,} of the text ({error.reason})"
        raise DataError(
            f"{where} is not UTF-8 text: {found}; write the file anew, or use --errors replace, which puts U+FFFD in "
            f"place of such bytes"
        ) from None
    if replaced:
        hooks.replaced(replaced)
    yield from whole_document(text, errors, hooks, where)


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
