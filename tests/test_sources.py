"""Finding texts and reading them: files, folders, JSON Lines, Parquet, standard input; and what is kept of a scan."""

import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.data import documents, reading, scan
from light_llm.data.documents import SEPARATOR
from light_llm.data.pieces import LONGEST_RUN, Piece, at_safe_cuts, split_at, tidy
from light_llm.data.reading import Hooks, read_text
from light_llm.data.sources import SHAKESPEARE, Source, find_source, from_texts
from light_llm.data.spool import spooled
from light_llm.data.texts import Texts
from light_llm.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
PIECES = st.lists(st.none() | st.text("ab \n", max_size=9), max_size=12)


def joined(pieces: Iterator[Piece]) -> list[str]:
    """The documents of a stream, whole."""
    found = [""]
    for piece in pieces:
        if piece is None:
            found.append("")
        else:
            found[-1] += piece
    return found


def write_documents(folder: Path, texts: list[str]) -> dict[str, Source]:
    """The same documents in every form a user can bring them in."""
    (folder / "texts" / "deep").mkdir(parents=True)
    for i, text in enumerate(texts):
        Path(folder, "texts", f"deep/{i}.txt" if i < len(texts) // 2 else f"e{i}.txt").write_bytes(text.encode())
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))
    (folder / "lines.jsonl").write_text(lines, encoding="utf-8")
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), folder / "rows.parquet")
    found = {n: find_source(str(folder / n)) for n in ("texts", "lines.jsonl", "lines.jsonl.gz", "rows.parquet")}
    if not any(line == SEPARATOR for text in texts for line in text.split("\n")):
        (folder / "stories.txt").write_bytes(f"\n{SEPARATOR}\n".join(texts).encode())
        stories = Texts("stories", (folder / "stories.txt",))
        found["stories"] = from_texts("stories", "stories", folder, stories)
    return found


# ---- the laws of all sources


@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 9))
def test_the_form_of_the_files_changes_nothing(texts: list[str], piece: int) -> None:
    """Folder, JSON Lines (packed too), Parquet and a file of stories: the same documents, hash and counts."""
    texts = [text.removeprefix("\ufeff") or "x" for text in texts]  # a mark at the start of a file is no character
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", piece)
        patch.setattr(documents, "PIECE", piece)
        sources = write_documents(Path(folder), texts)
        for form, source in sources.items():
            pieces = list(source.read())
            assert joined(iter(pieces)) == texts, form
            assert pieces == list(source.read()), form
            assert (source.documents, source.n_chars, source.n_bytes, source.alphabet, source.replaced) == (
                len(texts),
                sum(map(len, texts)),
                len("".join(texts).encode()),
                "".join(sorted(set("".join(texts)))),
                0,
            ), form
        assert len({source.sha256 for source in sources.values()}) == 1


@given(st.lists(TEXTS, min_size=2, max_size=5), st.lists(TEXTS, min_size=2, max_size=5))
def test_other_documents_have_another_hash(one: list[str], other: list[str]) -> None:
    """Also the same characters in other documents."""
    with tempfile.TemporaryDirectory() as folder:
        hashes = []
        for name, texts in (("one", one), ("other", other), ("whole", ["".join(one)])):
            Path(folder, f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
            hashes.append(find_source(f"{folder}/{name}.jsonl").sha256)
    assert (hashes[0] == hashes[1]) == (one == other) and hashes[0] != hashes[2]


@given(PIECES)
def test_breaks_are_never_first_last_or_doubled(pieces: list[Piece]) -> None:
    found = list(tidy(iter(pieces)))
    assert "" not in found and found[:1] != [None] and found[-1:] != [None]
    assert all(a is not None or b is not None for a, b in zip(found, found[1:], strict=False))
    assert [d for d in joined(iter(found)) if d] == [d for d in joined(iter(pieces)) if d]


@given(PIECES)
def test_safe_cuts_lose_nothing_and_cut_before_white_space(pieces: list[Piece]) -> None:
    pieces = list(tidy(iter(pieces)))
    found = list(at_safe_cuts(iter(pieces)))
    assert joined(iter(found)) == joined(iter(pieces))
    for left, right in zip(found, found[1:], strict=False):
        if left is not None and right is not None:
            assert not left[-1].isspace() and right[0] in " \n"


def test_a_text_without_spaces_is_cut_all_the_same() -> None:
    found = list(at_safe_cuts(iter(["a" * (2 * LONGEST_RUN + 7), "b" * 5, None, "c"])))
    assert joined(iter(found)) == ["a" * (2 * LONGEST_RUN + 7) + "b" * 5, "c"]
    assert max(len(piece) for piece in found if piece) <= LONGEST_RUN


@given(st.lists(st.text(max_size=5), max_size=6), st.integers(0, 20))
def test_a_text_is_split_at_the_very_character(pieces: list[str], n: int) -> None:
    whole = "".join(pieces)
    n = min(n, len(whole))
    head, tail = split_at(iter(pieces), n)
    assert ("".join(p or "" for p in head), "".join(p or "" for p in tail())) == (whole[:n], whole[n:])


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=2, max_size=6), st.integers(0, 500))
def test_a_split_cuts_no_document(parts: list[list[str]], n: int) -> None:
    """At the first break at or after n characters, or the last one: two sides that are never empty."""
    texts = ["".join(part) for part in parts]
    pieces = [piece for part in parts for piece in (*part, None)][:-1]
    first, rest = split_at(iter(pieces), n, len(texts))
    head = list(first)
    tail = list(rest())
    assert joined(iter(head)) + joined(iter(tail)) == texts and head and tail
    assert None not in (head[0], head[-1], tail[0], tail[-1])
    before = [sum(map(len, texts[:i])) for i in range(1, len(texts))]
    assert len(joined(iter(head))) == next((i for i, size in enumerate(before, 1) if size >= n), len(before))


