"""Reading what stands in files: characters and bytes that are none, lines of JSON, rows of Parquet, stories."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
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


@given(st.text(max_size=60), st.booleans(), st.integers(1, 7))
def test_any_text_is_read_as_it_is(text: str, mark: bool, piece: int) -> None:
    """In pieces of any size, so that characters are cut in the middle; NUL, CR and all; a mark is dropped."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_utf8, "READ_BYTES", piece)
        path = Path(folder, "t.txt")
        path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + b"text" + text.encode())
        assert "".join(read_text(path)) == f"text{text}"


@given(
    st.lists(st.binary(max_size=6) | st.sampled_from(["\ufffd".encode(), "é".encode()]), max_size=8), st.integers(3, 9)
)
def test_bad_bytes_are_replaced_and_counted(parts: list[bytes], piece: int) -> None:
    """The text is the one Python's decoder gives, and the good characters are the bytes that were not counted."""
    data = b"ab" + b"".join(parts).replace(b"\0", b"0")
    counts: list[int] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_utf8, "READ_BYTES", piece)
        path = Path(folder, "t.txt")
        path.write_bytes(data)
        found = "".join(read_text(path, errors="replace", callbacks=ReadCallbacks(on_replaced=counts.append)))
    assert found == data.decode("utf-8", "replace")
    assert sum(counts) == len(data) - len(data.decode("utf-8", "ignore").encode())


@pytest.mark.parametrize("before", [0, 1, 5, (1 << 20) - 1, (1 << 20) + 3])
def test_bytes_that_are_not_utf8_are_named(tmp_path: Path, before: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * before + b"caf\xe9 ole")
    with pytest.raises(
        DataError,
        match=rf"latin.txt is not UTF-8 text: byte 0xe9 at offset {before + 3:,} .*iconv -f LATIN1.*--errors replace",
    ):
        find_source("latin.txt")
    source = find_source("latin.txt", errors="replace")
    assert source.replaced == 1 and joined(source.read()) == ["a" * before + "caf\ufffd ole"]
    assert source.n_bytes == before + len("caf\ufffd ole".encode())


def test_a_character_cut_off_at_the_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes(b"abc\xc3")
    with pytest.raises(DataError, match="byte 0xc3 at offset 3 .*unexpected end"):
        list(read_text(path))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "byte 0xff at offset 0 .*iconv -f UTF-16 "),
        ("utf-16-le", "looks like UTF-16 without a byte-order mark.*iconv -f UTF-16LE "),
        ("utf-16-be", "looks like UTF-16 without a byte-order mark.*iconv -f UTF-16BE "),
    ],
)
def test_utf16_is_recognised(tmp_path: Path, encoding: str, message: str) -> None:
    for text in ("To be, or not to be", "“To be”, or not – to be " * 300):
        (tmp_path / "wide.txt").write_bytes(text.encode(encoding))
        for errors in ("strict", "replace"):
            with pytest.raises(DataError, match=message):
                find_source("wide.txt", errors=errors)
    (tmp_path / "wide.jsonl").write_bytes('{"text": "To be"}\n'.encode(encoding))
    with pytest.raises(DataError, match=message):
        find_source("wide.jsonl", errors="replace")


def test_nul_and_control_characters_are_characters(tmp_path: Path) -> None:
    text = "words\0b\r\nc\rd\x85\u2028e\x1a\x7f\ufeff" + "\0" * 40
    (tmp_path / "odd.txt").write_bytes(text.encode())
    assert joined(find_source("odd.txt").read()) == [text]


@pytest.mark.slow  # a process that imports torch
def test_a_text_is_read_the_same_in_any_locale(tmp_path: Path) -> None:
    """UTF-8 whatever the system thinks of itself, names of files included."""
    (tmp_path / "naïve.txt").write_text("café 日本語\r\n" * 9, encoding="utf-8", newline="")
    check = (
        "import os, sys; from light_llm.data.sources import find_source as f; [n] = [n for n in os.listdir('.') "
        "if n.endswith('.txt')]; s = f(n); print(s.sha256, s.n_chars, ascii(s.alphabet))"
    )
    source = find_source("naïve.txt")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    child = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment)
    assert child.stdout.split(" ", 2) == [source.sha256, str(source.n_chars), ascii(source.alphabet) + "\n"], child


