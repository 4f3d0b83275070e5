"""Reading files: characters and invalid bytes, lines of JSON, rows of Parquet, stories."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.data import decode_utf8, documents
from light_llm.data.decode_utf8 import ReadCallbacks, read_text
from light_llm.data.documents import SEPARATOR
from light_llm.data.sources import find_source
from light_llm.data.text_files import TextFiles
from light_llm.data.text_stream import split_at_word_boundaries
from light_llm.errors import DataError
from tests.data.test_sources import joined

# ---- characters


@contextmanager
def read_blocks(n_bytes: int, data: bytes) -> Iterator[Path]:
    """Write a file and read it in blocks of some bytes, so that characters are cut in the middle."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_utf8, "READ_BYTES", n_bytes)
        path = Path(folder, "t.txt")
        path.write_bytes(data)
        yield path


@given(st.text(max_size=60), st.booleans(), st.integers(1, 7))
def test_any_text_is_read_as_it_is(text: str, mark: bool, n_bytes: int) -> None:
    """NUL and CR included; only a byte-order mark is dropped."""
    with read_blocks(n_bytes, (b"\xef\xbb\xbf" if mark else b"") + b"text" + text.encode()) as path:
        assert "".join(read_text(path)) == f"text{text}"


@given(
    st.lists(st.binary(max_size=6) | st.sampled_from(["\ufffd".encode(), "é".encode()]), max_size=8), st.integers(3, 9)
)
def test_invalid_bytes_are_replaced_and_counted(parts: list[bytes], n_bytes: int) -> None:
    """As by Python's decoder; the count is the number of bytes that the valid characters leave over."""
    data = b"ab" + b"".join(parts).replace(b"\0", b"0")
    counts: list[int] = []
    with read_blocks(n_bytes, data) as path:
        text = "".join(read_text(path, errors="replace", callbacks=ReadCallbacks(on_replaced=counts.append)))
    assert text == data.decode("utf-8", "replace")
    assert sum(counts) == len(data) - len(data.decode("utf-8", "ignore").encode())


def write(name: str, data: bytes | str) -> str:
    Path(name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def documents_of(name: str, **options: str) -> list[str]:
    return joined(find_source(name, **options).read())  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [0, 1, 5, (1 << 20) - 1, (1 << 20) + 3])
def test_the_first_invalid_byte_is_named(before: int) -> None:
    latin = write("latin.txt", b"a" * before + b"caf\xe9 ole")
    with pytest.raises(DataError, match=rf"latin.txt .* 0xe9 at offset {before + 3:,} .*LATIN1.*errors='replace'"):
        find_source(latin)
    source = find_source(latin, errors="replace")
    assert source.replaced == 1 and joined(source.read()) == ["a" * before + "caf\ufffd ole"]
    assert source.n_bytes == before + len("caf\ufffd ole".encode())


@pytest.mark.slow  # a process that imports torch
def test_a_text_is_read_the_same_in_any_locale() -> None:
    """UTF-8, names of files included."""
    write("naïve.txt", "café 日本語\r\n" * 9)
    check = (
        "import os, sys; from light_llm.data.sources import find_source as f; [n] = [n for n in os.listdir('.') "
        "if n.endswith('.txt')]; s = f(n); print(s.sha256, s.n_chars, ascii(s.alphabet))"
    )
    source = find_source("naïve.txt")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    child = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment)
    assert child.stdout.split(" ", 2) == [source.sha256, str(source.n_chars), ascii(source.alphabet) + "\n"], child


@pytest.mark.parametrize(
    "text",
    [
        *(character * 3_000_000 for character in "^a\n"),
        *("x", "é"),
        "words\0b\r\nc\rd\x85\u2028e\x1a\x7f\ufeff" + "\0" * 40,
    ],
)
def test_texts_of_odd_shapes(text: str) -> None:
    """One line of megabytes, only line breaks, one character, control characters."""
    source = find_source(write("odd.txt", text))
    chunks = list(split_at_word_boundaries(source.read()))
    assert joined(iter(chunks)) == [text] and source.n_chars == len(text)