# ---- characters


@given(st.text(max_size=60), st.booleans(), st.integers(1, 7))
def test_any_text_is_read_as_it_is(text: str, mark: bool, piece: int) -> None:
    """In pieces of any size, so that characters are cut in the middle; NUL, CR and all; a mark is dropped."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", piece)
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
        patch.setattr(reading, "PIECE", piece)
        path = Path(folder, "t.txt")
        path.write_bytes(data)
        found = "".join(read_text(path, errors="replace", hooks=Hooks(replaced=counts.append)))
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
    pieces = list(at_safe_cuts(source.read()))
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
    monkeypatch.setattr(documents, "LONGEST_LINE", 100)
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
        patch.setattr(reading, "PIECE", piece)
        Path(folder, "s.txt").write_text("\n".join(lines))
        found = joined(Texts("stories", (Path(folder, "s.txt"),)).read())
    assert [d for d in found if d] == [d for d in map("\n".join, expected) if d]


def test_the_separator_is_nothing_special_in_a_text(tmp_path: Path) -> None:
    text = f"one\n{SEPARATOR}\ntwo\n"
    (tmp_path / "t.txt").write_text(text)
    source = find_source("t.txt")
    assert source.documents == 1 and joined(source.read()) == [text]


# ---- folders


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    """By code points of the whole path, hidden and empty files left out, loops of links harmless."""
    folder = tmp_path / "f"
    for name in ("b.txt", "a/z.md", "a.txt", "B.TEXT", "é.txt", "a/.hidden.txt", ".git/x.txt", "a/c/empty.txt", "x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if "empty" in name else f"<{name}>")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "broken.txt").symlink_to(folder / "nowhere")
    (tmp_path / "other.txt").write_text("<linked>")
    (folder / "c.txt").symlink_to(tmp_path / "other.txt")
    source = find_source("f")
    assert joined(source.read()) == ["<B.TEXT>", "<a.txt>", "<a/z.md>", "<b.txt>", "<linked>", "<é.txt>"]
    assert (source.documents, source.title, source.path) == (6, "f", Path("f"))


def test_a_folder_may_hold_lines_or_rows(tmp_path: Path) -> None:
    for i in range(2):
        Path(f"j/{i}").mkdir(parents=True)
        Path(f"j/{i}/x.jsonl").write_text('{"t": "a"}\n{"t": "b"}\n')
    assert joined(find_source("j", text_field="t").read()) == ["a", "b", "a", "b"]
    Path("p").mkdir()
    pq.write_table(pa.table({"text": ["c"]}), "p/1.parquet")
    pq.write_table(pa.table({"text": ["d", "e"]}), "p/0.parquet")
    assert joined(find_source("p").read()) == ["d", "e", "c"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    Path("f").mkdir()
    Path("f/x.py").write_text("x")
    with pytest.raises(DataError, match="f is a folder without a text: looked .* end in .txt, .md, .text, .jsonl, "):
        find_source("f")
    Path("f/a.txt").write_text("")
    Path("f/b.txt").write_text("")
    with pytest.raises(DataError, match=r"f \(all 2 files\) holds no text; training needs"):
        find_source("f")
    Path("f/c.jsonl").write_text("")
    with pytest.raises(DataError, match=r"more than one kind: jsonl \(c.jsonl\) and text \(a.txt\); name one file"):
        find_source("f")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such modes")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    """The superuser may read everything; anybody else is told."""
    Path("f/locked").mkdir(parents=True)
    Path("f/a.txt").write_text("a")
    os.chmod("f/locked", 0)
    try:
        if os.access("f/locked", os.R_OK):
            assert joined(find_source("f").read()) == ["a"]
        else:
            with pytest.raises(DataError, match="locked cannot be read: Permission denied"):
                find_source("f")
    finally:
        os.chmod("f/locked", 0o700)


# ---- names, standard input, what is held out


def test_shakespeare_is_pinned(offline_files: Path) -> None:
    source = find_source("shakespeare", offline=True)
    assert (source.n_bytes, source.n_chars, len(source.alphabet)) == (1_115_394, 1_115_394, 65)
    assert source.sha256 == SHAKESPEARE.sha256 and source.title == "shakespeare"
    assert (source.documents, source.held_out) == (1, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("shakespear", r"no source or file 'shakespear'; did you mean shakespeare\?"),
        ("tinystory", r"no source or file 'tinystory'; did you mean tinystories\?"),
        ("nowhere/at/all.txt", "'nowhere/at/all.txt'. The sources are shakespeare, tinystories, .*; or give a path"),
        ("pome.txt", r"no source or file 'pome.txt'; did you mean poem.txt\?"),
        ("x" * 300, "x cannot be read: File name too long"),
    ],
)
def test_a_text_that_is_not_there(poem: Path, data: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(data)


def test_an_unknown_way_with_errors(poem: Path) -> None:
    with pytest.raises(DataError, match="errors='ignore' cannot be used; it must be strict or replace"):
        find_source(str(poem), errors="ignore")


def test_an_empty_text(tmp_path: Path) -> None:
    for name, data in (("empty.txt", ""), ("mark.txt", "\ufeff"), ("empty.jsonl", "\n\n"), ("n.jsonl", '{"text": ""}')):
        (tmp_path / name).write_text(data, encoding="utf-8")
        with pytest.raises(DataError, match=rf"{name} holds no text( in field 'text')?; training needs some thousand"):
            find_source(name)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory|cannot be read: Permission denied"):
        list(read_text(tmp_path))


def test_standard_input_is_kept_and_found_again(
    poem: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(poem.read_bytes())))
    piped = find_source("-")
    assert piped.path == shared_cache / "stdin" / f"{piped.sha256}.txt" and piped.title == "standard input"
    for again in (find_source(piped.name), find_source(str(poem))):
        assert (again.sha256, list(again.read())) == (piped.sha256, list(piped.read()))


def test_standard_input_that_breaks_off_leaves_nothing(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("the pipe is gone")
            return super().read(4)

    before = set((shared_cache / "stdin").glob("*"))
    with pytest.raises(
        DataError, match="the text of the pipe cannot be kept at .*the pipe is gone; set LIGHT_LLM_CACHE"
    ):
        spooled(Breaking(b"some text"))
    with pytest.raises(DataError, match="the pipe holds no text"):
        spooled(io.BytesIO())
    assert set((shared_cache / "stdin").glob("*")) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_with_a_name_is_kept_too(poem: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(poem.read_bytes(),), daemon=True)
    writer.start()
    source = find_source("pipe")
    writer.join()
    assert find_source(source.name) == source and source.sha256 == find_source(str(poem)).sha256


def test_a_terminal_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(DataError, match="standard input, which is a terminal; pipe a text into it"):
        find_source("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input, which is closed"):
        find_source("-")


def test_a_text_of_your_own_is_held_out(poem: Path, tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"t": "a"}\n{"t": "b"}')
    source = find_source(str(poem), val_data="val.jsonl", text_field="t")
    assert source.held_out and joined(source.held_out.read()) == ["a", "b"]
    assert source == replace(find_source(str(poem)), held_out=source.held_out)
    with pytest.raises(DataError, match="no source or file 'vall.jsonl'; did you mean val.jsonl"):
        find_source(str(poem), val_data="vall.jsonl")


def test_the_training_text_is_not_held_out(poem: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_bytes(poem.read_bytes())
    with pytest.raises(DataError, match="copy.txt is the very text of .*poem.txt; .* name another with --val-data"):
        find_source(str(poem), val_data="copy.txt")


# ---- what is kept of a scan, and what is trusted


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "own_cache"))
    monkeypatch.setattr(scan, "RACY", 0.0)
    return tmp_path / "own_cache"


def reads(data: str) -> int:
    """How often progress is told while a source is found: 0 when nothing is read."""
    steps: list[tuple[int, int]] = []
    find_source(data, progress=lambda done, total: steps.append((done, total)))
    assert not steps or steps[-1][0] == steps[-1][1]
    return len(steps)


def test_the_second_time_nothing_is_read(poem: Path, own_cache: Path) -> None:
    first = find_source(str(poem))
    assert len(list(own_cache.glob("scans/*.json"))) == 1
    assert reads(str(poem)) == 0 and find_source(str(poem)) == first
    assert find_source(str(poem), errors="replace") == first and len(list(own_cache.glob("scans/*.json"))) == 2


def test_a_file_that_changed_is_read_again(poem: Path, own_cache: Path) -> None:
    first = find_source(str(poem))
    poem.write_text(poem.read_text().replace("cat", "dog"))
    assert reads(str(poem)) and find_source(str(poem)).sha256 != first.sha256
    os.utime(poem, ns=(1, 1))
    assert reads(str(poem)) and not reads(str(poem))


def test_a_file_that_changed_just_now_is_not_trusted(
    poem: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one from the future: a second change within the same tick of the clock would not show."""
    monkeypatch.setattr(scan, "RACY", 2.0)
    assert reads(str(poem)) and reads(str(poem))
    now = time.time()
    monkeypatch.setattr(scan.time, "time", lambda: now + 5)
    assert reads(str(poem)) and not reads(str(poem))
    os.utime(poem, (now + 3600, now + 3600))
    assert reads(str(poem)) and reads(str(poem))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"scan": {}}', "null", "flip", "\udcff"])