@pytest.mark.parametrize("text", ["^" * 3_000_000, "a" * 3_000_000, "\n" * 3_000_000, "x", "é"])
def test_texts_of_odd_shapes(tmp_path: Path, text: str) -> None:
    """One line of megabytes, nothing but breaks, one character: read, and cut into pieces that are not long."""
    (tmp_path / "odd.txt").write_text(text, encoding="utf-8")
    source = find_source("odd.txt")
    pieces = list(split_at_word_boundaries(source.read()))
    assert "".join(p or "" for p in pieces) == text and source.n_chars == len(text)


# ---- lines of JSON, Parquet, stories


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 3 of .*bad.jsonl is not JSON: .* at character 14"),
        ("text", "line 3 of .*bad.jsonl is not JSON"),
        ('["a"]', r'line 3 of .* is an array, not an object with fields such as \{"text"'),
        ("7", "line 3 of .* is a bare value, not an object"),
        (
            '{"texts": "a", "id": 1}',
            "line 3 of .* has no field 'text'; did you mean texts.* are texts, id; .*--text-field",
        ),
        ('{"meta": {"body": "a"}}', "has no field 'text'. The fields there are meta, meta.body;"),
        ("{}", "has no field 'text'. It has no fields;"),
        ('{"text": 7}', "has a number in field 'text', not text; .*--text-field .there are text"),
        ('{"text": ["a"]}', "has an array in field 'text', not text"),
        ('{"text": {"a": 1}}', "has an object in field 'text', not text"),
        ('{"text": true}', "has true or false in field 'text', not text"),
        ('{"text": "a\\ud800b"}', r"line 3 of .* holds half a surrogate pair, .ud800, .*--errors replace"),
        ("[" * 100_000, "line 3 of .* is no JSON that can be read"),
        ("1" * 10_000, "line 3 of .* is no JSON that can be read"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(f'{{"text": "good"}}\n\n{line}\n')
    with pytest.raises(DataError, match=message):
        find_source("bad.jsonl")


def test_bad_bytes_in_a_line_are_named_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="bad.jsonl is not UTF-8 text: byte 0xe9 at offset 30 in line 2 "):
        find_source("bad.jsonl")
    source = find_source("bad.jsonl", errors="replace")
    assert (source.replaced, joined(source.read())) == (1, ["good", "caf\ufffd"])


def test_half_a_pair_is_replaced_and_a_whole_one_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(r'{"text": "\ud83d\ude00 \ud83d! \ude00\ud83d"}')
    source = find_source("pairs.jsonl", errors="replace")
    assert (source.replaced, joined(source.read())) == (3, ["\U0001f600 \ufffd! \ufffd\ufffd"])


def test_blank_lines_empty_texts_null_and_a_mark_are_passed_over(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', "", "  \r", '{"text": ""}', '{"text": null}', '{"text": "b"}']
    (tmp_path / "some.ndjson").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    source = find_source("some.ndjson")
    assert joined(source.read()) == ["a", "b"] and source.documents == 2


def test_a_field_may_lie_in_another(tmp_path: Path) -> None:
    """meta.text is the field of an object, unless a field has that very name."""
    lines = [{"meta": {"text": "a", "deep": {"x": "b"}}}, {"meta.text": "c", "meta": {"text": "d", "deep": {"x": "e"}}}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert joined(find_source("m.jsonl", text_field="meta.text").read()) == ["a", "c"]
    assert joined(find_source("m.jsonl", text_field="meta.deep.x").read()) == ["b", "e"]
    with pytest.raises(DataError, match="line 1 of .* no field 'meta.txt'; did you mean meta.text"):
        find_source("m.jsonl", text_field="meta.txt")
    pq.write_table(pa.Table.from_pylist([{"meta": {"text": "a"}, "n": 1}, {"meta": None, "n": 2}]), "m.parquet")
    assert joined(find_source("m.parquet", text_field="meta.text").read()) == ["a"]


def test_a_line_without_end_is_not_taken_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 100)
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "a" * 100}))
    with pytest.raises(DataError, match="line 1 of .* is longer than 100 bytes; is it one JSON object a line"):
        find_source("long.jsonl")