# ---- lines of JSON, Parquet, stories


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 3 of .*bad.jsonl is not JSON: .* at character 14"),
        ("text", "line 3 of .*bad.jsonl is not JSON"),
        ('["a"]', "line 3 of .* an array"),
        ("7", "line 3 of .* a bare value"),
        ('{"texts": "a", "id": 1}', "line 3 of .* 'text'; did you mean texts.* texts, id; .*text_field=..."),
        ('{"meta": {"body": "a"}}', "'text'. .* meta, meta.body;"),
        ("{}", "'text'. It has no fields;"),
        ('{"text": 7}', "a number in field 'text'.*text_field=... .* text"),
        ('{"text": ["a"]}', "an array in field 'text'"),
        ('{"text": {"a": 1}}', "an object in field 'text'"),
        ('{"text": true}', "true or false in field 'text'"),
        ('{"text": "a\\ud800b"}', "line 3 of .* .ud800, .*errors='replace'"),
        ("[" * 100_000, "line 3 of .* JSON"),
        ("1" * 10_000, "line 3 of .* JSON"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(write("bad.jsonl", f'{{"text": "good"}}\n\n{line}\n'))


def test_invalid_bytes_in_a_line_or_row_are_named_or_replaced() -> None:
    write("bad.jsonl", b'{"text": "good"}\n{"text": "caf\xe9"}\n')
    pq.write_table(pa.table({"text": pa.array([b"good", b"caf\xe9"]).view(pa.string())}), "bad.parquet")
    for name, place in (("bad.jsonl", "0xe9 at offset 30 in line 2 "), ("bad.parquet", "0xe9 at offset 3 .*errors=")):
        with pytest.raises(DataError, match=rf"{name} .*{place}"):
            find_source(name)
        source = find_source(name, errors="replace")
        assert (source.replaced, joined(source.read())) == (1, ["good", "caf\ufffd"])


def test_half_a_surrogate_pair_is_replaced_and_a_pair_is_a_character() -> None:
    source = find_source(write("pairs.jsonl", r'{"text": "\ud83d\ude00 \ud83d! \ude00\ud83d"}'), errors="replace")
    assert (source.replaced, joined(source.read())) == (3, ["\U0001f600 \ufffd! \ufffd\ufffd"])


def test_blank_lines_empty_texts_null_and_a_mark_are_skipped() -> None:
    lines = ['{"text": "a"}', "", "  \r", '{"text": ""}', '{"text": null}', '{"text": "b"}']
    source = find_source(write("some.ndjson", "\ufeff" + "\n".join(lines)))
    assert joined(source.read()) == ["a", "b"] and source.documents == 2


def test_nested_fields() -> None:
    """`meta.text` is a field of an object, unless a field has that full name."""
    lines = [{"meta": {"text": "a", "deep": {"x": "b"}}}, {"meta.text": "c", "meta": {"text": "d", "deep": {"x": "e"}}}]
    write("m.jsonl", "\n".join(map(json.dumps, lines)))
    assert documents_of("m.jsonl", text_field="meta.text") == ["a", "c"]
    assert documents_of("m.jsonl", text_field="meta.deep.x") == ["b", "e"]
    with pytest.raises(DataError, match="line 1 of .* 'meta.txt'; did you mean meta.text"):
        find_source("m.jsonl", text_field="meta.txt")
    pq.write_table(pa.Table.from_pylist([{"meta": {"text": "a"}, "n": 1}, {"meta": None, "n": 2}]), "m.parquet")
    assert documents_of("m.parquet", text_field="meta.text") == ["a"]


def test_a_line_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 100)
    with pytest.raises(DataError, match="line 1 of .* longer than 100 bytes"):
        find_source(write("long.jsonl", json.dumps({"text": "a" * 100})))


# Without a time in the file, which would make the names of tests differ between workers.
PACKED = gzip.compress(b'{"text": "some words"}\n' * 500, mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        *(
            ("d.jsonl.gz", data, "d.jsonl.gz (is damaged or not a gzip file|is not UTF-8)|is not JSON")
            for data in (PACKED[:-20], PACKED[:40] + b"\xff\xff\xff" + PACKED[43:], b"{}")
        ),
        ("l.txt.gz", gzip.compress(b"caf\xe9", mtime=0), r"offset 3 .*gunzip -c l.txt.gz \| iconv -f LATIN1"),
        ("cut.txt", b"abc\xc3", "byte 0xc3 at offset 3 .*unexpected end"),
    ],
)
def test_damaged_files(name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(write(name, data))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("text", "s.parquet .* 'text'. .* id, story; .*text_field=..."),
        ("stroy", "s.parquet .* 'stroy'; did you mean story"),
        ("id", "int64 in column 'id'.* id, story"),
    ],
)
def test_a_missing_column_or_one_without_text(field: str, message: str) -> None:
    pq.write_table(pa.table({"id": [1], "story": ["a"]}), "s.parquet")
    with pytest.raises(DataError, match=message):
        find_source("s.parquet", text_field=field)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_columns_of_any_type_of_text(kind: pa.DataType) -> None:
    """Null and empty rows are skipped."""
    rows = pa.array(["a", None, "", "é", "a"] * 300, pa.string())
    pq.write_table(pa.table({"text": rows.cast(kind)}), "r.parquet")
    assert documents_of("r.parquet") == ["a", "é", "a"] * 300


@pytest.mark.parametrize("cut", [0, 3, 50, 300, -1])
def test_a_damaged_parquet_file(cut: int) -> None:
    pq.write_table(pa.table({"text": ["some words"] * 100}), "d.parquet")
    write("d.parquet", Path("d.parquet").read_bytes()[:cut])
    with pytest.raises(DataError, match="d.parquet .*Parquet"):
        find_source("d.parquet")


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"p.parquet .*light-llm\[parquet\]"):
        find_source(write("p.parquet", b"PAR1"))


@given(
    st.lists(st.sampled_from([SEPARATOR, "", "a", "b ", f"x{SEPARATOR}", f"{SEPARATOR} "]), max_size=9),
    st.integers(1, 40),
)
def test_stories_are_split_at_separator_lines(lines: list[str], n_bytes: int) -> None:
    """Also at the first line, the last one, and two in a row; other lines are text."""
    stories: list[list[str]] = [[]]
    for line in lines:
        if line == SEPARATOR:
            stories.append([])
        else:
            stories[-1].append(line)
    with read_blocks(n_bytes, "\n".join(lines).encode()) as path:
        texts = joined(TextFiles("stories", (path,)).read())
    assert [text for text in texts if text] == [text for text in map("\n".join, stories) if text]


def test_the_separator_is_ordinary_in_a_text() -> None:
    text = f"one\n{SEPARATOR}\ntwo\n"
    assert documents_of(write("t.txt", text)) == [text]