def test_a_damaged_result_is_written_anew(poem: Path, own_cache: Path, damage: str) -> None:
    first = find_source(str(poem))
    [file] = own_cache.glob("scans/*.json")
    whole = file.read_bytes()
    broken = whole.replace(f'"n_chars": {first.n_chars}'.encode(), b'"n_chars": 17') if damage == "flip" else damage
    file.write_bytes(broken if isinstance(broken, bytes) else broken.encode("utf-8", "surrogateescape"))
    assert file.read_bytes() != whole
    assert find_source(str(poem)) == first and file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_a_pass(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "RACY", 0.0)
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(poem))  # a file
    assert reads(str(poem)) and reads(str(poem))


def test_a_text_that_changes_under_a_reader_is_noticed(poem: Path, own_cache: Path) -> None:
    """Even when the time stamps lie and an earlier result was believed; the next start reads again."""
    source = find_source(str(poem))
    before = poem.stat()
    poem.write_text(poem.read_text().replace("cat", "dog"))
    [file] = own_cache.glob("scans/*.json")
    key = scan._stamps(Texts("text", (poem,), plain=True))[0]
    os.rename(file, file.with_name(f"{key}.json"))  # as if the stamps were as before
    for believed in (source, find_source(str(poem))):
        with pytest.raises(DataError, match="poem.txt was changed while it was read; start again"):
            list(believed.read())
    assert poem.stat().st_size == before.st_size and find_source(str(poem)).sha256 != source.sha256


def test_a_file_that_disappears(poem: Path, own_cache: Path) -> None:
    source = find_source(str(poem))
    poem.unlink()
    with pytest.raises(DataError, match="poem.txt cannot be read: No such file"):
        list(source.read())


def test_progress_goes_through_all_files(tmp_path: Path) -> None:
    Path("f").mkdir()
    for i in range(3):
        Path(f"f/{i}.jsonl").write_text('{"text": "abc"}\n' * 10)
    steps: list[tuple[int, int]] = []
    source = find_source("f", progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (480, 480) and steps == sorted(steps)
    again: list[tuple[int, int]] = []
    list(source.read(lambda done, total: again.append((done, total))))
    assert again == steps
