"""Finding texts: files, folders, names, standard input; and the laws that hold for all of them."""

import gzip
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
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
from light_llm.data.json_records import DETECT_BYTES
from light_llm.data.piped_text import save_stdin
from light_llm.data.sources import SHAKESPEARE, Source, find_source, source_from_files
from light_llm.data.text_files import TextFiles
from light_llm.data.text_stream import MAX_CHUNK_CHARS, Chunk, drop_empty_chunks, split_at, split_at_word_boundaries
from light_llm.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
CHUNKS = st.lists(st.none() | st.text("ab \n", max_size=9), max_size=12)


def joined(chunks: Iterator[Chunk]) -> list[str]:
    """Return the documents of a stream."""
    documents = [""]
    for chunk in chunks:
        if chunk is None:
            documents.append("")
        else:
            documents[-1] += chunk
    return documents


def jsonl(texts: Iterable[str]) -> str:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))


def write_documents(folder: Path, texts: list[str]) -> dict[str, Source]:
    """Write the same documents in every form that a user can have."""
    (folder / "texts" / "deep").mkdir(parents=True)
    for i, text in enumerate(texts):
        Path(folder, "texts", f"deep/{i}.txt" if i < len(texts) // 2 else f"e{i}.txt").write_bytes(text.encode())
    (folder / "lines.jsonl").write_text(jsonl(texts), encoding="utf-8")
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(jsonl(texts).encode()))
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), folder / "rows.parquet")
    sources = {n: find_source(str(folder / n)) for n in ("texts", "lines.jsonl", "lines.jsonl.gz", "rows.parquet")}
    if not any(line == SEPARATOR for text in texts for line in text.split("\n")):
        (folder / "stories.txt").write_bytes(f"\n{SEPARATOR}\n".join(texts).encode())
        files = TextFiles("stories", (folder / "stories.txt",))
        sources["stories"] = source_from_files("stories", "stories", folder, files)
    return sources


# ---- the laws of all sources


@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 9))
def test_the_form_of_the_files_changes_nothing(texts: list[str], n_bytes: int) -> None:
    """A folder, JSON Lines (packed too), Parquet and a file of stories give the same documents, hash and counts."""
    texts = [text.removeprefix("\ufeff") or "x" for text in texts]  # a byte-order mark is dropped
    text = "".join(texts)
    facts = (len(texts), len(text), len(text.encode()), "".join(sorted(set(text))), 0)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module in (decode_utf8, documents):
            patch.setattr(module, "READ_BYTES", n_bytes)
        sources = write_documents(Path(folder), texts)
        for form, source in sources.items():
            chunks = list(source.read())
            assert joined(iter(chunks)) == texts and chunks == list(source.read()), form
            assert (source.documents, source.n_chars, source.n_bytes, source.alphabet, source.replaced) == facts, form
        assert len({source.sha256 for source in sources.values()}) == 1


@given(st.lists(TEXTS, min_size=2, max_size=5), st.lists(TEXTS, min_size=2, max_size=5))
def test_other_documents_have_another_hash(a: list[str], b: list[str]) -> None:
    """Also the same characters in other documents."""
    hashes = []
    with tempfile.TemporaryDirectory() as folder:
        for texts in (a, b, ["".join(a)]):
            Path(folder, "t.jsonl").write_text(jsonl(texts))
            hashes.append(find_source(f"{folder}/t.jsonl").sha256)
    assert (hashes[0] == hashes[1]) == (a == b) and hashes[0] != hashes[2]


@given(CHUNKS)
def test_breaks_are_never_first_last_or_repeated(chunks: list[Chunk]) -> None:
    kept = list(drop_empty_chunks(iter(chunks)))
    assert "" not in kept and kept[:1] != [None] and kept[-1:] != [None]
    assert all(a is not None or b is not None for a, b in zip(kept, kept[1:], strict=False))
    assert [d for d in joined(iter(kept)) if d] == [d for d in joined(iter(chunks)) if d]


@given(CHUNKS)
def test_word_boundaries_lose_nothing_and_are_before_white_space(chunks: list[Chunk]) -> None:
    chunks = list(drop_empty_chunks(iter(chunks)))
    cut = list(split_at_word_boundaries(iter(chunks)))
    assert joined(iter(cut)) == joined(iter(chunks))
    for left, right in zip(cut, cut[1:], strict=False):
        if left is not None and right is not None:
            assert not left[-1].isspace() and right[0] in " \n"


def test_a_text_without_spaces_is_cut_anyway() -> None:
    long = "a" * (2 * MAX_CHUNK_CHARS + 7)
    cut = list(split_at_word_boundaries(iter([long, "b" * 5, None, "c"])))
    assert joined(iter(cut)) == [long + "b" * 5, "c"] and max(map(len, filter(None, cut))) <= MAX_CHUNK_CHARS


