"""What a folder holds besides its texts, marks between documents, and characters of a wrong encoding are noted."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.cli import main
from light_llm.data import prepare_dataset
from light_llm.data.documents import split_documents
from light_llm.data.sources import find_source
from light_llm.data.text_stream import drop_empty_chunks
from light_llm.errors import DataError
from tests.data.test_decode_utf8 import documents_of, write
from tests.data.test_sources import joined

STORY = "Once upon a time there was a fox.\n"
MARKED = (STORY + "<|endoftext|>\n") * 40


def notes_of(data: str, **options: str) -> list[str]:
    notes: list[str] = []
    find_source(data, log=notes.append, **options)  # type: ignore[arg-type]
    return notes


def folder_of(name: str, files: dict[str, str | bytes]) -> str:
    for file, data in files.items():
        Path(name, file).parent.mkdir(parents=True, exist_ok=True)
        write(f"{name}/{file}", data)
    return name


# ---- folders


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (
            {"README.md": "a" * 9, "train.csv": "text\n" * 90},
            "not read: 1 .csv, 450 bytes and more than what is read; {--suffixes .csv} reads those instead",
        ),
        ({"a.txt": "a" * 90, "b.srt": "1", "c/b.srt": "2", "Makefile": "x"}, "not read: 2 .srt, 1 without an ending"),
        # Larger, but no text; a text, but small.
        (
            {"a.txt": "a" * 90, "b.JPG": b"\xff\xd8\xff" * 99, "c.json": "{}"},
            "not read: 1 .jpg, 1 .json, 299 bytes and more than what is read",
        ),
        # Damaged, and not to be read.
        (
            {"a.txt": "a" * 9, "b.log.gz": gzip.compress(bytes(range(99)), mtime=0)[:60]},
            "not read: 1 .log, 60 bytes and more than what is read",
        ),
        (
            {"a.txt": "a" * 9, "b.LOG.gz": gzip.compress(b"a line\n" * 9, 0, mtime=0)},
            "not read: 1 .log, 86 bytes and more than what is read; {--suffixes .log} reads those instead",
        ),
        (
            {"a.md": "a", "b.py": "x = 1\n" * 9, "c.bin": bytes(900), "d.js": "1", "e.h": "", "f.c": "", "g.o": "\0"},
            "not read: 1 .bin, 1 .py, 1 .js, 1 .o, 2 more, 956 bytes and more than what is read; {--suffixes .py} "
            "reads those instead",
        ),
    ],
)
def test_what_a_folder_holds_besides_is_noted(files: dict[str, str | bytes], note: str) -> None:
    assert notes_of(folder_of("t", files)) == [f"the folder t has 1 file of text, 1 document; {note}"]


def test_the_files_of_a_folder_can_be_chosen() -> None:
    folder_of("repo", {"README.md": "# About", "src/a.py": "a = 1\n", "b.PY": "b = 2\n", "rows.csv": "text\nx\ny\n"})
    for suffixes, documents in (
        ("", ["# About"]),
        (".py", ["b = 2\n", "a = 1\n"]),
        ("py, *.md", ["# About", "b = 2\n", "a = 1\n"]),
        (".csv", ["x", "y"]),
    ):
        assert documents_of("repo", suffixes=suffixes) == documents
    with pytest.raises(DataError, match=r"more than one kind: csv \(rows.csv\) and text \(README.md\).*suffixes="):
        find_source("repo", suffixes=".csv,.md")
    with pytest.raises(DataError, match=r"no file .* ends in .rs; it has 2 .py, .*suffixes='?.py"):
        find_source("repo", suffixes=".rs")
    assert notes_of("repo/README.md", suffixes=".py") == ["{--suffixes .py} has no effect: README.md is not a folder"]
    dataset, _ = prepare_dataset("repo", 4, "byte", suffixes=".py", held_out=0.5)
    assert dataset.record()["suffixes"] == ".py" and dataset.record()["documents"] == 2


def test_a_folder_without_texts_names_what_is_there() -> None:
    folder_of("f", {"a.py": "x = 1", "b.ipynb": "{}", "c.png": b"\x89PNG\r\n\x1a\n"})
    with pytest.raises(DataError, match=r"folder f has no text: .*1 .png, 1 .py, 1 .ipynb; .*suffixes='?.py"):
        find_source("f")
    folder_of("saved", {"data-0.arrow": b"\xff\xff\xff\xff", "state.json": "{}"})
    with pytest.raises(DataError, match=r"folder saved has no text: .*1 .arrow, 1 .json; .*load_from_disk.*to_parquet"):
        find_source("saved")
    with pytest.raises(DataError, match=r"f/b.ipynb is a Jupyter notebook"):
        find_source("f", suffixes=".ipynb")
    assert documents_of("f", suffixes=".py,.ipynb", text_field="none") == ["x = 1", "{}"]


def test_tables_and_records_that_are_read_as_plain_text_are_noted() -> None:
    rows = "id,text\n" + "".join(f"{i},a story\n" for i in range(9))
    for name in ("rows.txt", "rows"):
        assert notes_of(write(name, rows)) == [
            f"{name} begins as CSV with the columns id, text, and is read as plain text; "
            "save it as .csv to read its rows"
        ]
    assert not notes_of("rows.txt", text_field="none")
    folder_of("f", {"a.txt": '{"text": "a"}\n{"text": "b"}\n'})
    assert "a.txt begins with JSON records, and is read as plain text" in notes_of("f")[1]
    for poem in (
        "Roses, red\n" * 9,
        "One,\ntwo,\nthree,\n",
        "a b\n" * 9,
        "",
        "a\rb,c\n" * 9,
        "I came,I saw\nI won\n" * 3,
        ",\n" * 9,
    ):
        assert not notes_of(write("poem.txt", f"x{poem}"))


# ---- marks between documents


@pytest.mark.parametrize("mark", ["<|endoftext|>", "</s>", "<|end_of_text|>"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_on_lines_of_their_own_are_noted_and_split(mark: str, end: str) -> None:
    path = write("my.txt", end.join([STORY.strip(), mark] * 40 + [""]))
    [note] = notes_of(path)
    assert f"my.txt has 40 lines {mark}" in note and f"{{--separator '{mark}'}}" in note
    assert find_source(path).documents == 1
    split = find_source(path, separator=mark)
    assert joined(split.read()) == [STORY.strip()] * 40 and not notes_of(path, separator=mark)
    assert split.sha256 != find_source(path).sha256


def test_few_marks_and_marks_inside_lines_are_not_noted() -> None:
    assert not notes_of(write("few.txt", MARKED[: 3 * (len(STORY) + 14)]))
    assert not notes_of(write("in.txt", "the mark <|endoftext|> ends a text\n<|endoftext|>, too\n" * 40))


def test_documents_of_any_source_are_split() -> None:
    write("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in ("a\n***\nb", "c")))
    assert documents_of("a.jsonl", separator="***") == ["a", "b", "c"]
    folder_of("f", {"1.txt": "a\n***\nb", "2.txt": "c"})
    assert documents_of("f", separator="***") == ["a", "b", "c"]
    assert notes_of(write("b.txt", "no such line\n"), separator="***") == [
        "b.txt has no line '***' between two documents ({--separator})"
    ]
    assert "has no effect on tales" in notes_of("tales:1", separator="***")[0]
    for separator in ("", " ", "a\nb"):
        with pytest.raises(DataError, match="separator=.* is '.*'; it must be what one line has"):
            find_source("b.txt", separator=separator)


@given(
    st.lists(st.sampled_from(["a", "", "***", "*** ", "x***", "b\r"]), max_size=7),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_a_stream_is_split_wherever_it_is_cut(lines: Sequence[str], end: str, cuts: list[int]) -> None:
    """Line by line, with LF or CRLF; cut into chunks at any place."""
    text = end.join(lines)
    parts: list[list[str]] = [[]]
    for line in lines:
        if line == "***":
            parts.append([])
        else:
            parts[-1].append(line)
    edges = [0, *sorted(cuts), len(text)]
    chunks = [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    split = joined(drop_empty_chunks(split_documents(iter([*chunks, None]), "***")))
    if end == "\n" and "b\r" not in lines:
        assert split == ([p for p in (end.join(part) for part in parts) if p] or [""])
    # A separator never remains, and nothing else is lost.
    assert not {"***", "***\r"} & set("\n".join(split).split("\n")) or "b\r" in lines
    assert "".join(split).replace("\r", "").replace("\n", "") == "".join(x for x in lines if x != "***").replace(
        "\r", ""
    )


def test_the_separator_is_recorded_and_found_again(capsys: pytest.CaptureFixture[str]) -> None:
    write("my.txt", MARKED)
    assert main(["prepare", "--data", "my.txt", "--tokenizer", "byte"]) == 0
    out = capsys.readouterr().out
    assert "note     my.txt has 40 lines <|endoftext|>" in out and "--separator '<|endoftext|>' splits" in out
    assert main(["prepare", "--data", "my.txt", "--tokenizer", "byte", "--separator", "<|endoftext|>"]) == 0
    out = capsys.readouterr().out
    assert "40 documents" in out and "next     light-llm train --data my.txt" in out
    assert "--separator '<|endoftext|>'" in out
    dataset, tokenizer = prepare_dataset("my.txt", 16, "byte", separator="<|endoftext|>")
    assert dataset.record()["separator"] == "<|endoftext|>"
    assert tokenizer.decode(dataset.tokens.read(1, len(STORY))) == STORY.strip()


# ---- characters


def test_windows_1252_that_was_converted_as_latin1_is_noted() -> None:
    text = b"\x93Yes,\x94 she said, it\x92s late.\n".decode("latin-1") * 9
    [note] = notes_of(write("utf8.txt", text))
    assert "utf8.txt has the control characters U+0092, U+0093, U+0094, where" in note and "WINDOWS-1252" in note
    assert not notes_of(write("nel.txt", "a\x85b \x7f\x01 é ’"))
