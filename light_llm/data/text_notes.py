"""Notes on a text: the files of a folder that were read, records in a file of any name, and probable mistakes."""

from pathlib import Path

from ..text_format import format_bytes
from .csv_rows import csv_columns
from .decode_utf8 import decode_bytes, open_file
from .fingerprint import TextStats
from .json_records import DETECT_BYTES, detect_records
from .piped_text import title_of
from .text_files import NO_FIELD, TextFiles, list_others, list_skipped, suffix_to_read

MANY_MARKS = 4  # lines; fewer may be a text about such marks
_KINDS = {"jsonl": "JSON Lines", "json": "JSON records"}


def folder_note(folder: Path, texts: TextFiles, stats: TextStats) -> str:
    """Return a note of the files that were read from a folder, and of those that were not."""
    files = f"{len(texts.files):,} file{'s' * (len(texts.files) > 1)}"
    skipped = f"; skipped: {list_skipped(texts.skipped)}" if texts.skipped else ""
    documents = f"{stats.documents:,} document{'s' * (stats.documents > 1)}"
    return f"the folder {folder} has {files} of text, {documents}{skipped}{_others_note(texts)}"


def _others_note(texts: TextFiles) -> str:
    """Return the part on files that are no text, with the way to read them if they are larger than the text."""
    if not texts.others:
        return ""
    note = f"; not read: {list_others(texts.others)}"
    read_bytes, other_bytes = sum(file.stat().st_size for file in texts.files), sum(o.bytes for o in texts.others)
    if other_bytes <= read_bytes:
        return note
    note += f", {format_bytes(other_bytes)} and more than what is read"
    suffix = suffix_to_read(texts.others, read_bytes)
    return f"{note}; {{--suffixes {suffix}}} reads those instead" if suffix else note


def text_notes(title: str, texts: TextFiles, stats: TextStats) -> list[str]:
    """Return notes on what is unusual in a text: records, marks between documents, characters of a wrong encoding."""
    notes, options = [], texts.options
    if texts.records:
        notes.append(
            f"{title} is read as {_KINDS[texts.kind]}: each record is a document, its text in the field "
            f"{options.text_field!r}; {{--text-field {NO_FIELD}}} reads it as plain text"
        )
    elif texts.kind == "text" and options.text_field != NO_FIELD and (found := _table_or_records(texts.files[0])):
        notes.append(found)
    if stats.end_mark_lines >= MANY_MARKS:
        notes.append(
            f"{title} has {stats.end_mark_lines:,} lines {stats.end_mark}, which are ordinary text to train on and end "
            f"no document; {{--separator '{stats.end_mark}'}} splits the text into documents there"
        )
    if options.separator and texts.kind == "text" and stats.documents <= len(texts.files):
        notes.append(f"{title} has no line {options.separator!r} between two documents ({{--separator}})")
    # U+0085 is a line break of mainframes.
    if controls := [c for c in stats.alphabet if "\x80" <= c <= "\x9f" and c != "\x85"]:
        listed = ", ".join(f"U+{ord(c):04X}" for c in controls[:3]) + ", ..." * (len(controls) > 3)
        notes.append(
            f"{title} has the control characters {listed}, where Windows-1252 has quotes and dashes: it was "
            "converted as Latin-1; convert the original with iconv -f WINDOWS-1252 -t UTF-8"
        )
    return notes


def _table_or_records(path: Path) -> str:
    """Return a note if a file that is read as plain text begins as CSV, or in a folder as JSON records; or ""."""
    with open_file(path) as (file, _):
        start = file.read(DETECT_BYTES)
    name = title_of(path)
    if columns := csv_columns(decode_bytes(start, "replace", final=False)[0]):
        listed = ", ".join(columns[:4]) + ", ..." * (len(columns) > 4)
        what, suffix = f"as CSV with the columns {listed}", ".csv to read its rows"
    elif detect_records(start, is_whole=len(start) < DETECT_BYTES):
        what, suffix = "with JSON records", ".jsonl to read its records"
    else:
        return ""
    return f"{name} begins {what}, and is read as plain text; save it as {suffix}"
