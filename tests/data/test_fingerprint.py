"""What is kept of the first pass over a text, and what of it is trusted."""

import os
import time
from pathlib import Path

import pytest

from light_llm.data import fingerprint
from light_llm.data.sources import find_source
from light_llm.data.text_files import TextFiles
from light_llm.errors import DataError


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "own_cache"))
    monkeypatch.setattr(fingerprint, "STAMP_SECONDS", 0.0)
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
    monkeypatch.setattr(fingerprint, "STAMP_SECONDS", 2.0)
    assert reads(str(poem)) and reads(str(poem))
    now = time.time()
    monkeypatch.setattr(fingerprint.time, "time", lambda: now + 5)
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
    monkeypatch.setattr(fingerprint, "STAMP_SECONDS", 0.0)
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(poem))  # a file
    assert reads(str(poem)) and reads(str(poem))


def test_a_text_that_changes_under_a_reader_is_noticed(poem: Path, own_cache: Path) -> None:
    """Even when the time stamps lie and an earlier result was believed; the next start reads again."""
    source = find_source(str(poem))
    before = poem.stat()
    poem.write_text(poem.read_text().replace("cat", "dog"))
    [file] = own_cache.glob("scans/*.json")
    key = fingerprint._file_stamps(TextFiles("text", (poem,), hash_raw_bytes=True))[0]
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
