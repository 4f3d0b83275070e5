"""Records in JSON, CSV and pipes: recognized whatever the file is called, read as documents, or refused."""

import csv
import gzip
import io
import json
import os
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.data import csv_rows, decode_utf8, json_records, prepare_dataset
from light_llm.data.json_records import DETECT_BYTES, detect_records
from light_llm.data.piped_text import save_stdin
from light_llm.data.sources import find_source
from light_llm.errors import DataError
from tests.data.test_decode_utf8 import documents_of, write
from tests.data.test_sources import joined

TEXTS = ["a tale", 'with "quotes", a comma\nand é', "[three] {four}"]
LINES = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))
ARRAY = json.dumps([{"text": text, "n": [1, {"a": 2}]} for text in TEXTS])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tales.json", ARRAY),
        ("indented.json", json.dumps([{"text": text} for text in TEXTS], indent=2)),
        ("lines.json", LINES),
        ("objects.json", "".join(json.dumps({"text": text}, indent=1) for text in TEXTS)),
        ("strings.json", "\ufeff" + json.dumps(TEXTS)),
        ("chats.txt", LINES),
        ("chats.md", ARRAY),
        ("no_suffix", f"\n{LINES}"),
        ("array.jsonl", ARRAY),
        ("indented.jsonl", "\n".join(json.dumps({"text": text}, indent=4) for text in TEXTS)),
        ("crlf.data", LINES.replace("\n", "\r\n")),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_records_are_read_under_any_name(name: str, data: str, packed: bool) -> None:
    name = write(name + ".gz" * packed, gzip.compress(data.encode()) if packed else data)
    notes: list[str] = []
    source = find_source(name, log=notes.append)
    assert joined(source.read()) == TEXTS and source.sha256 == find_source(write("x.jsonl", LINES)).sha256
    # A note where the name says something else.
    by_name = "json" in name
    assert len(notes) == (not by_name) and all(name in note and "{--text-field none}" in note for note in notes)
    if "json" not in name:
        assert documents_of(name, text_field="none") == [data.removeprefix("\ufeff")]


@pytest.mark.parametrize(
    "text",
    [
        "[Chorus]\nAnd so it goes\n" * 9,
        '["Hark," she said]\n and went\n',
        '["a", "b"]\nprint(1)\n',
        '[{"a": 1}] is an array\n',
        '[{"a": 1}, {"b": 2}].map(f)\n',
        "[1, 2, 3]\n",
        "[link](https://example.com)\n",
        "{\n  int x;\n}\n" * 9,
        '{"a": 1}\nand then prose\n',
        "{{ template }}\n" * 9,
        '{ "unclosed\n' * 9,
        "{}\nempty\n",
        "{'a': 1}\n{'a': 2}\n",
        '{"' + "a long line without quotes " * 9000,
        '["' + "a long line\n" * 9000,
        "[" * 9000,
        "{",
    ],
)
def test_a_text_that_merely_begins_with_a_bracket_is_a_text(text: str) -> None:
    assert documents_of(write("poem.txt", text)) == [text]