@given(st.lists(st.text(max_size=5), max_size=6), st.integers(0, 20))
def test_a_document_is_split_at_the_exact_character(chunks: list[str], n: int) -> None:
    text = "".join(chunks)
    n = min(n, len(text))
    head, tail = split_at(iter(chunks), n)
    assert (joined(head), joined(tail())) == ([text[:n]], [text[n:]])


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=2, max_size=6), st.integers(0, 500))
def test_a_split_cuts_no_document(parts: list[list[str]], n: int) -> None:
    """It is at the first break at or after n characters, or the last one, so that no side is empty."""
    texts = ["".join(part) for part in parts]
    first, rest = split_at(iter([chunk for part in parts for chunk in (*part, None)][:-1]), n, len(texts))
    head, tail = list(first), list(rest())
    assert joined(iter(head)) + joined(iter(tail)) == texts and head and tail
    assert None not in (head[0], head[-1], tail[0], tail[-1])
    before = [sum(map(len, texts[:i])) for i in range(1, len(texts))]
    assert len(joined(iter(head))) == next((i for i, size in enumerate(before, 1) if size >= n), len(before))


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=2, max_size=6), st.floats(0, 1))
def test_a_split_is_near_its_share(parts: list[list[str]], share: float) -> None:
    """Where a break would make a side over twice or under half as long as asked for, a document is cut instead."""
    texts = ["".join(part) for part in parts]
    chunks = [chunk for part in parts for chunk in (*part, None)][:-1]
    total = sum(map(len, texts))
    n = min(total - 1, max(1, int(total * share)))

    def split(total: int | None) -> tuple[list[Chunk], list[Chunk], int]:
        head, rest = split_at(iter(chunks), n, len(texts), total)
        both = list(head), list(rest())
        return *both, sum(map(len, filter(None, both[1])))

    def near(size: int) -> bool:
        return (total - n) / 2 <= size <= (total - n) * 2 and n / 2 <= total - size <= n * 2

    at_break, (head, tail, size) = split(None), split(total)
    assert "".join(filter(None, head + tail)) == "".join(texts) and near(size)
    assert None not in (head[0], head[-1], tail[0], tail[-1])
    if near(at_break[2]):
        assert (head, tail) == at_break[:2]
    else:
        assert size == total - n


# ---- folders


def test_a_folder_is_read_in_the_order_of_its_paths() -> None:
    """By code points of the path; hidden and empty files are skipped, and loops of links are harmless."""
    folder = Path("f")
    for name in ("b.txt", "a/z.md", "a.txt", "B.TEXT", "é.txt", "a/.hidden.txt", ".git/x.txt", "a/c/empty.txt", "x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if "empty" in name else f"<{name}>")
    Path("other.txt").write_text("<linked>")
    for name, target in (("a/loop", folder), ("broken.txt", folder / "nowhere"), ("c.txt", Path("other.txt"))):
        (folder / name).symlink_to(target.absolute())
    source = find_source("f")
    assert joined(source.read()) == ["<B.TEXT>", "<a.txt>", "<a/z.md>", "<b.txt>", "<linked>", "<é.txt>"]
    assert (source.documents, source.title, source.path) == (6, "f", Path("f"))


def test_a_folder_of_lines_or_rows() -> None:
    for i in range(2):
        Path(f"j/{i}").mkdir(parents=True)
        Path(f"j/{i}/x.jsonl").write_text('{"t": "a"}\n{"t": "b"}\n')
    assert joined(find_source("j", text_field="t").read()) == ["a", "b", "a", "b"]
    Path("p").mkdir()
    for name, rows in (("1", ["c"]), ("0", ["d", "e"])):
        pq.write_table(pa.table({"text": rows}), f"p/{name}.parquet")
    assert joined(find_source("p").read()) == ["d", "e", "c"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["x.py"], "the folder f has no text: .* .txt, .md, .text, .jsonl, "),
        (["a.txt", "b.txt"], r"f \(all 2 files\) holds no text"),
        (["a.txt", "b.txt", "c.jsonl"], r"jsonl \(c.jsonl\) and text \(a.txt\)"),
    ],
)
def test_folders_that_cannot_be_used(files: list[str], message: str) -> None:
    Path("f").mkdir()
    for name in files:
        Path("f", name).touch()
    with pytest.raises(DataError, match=message):
        find_source("f")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="NOT RUN: Windows has no such modes")
def test_a_folder_without_permission() -> None:
    """The superuser can read it all the same."""
    Path("f/locked").mkdir(parents=True)
    Path("f/a.txt").write_text("a")
    os.chmod("f/locked", 0)
    try:
        if os.access("f/locked", os.R_OK):
            assert joined(find_source("f").read()) == ["a"]
        else:
            with pytest.raises(DataError, match="locked .*Permission denied"):
                find_source("f")
    finally:
        os.chmod("f/locked", 0o700)


