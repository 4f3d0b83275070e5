"""Finding texts: files, folders, names, standard input; and the laws that hold for all of them."""

import gzip
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.data import decode_utf8, documents
from light_llm.data.decode_utf8 import read_text
from light_llm.data.documents import SEPARATOR
from light_llm.data.sources import SHAKESPEARE, Source, find_source, source_from_files
from light_llm.data.stdin_text import save_stdin
from light_llm.data.text_files import TextFiles
from light_llm.data.text_stream import MAX_CHUNK_CHARS, Chunk, drop_empty_chunks, split_at, split_at_word_boundaries
from light_llm.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
PIECES = st.lists(st.none() | st.text("ab \n", max_size=9), max_size=12)


def joined(pieces: Iterator[Chunk]) -> list[str]:
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
        stories = TextFiles("stories", (folder / "stories.txt",))
        found["stories"] = source_from_files("stories", "stories", folder, stories)
    return found


# ---- the laws of all sources


@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 9))
def test_the_form_of_the_files_changes_nothing(texts: list[str], piece: int) -> None:
    """Folder, JSON Lines (packed too), Parquet and a file of stories: the same documents, hash and counts."""
    texts = [text.removeprefix("\ufeff") or "x" for text in texts]  # a mark at the start of a file is no character
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_utf8, "READ_BYTES", piece)
        patch.setattr(documents, "READ_BYTES", piece)
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
def test_breaks_are_never_first_last_or_doubled(pieces: list[Chunk]) -> None:
    found = list(drop_empty_chunks(iter(pieces)))
    assert "" not in found and found[:1] != [None] and found[-1:] != [None]
    assert all(a is not None or b is not None for a, b in zip(found, found[1:], strict=False))
    assert [d for d in joined(iter(found)) if d] == [d for d in joined(iter(pieces)) if d]


@given(PIECES)
def test_safe_cuts_lose_nothing_and_cut_before_white_space(pieces: list[Chunk]) -> None:
    pieces = list(drop_empty_chunks(iter(pieces)))
    found = list(split_at_word_boundaries(iter(pieces)))
    assert joined(iter(found)) == joined(iter(pieces))
    for left, right in zip(found, found[1:], strict=False):
        if left is not None and right is not None:
            assert not left[-1].isspace() and right[0] in " \n"


def test_a_text_without_spaces_is_cut_all_the_same() -> None:
    found = list(split_at_word_boundaries(iter(["a" * (2 * MAX_CHUNK_CHARS + 7), "b" * 5, None, "c"])))
    assert joined(iter(found)) == ["a" * (2 * MAX_CHUNK_CHARS + 7) + "b" * 5, "c"]
    assert max(len(piece) for piece in found if piece) <= MAX_CHUNK_CHARS


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


def test_a_kept_pipe_is_what_its_name_says(shared_cache: Path) -> None:
    kept = save_stdin(io.BytesIO(b"a text that came through a pipe, and was kept"))
    kept.write_bytes(kept.read_bytes().replace(b"came", b"cane"))
    with pytest.raises(DataError, match=r"\.txt is damaged: its SHA-256 is .* not the one it is named by; delete it"):
        find_source(str(kept))


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
        save_stdin(Breaking(b"some text"))
    with pytest.raises(DataError, match="the pipe holds no text"):
        save_stdin(io.BytesIO())
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