def test_a_record_longer_than_the_beginning_is_recognized() -> None:
    """And is read across the cuts of the file's chunks."""
    long = ["word " * (DETECT_BYTES // 2) + "é", "second", "x" * (1 << 20)]
    for i, data in enumerate(
        [
            "\n".join(json.dumps({"id": 1, "text": t}) for t in long),
            json.dumps([{"text": t} for t in long]),
            json.dumps(long),
        ]
    ):
        assert documents_of(write(f"long{i}.txt", data)) == long


@given(
    st.lists(st.text(max_size=5) | st.dictionaries(st.sampled_from(["text", "b"]), st.text(max_size=9), min_size=1)),
    st.integers(1, 30),
    st.sampled_from([None, 1]),
)
def test_an_array_is_read_in_chunks_of_any_size(records: list[str | dict[str, str]], n_bytes: int, indent: int) -> None:
    records = [{"text": "first"}, *({"text": "b", **r} if isinstance(r, dict) else r for r in records)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_utf8, "READ_BYTES", n_bytes)
        found = documents_of(
            write("any.json", json.dumps(records, indent=indent, ensure_ascii=False).encode("utf-8", "replace"))
        )
    expected = [r["text"] if isinstance(r, dict) else r for r in records]
    assert found == [text for text in expected if text]


@given(st.text(st.sampled_from('[]{}":, a1\n'), max_size=30), st.booleans())
def test_any_beginning_is_decided(text: str, is_whole: bool) -> None:
    found = detect_records(text.encode(), is_whole=is_whole)
    assert found is None or (found.kind in ("json", "jsonl") and text.strip()[0] in "[{")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", '[{"text": "a"}, {"texts": "b"}]', "record 2 of a.json has no field 'text'; did you mean texts"),
        ("a.json", '[{"text": "a"}, {"text" "b"}]', "record 2 of a.json is not JSON: Expecting ':' .* character 9"),
        ("a.json", '[{"text": "a"} {"text": "b"}]', "record 1 of a.json is followed by '{'"),
        ("a.json", '[{"text": "a"}, {"text": "b"}', "a.json ends inside its array, after record 2"),
        ("a.json", '[{"text": "a"}, {"text": "b', "record 2 of a.json is not JSON: Unterminated string"),
        ("a.json", '[{"text": "a"}, 7]', "record 2 of a.json is a bare value.*text_field='none'"),
        ("a.json", '{"version": 1, "data": []}', "record 1 of a.json has no field 'text'. .* version, data"),
        ("a.json", '{"text": "a"} {"text": ["b"]}', "record 2 of a.json has an array in field 'text'"),
        ("a.json", "[" * 100_000, "record 1 of a.json .*JSON"),
        ("a.json", "a text", "record 1 of a.json is not JSON: Expecting value at character 1"),
        ("a.json", '[{"text": null}]', "a.json holds no text in field 'text'"),
        ("a.txt", '{"body": "a"}\n{"body": "b"}', "record of a.txt has no field 'text'. .* body; .*'none'"),
        ("a.ipynb", '{"cells": []}', "a.ipynb is a Jupyter notebook; .*nbconvert --to markdown a.ipynb"),
        ("a.csv", "id,story\n1,a\n", "a.csv has no column 'text'. Its columns are id, story; .*text_field="),
        ("a.csv", "id,text\n1,a\n2,b,c\n", "line 3 of a.csv ends a row of 3 values, and the first line names 2"),
        ("a.csv", 'text\na\n"b" c\n', "line 3 of a.csv is not CSV"),
        ("a.csv", 'text\na\n"b\nc\n', "line 4 of a.csv is not CSV"),
        ("a.csv", "text\ra\rb\r", "a.csv has no column 'text'"),
        ("a.csv", "text\n\n", "a.csv holds no text in field 'text'"),
        ("a.csv", b"id,text\n1,caf\xe9\n", "a.csv is not UTF-8 text: byte 0xe9 at offset 13"),
    ],
)
def test_bad_records_are_named(name: str, data: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(write(name, data))


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv.gz", ";")])
def test_rows_of_csv(name: str, delimiter: str) -> None:
    """As Python's csv module writes them; quoted fields may span lines."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([["id; no, 1", "text"], *([i, text] for i, text in enumerate(TEXTS)), [8, ""]])
    data = file.getvalue().encode("utf-8-sig")
    write(name, gzip.compress(data) if name.endswith(".gz") else data)
    assert documents_of(name) == TEXTS
    assert documents_of(name, text_field="none") == [file.getvalue()]


def test_a_record_that_does_not_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (json_records, csv_rows):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(decode_utf8, "READ_BYTES", 100)
    for name, start in (("a.json", '[{"text": "'), ("a.csv", 'text\n"')):
        with pytest.raises(DataError, match=f"{name} .*(longer|more) than 1,000|field limit"):
            find_source(write(name, start + "a" * 200_000))


# ---- pipes


@pytest.mark.parametrize(
    ("data", "suffix"),
    [(LINES.encode(), ".jsonl"), (ARRAY.encode(), ".json"), (b"plain text\n" * 9, ".txt"), (b"[1] a note\n", ".txt")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_recognized(
    data: bytes, suffix: str, packed: bool, monkeypatch: pytest.MonkeyPatch, shared_cache: Path
) -> None:
    piped = gzip.compress(data[:9]) + gzip.compress(data[9:]) if packed else data
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    notes: list[str] = []
    source = find_source("-", log=notes.append)
    assert source.path.parent == shared_cache / "stdin" and source.path.suffix == suffix
    assert source.path.read_bytes() == data and source.title == "standard input"
    assert joined(source.read()) == (TEXTS if "json" in suffix else [data.decode()])
    assert find_source(source.name).sha256 == source.sha256
    assert len(notes) == ("json" in suffix)
    raw = find_source(source.name, text_field="none", separator="---")
    assert joined(raw.read()) == [data.decode()]


def test_a_pipe_without_the_field_is_refused_and_so_are_other_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    for data, message in (
        (LINES.encode(), "the first record of standard input has no field 'body'. .* id, text; .*text_field='none'"),
        (b"PK\x03\x04" + bytes(100), r"standard input \(or the pipe\) is not plain text but a zip archive"),
        (gzip.compress(LINES.encode())[:40], r"standard input \(or the pipe\) is damaged gzip data"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(DataError, match=message):
            find_source("-", text_field="body")


def test_parquet_is_recognized_in_a_pipe_and_without_a_name() -> None:
    pq.write_table(pa.table({"text": TEXTS}), "rows")
    assert documents_of("rows") == TEXTS
    path = save_stdin(io.BytesIO(Path("rows").read_bytes()))
    assert path.suffix == ".parquet" and documents_of(str(path)) == TEXTS


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="NOT RUN: this system has no named pipes")
def test_packed_lines_from_process_substitution() -> None:
    os.mkfifo("pipe")
    packed = gzip.compress(LINES.encode() * 3000)
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(packed,), daemon=True)
    writer.start()
    assert documents_of("pipe") == TEXTS * 3000
    writer.join()


def test_a_text_piped_by_an_earlier_version_stays_a_text() -> None:
    """A run that was started with it can be resumed."""
    path = save_stdin(io.BytesIO(LINES.encode()))
    old = path.rename(path.with_suffix(".txt"))
    assert documents_of(str(old)) == [LINES]


def test_a_list_of_documents_has_a_field() -> None:
    with pytest.raises(DataError, match="text_field='none' reads a file as plain text"):
        prepare_dataset(TEXTS, 4, "byte", text_field="none")