# ---- names, standard input, held-out texts


def test_shakespeare_is_pinned(offline_files: Path) -> None:
    source = find_source("shakespeare", offline=True)
    assert (source.n_bytes, source.n_chars, len(source.alphabet)) == (1_115_394, 1_115_394, 65)
    assert source.sha256 == SHAKESPEARE.sha256 and source.title == "shakespeare"
    assert (source.documents, source.held_out) == (1, None)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("shakespear", {}, r"'shakespear'; did you mean shakespeare\?"),
        ("tinystory", {}, r"'tinystory'; did you mean tinystories\?"),
        ("nowhere/at/all.txt", {}, "'nowhere/at/all.txt'. .* shakespeare, tinystories, "),
        ("pome.txt", {}, r"'pome.txt'; did you mean poem.txt\?"),
        ("x" * 300, {}, r"'x+\.\.\. cannot be read: File name too long"),
        ("poem.txt", {"errors": "ignore"}, "errors=.ignore. cannot be used; .* strict or replace"),
        ("poem.txt", {"val_data": "peom.txt"}, "val_data=.peom.txt.* 'peom.txt'; did you mean poem.txt"),
        ("poem.txt", {"val_data": "copy.txt"}, "val_data=.copy.txt. is the same text as data=.poem.txt"),
    ],
)
def test_a_text_that_cannot_be_used(poem: Path, data: str, options: dict[str, str], message: str) -> None:
    Path("copy.txt").write_bytes(poem.read_bytes())
    with pytest.raises(DataError, match=message):
        find_source(data, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"), [("e.txt", ""), ("mark.txt", "\ufeff"), ("e.jsonl", "\n\n"), ("n.jsonl", '{"text": ""}')]
)
def test_an_empty_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"{name} holds no text( in field 'text')?;"):
        find_source(name)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory|Permission denied"):
        list(read_text(tmp_path))


def test_standard_input_is_saved_and_found_again(
    poem: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(poem.read_bytes())))
    piped = find_source("-")
    assert piped.path == shared_cache / "stdin" / f"{piped.sha256}.txt" and piped.title == "standard input"
    for again in (find_source(piped.name), find_source(str(poem))):
        assert (again.sha256, list(again.read())) == (piped.sha256, list(piped.read()))


def test_a_saved_text_that_changes_is_refused() -> None:
    path = save_stdin(io.BytesIO(b"a text that came through a pipe, and was saved"))
    path.write_bytes(path.read_bytes().replace(b"came", b"cane"))
    with pytest.raises(DataError, match=rf"{path.name} is damaged: its SHA-256"):
        find_source(str(path))


def test_a_broken_or_empty_pipe_leaves_no_file(empty_cache: Path) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > DETECT_BYTES:
                raise OSError("the pipe is gone")
            return super().read(size)

    with pytest.raises(DataError, match="the pipe is gone; .*LIGHT_LLM_CACHE"):
        save_stdin(Breaking(b"some text" * 9 * DETECT_BYTES))
    with pytest.raises(DataError, match="the pipe. is empty"):
        save_stdin(io.BytesIO())
    assert not list((empty_cache / "stdin").iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="NOT RUN: this system has no named pipes")
def test_a_named_pipe_is_saved_too(poem: Path) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(poem.read_bytes(),), daemon=True)
    writer.start()
    source = find_source("pipe")
    writer.join()
    assert find_source(source.name) == source and source.sha256 == find_source(str(poem)).sha256


def test_a_terminal_or_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    for stdin, message in ((terminal, "a terminal"), (None, "closed")):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(DataError, match=f"standard input, which is {message}"):
            find_source("-")


def test_val_data_is_held_out(poem: Path) -> None:
    Path("val.jsonl").write_text('{"t": "a"}\n{"t": "b"}')
    source = find_source(str(poem), val_data="val.jsonl", text_field="t")
    assert source.held_out and joined(source.held_out.read()) == ["a", "b"]
    assert source == replace(find_source(str(poem)), held_out=source.held_out)


def test_a_built_in_text_whose_name_is_here_too_is_noted() -> None:
    Path("tales").mkdir()
    Path("tales/a.txt").write_text("a tale of one's own")
    notes: list[str] = []
    assert find_source("tales:1", log=notes.append).limits and not notes
    own = find_source("./tales")
    assert own.documents == 1 and find_source(own.name).sha256 == own.sha256  # as a resumed run finds it
    Path("tales:1").write_text("a file")
    assert find_source("tales:1", log=notes.append).limits
    assert notes == ["this is the built-in text 'tales:1'; for the file of that name here, use {--data ./tales:1}"]
