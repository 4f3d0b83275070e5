"""`light-llm cache`: lists what is cached, deletes only that, and nothing that a process uses."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import cache_info, main
from light_llm.data import TokenDataset, prepare_dataset
from light_llm.runtime import cache_in_use, lock_folder, unlock

OLD = time.time() - 3600


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an entry of each kind, and files of other programs."""
    folder = tmp_path / "cache"
    files = {
        "texts": ["shakespeare.txt", "tales/0123abcd-1-10.txt", "tales/0123abcd-1-10.tsv"],
        "stdin": [f"stdin/{'a' * 64}.txt"],
        "ids": [f"shards/{'b' * 24}/train.bin", f"shards/{'b' * 24}/train.json"],
        "remote": [f"remote/{'f' * 24}/000001.bin"],
        "vocabularies": [f"tokenizers/{'c' * 24}.json", "gpt2/vocab.bpe"],
        "scans": [f"scans/{'d' * 64}.json"],
        "measurements": ["measured.json", f"doctor/{'e' * 16}.json"],
        "history": ["interactive-history.txt"],
        "partial": [f"shards/{'b' * 24}.partial/train.bin", ".measured.json.tmp-77", "stdin/.new.txt.tmp-77"],
        "other": ["thesis.txt", "tales/my-own.txt", "shards/notes", ".bashrc.tmp-77", "tinystories/train.txt"],
    }
    for names in files.values():
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("0123456789")
            os.utime(folder / name, (OLD, OLD))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(folder))
    return folder


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["cache", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_kind_is_listed_with_its_size(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys)
    assert listed["folder"] == str(cache) and listed["bytes"] == 210 and listed["other_bytes"] == 50
    counts = {kind: (facts["files"], facts["bytes"]) for kind, facts in listed["kinds"].items()}
    assert counts == {
        "texts": (3, 30),
        "stdin": (1, 10),
        "ids": (2, 20),
        "remote": (1, 10),
        "vocabularies": (2, 20),
        "scans": (1, 10),
        "measurements": (2, 20),
        "history": (1, 10),
        "partial": (3, 30),
    }
    assert listed["kinds"]["ids"]["paths"] == [str(cache / "shards" / ("b" * 24))]
    assert main(["cache"]) == 0
    text = capsys.readouterr().out
    assert f"The cache is {cache}: 210 bytes." in text and "light-llm cache clear ids" in text
    assert "not written by light-llm" in text


def test_only_the_named_kinds_are_deleted(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(cache)
    assert answer(capsys, "clear", "measurements", "--yes")["bytes"] == 20
    assert before - left(cache) == {"measured.json", f"doctor/{'e' * 16}.json"}
    assert main(["cache", "clear", "ids", "stdin", "--yes"]) == 0
    assert capsys.readouterr().out == "Deleted stdin and ids (30 bytes).\n"
    assert main(["cache", "clear", "ids", "--yes"]) == 0
    assert capsys.readouterr().out == "The cache has no ids.\n"


def test_what_cannot_be_made_again_goes_by_name_only(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is a file of another program deleted, whatever its name resembles."""
    answer(capsys, "clear", "--yes")
    others = {"thesis.txt", "tales/my-own.txt", "shards/notes", ".bashrc.tmp-77", "tinystories/train.txt"}
    assert left(cache) == {f"stdin/{'a' * 64}.txt", "interactive-history.txt"} | others
    answer(capsys, "clear", *cache_info.KINDS, "--yes")
    assert left(cache) == others


def test_without_a_terminal_nothing_is_deleted_unasked(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(cache)
    assert main(["cache", "clear"]) == 2
    err = capsys.readouterr().err
    assert "cache clear would delete " in err and "(140 bytes); add --yes" in err and "stdin" not in err
    assert left(cache) == before


@pytest.mark.parametrize(("typed", "deletes"), [("y", True), ("Yes", True), ("", False), ("n", False)])
def test_on_a_terminal_it_asks(
    typed: str, deletes: bool, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return typed

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    assert main(["cache", "clear", "ids"]) == (0 if deletes else 2)
    assert asked == ["Delete ids (20 bytes)? [y/N] "]
    assert (cache / "shards" / ("b" * 24)).exists() != deletes


def test_links_are_not_followed(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a link at the place of a file, nor one at the place of a folder, nor one inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("precious.txt", f"{'f' * 24}.json", f"{'a' * 16}.json"):
        (outside / name).write_text("0123456789")
    (cache / "shards" / ("c" * 24)).symlink_to(outside)
    (cache / "shards" / ("b" * 24) / "link").symlink_to(outside)
    (cache / "measured.json").unlink()
    (cache / "measured.json").symlink_to(outside / "precious.txt")
    (cache / "doctor").rename(tmp_path / "doctor")
    (cache / "doctor").symlink_to(outside)
    answer(capsys, "clear", *cache_info.KINDS, "--yes")
    assert len(left(outside)) == 3 and (cache / "measured.json").is_symlink() and (cache / "doctor").is_symlink()
    assert not (cache / "shards" / ("b" * 24)).exists()


def test_what_a_process_uses_stays(
    tmp_path: Path, poem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dataset holds its ids as long as it exists; a folder in which another process encodes is left to it."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    dataset: TokenDataset | None = prepare_dataset(str(poem), max_length=16, tokenizer="byte")[0]
    assert dataset is not None and dataset.folder is not None
    folder = dataset.folder
    partial = folder.with_name(f"{'b' * 24}.partial")
    partial.mkdir()
    encoding = lock_folder(partial)
    result = answer(capsys, "clear", "--yes")
    assert set(result["in_use"]) == {str(folder), str(partial)} and folder.is_dir() and partial.is_dir()
    assert len(dataset.tokens.read(0, 5)) == 5
    unlock(encoding)
    dataset = None
    assert answer(capsys, "clear", "ids", "partial", "--yes")["in_use"] == []
    assert not folder.exists() and not partial.exists()


def test_a_file_that_was_just_written_may_be_another_machine_s(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(cache / ".measured.json.tmp-77")
    assert answer(capsys, "clear", "partial", "--yes")["in_use"] == [str(cache / ".measured.json.tmp-77")]


def test_a_text_that_is_being_prepared_is_not_deleted(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(cache)
    with cache_in_use():
        assert main(["cache", "clear", "--yes"]) == 2
    assert "another light-llm process is preparing a text" in capsys.readouterr().err and left(cache) == before
    answer(capsys, "clear", "--yes")
    assert left(cache) != before


def test_a_cache_that_is_not_there_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "none"))
    assert answer(capsys)["bytes"] == 0 and answer(capsys, "clear", "--yes")["deleted"] == []
    assert not (tmp_path / "none").exists()


def test_all_that_training_caches_is_known(tmp_path: Path, poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new kind of cached file that `cache` does not know would never be deleted."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    os.utime(poem, (OLD, OLD))
    prepare_dataset(str(poem), max_length=16, tokenizer="bpe:300")
    prepare_dataset("tales:1", max_length=16, tokenizer="byte")
    entries = cache_info.cache_entries()
    assert {entry.kind for entry in entries} >= {"texts", "ids", "vocabularies"} and cache_info.other_bytes(
        entries
    ) == 0


def test_mistakes(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["claer"], "cache cannot do 'claer'; did you mean clear?"),
        (["clear", "shards"], "nothing in the cache is called 'shards'"),
        (["clear", "id"], "did you mean ids?"),
        (["--yes"], "--yes belongs to clear"),
    ):
        assert main(["cache", *words]) == 2
        assert expected in capsys.readouterr().err