def test_a_packed_file_that_is_damaged(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "some words"}\n' * 500)
    for name, data in (("cut", whole[:-20]), ("flipped", whole[:40] + b"\xff\xff\xff" + whole[43:]), ("none", b"{}")):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}.jsonl.gz (is damaged or no gzip file|is not UTF-8)|is not JSON"):
            find_source(f"{name}.jsonl.gz")


def test_a_packed_text_that_is_not_utf8_is_converted_unpacked(tmp_path: Path) -> None:
    (tmp_path / "l.txt.gz").write_bytes(gzip.compress(b"caf\xe9"))
    with pytest.raises(DataError, match=r"offset 3 .*gunzip -c l.txt.gz \| iconv -f LATIN1"):
        find_source("l.txt.gz")


def test_columns_are_named_where_the_wanted_one_is_missing_or_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "story": ["a"]}), "s.parquet")
    with pytest.raises(
        DataError, match="s.parquet has no column 'text'. The columns there are id, story; .*--text-field"
    ):
        find_source("s.parquet")
    with pytest.raises(DataError, match="s.parquet has no column 'stroy'; did you mean story"):
        find_source("s.parquet", text_field="stroy")
    with pytest.raises(DataError, match="has int64 in column 'id', not text; .*there are id, story"):
        find_source("s.parquet", text_field="id")


def test_rows_of_any_kind_of_text(tmp_path: Path) -> None:
    """Null and empty rows are no documents; a column may be encoded by a dictionary or be large."""
    rows = ["a", None, "", "é", "a"] * 300
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(rows, pa.string()).cast(kind)}), "r.parquet")
        assert joined(find_source("r.parquet").read()) == ["a", "é", "a"] * 300


def test_bad_bytes_in_a_row_are_named_or_replaced(tmp_path: Path) -> None:
    array = pa.array([b"good", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": array}), "bad.parquet")
    with pytest.raises(DataError, match=r"row 2 of bad.parquet is not UTF-8 text: byte 0xe9 at offset 3 .*--errors"):
        find_source("bad.parquet")
    source = find_source("bad.parquet", errors="replace")
    assert (source.replaced, joined(source.read())) == (1, ["good", "caf\ufffd"])


@pytest.mark.parametrize("cut", [0, 3, 50, 300, -1])
def test_a_damaged_parquet_file(tmp_path: Path, cut: int) -> None:
    pq.write_table(pa.table({"text": ["some words"] * 100}), "d.parquet")
    whole = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(whole[:cut])
    with pytest.raises(DataError, match="d.parquet (is damaged or no Parquet file|cannot be read as Parquet)"):
        find_source("d.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"p.parquet is a Parquet file, .*pip install 'light-llm\[parquet\]'"):
        find_source("p.parquet")


@given(
    st.lists(st.sampled_from([SEPARATOR, "", "a", "b ", f"x{SEPARATOR}", f"{SEPARATOR} "]), max_size=9),
    st.integers(1, 40),
)
def test_stories_are_what_stands_between_the_lines(lines: list[str], piece: int) -> None:
    """A separator is a line of its own, also the first, the last and twice in a row; anything else is text."""
    expected = [[]]
    for line in lines:
        if line == SEPARATOR:
            expected.append([])
        else:
            expected[-1].append(line)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_utf8, "READ_BYTES", piece)
        Path(folder, "s.txt").write_text("\n".join(lines))
        found = joined(TextFiles("stories", (Path(folder, "s.txt"),)).read())
    assert [d for d in found if d] == [d for d in map("\n".join, expected) if d]


def test_the_separator_is_nothing_special_in_a_text(tmp_path: Path) -> None:
    text = f"one\n{SEPARATOR}\ntwo\n"
    (tmp_path / "t.txt").write_text(text)
    source = find_source("t.txt")
    assert source.documents == 1 and joined(source.read()) == [text]
