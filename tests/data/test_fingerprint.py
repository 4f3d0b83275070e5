"""The cached result of the first pass over a text, and when it is trusted."""

import os
from pathlib import Path

import pytest

from light_llm.data import fingerprint
from light_llm.data.sources import find_source
from light_llm.data.text_files import TextFiles
from light_llm.errors import DataError


@pytest.fixture(autouse=True)
def scans(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> Path:
    """The folder of cached results. Time stamps are trusted at once."""
    monkeypatch.setattr(fingerprint, "STAMP_SECONDS", 0.0)
    return empty_cache / "scans"


def steps_of(data: str) -> int:
    """Return the number of progress steps while a source is found: 0 if nothing was read."""
    steps: list[tuple[int, int]] = []
    find_source(data, progress=lambda *step: steps.append(step))
    assert not steps or steps[-1][0] == steps[-1][1]
    return len(steps)


def test_an_unchanged_file_is_read_once(poem: Path, scans: Path) -> None:
    first = find_source(str(poem))
    assert len(list(scans.glob("*.json"))) == 1
    assert steps_of(str(poem)) == 0 and find_source(str(poem)) == first
    assert find_source(str(poem), errors="replace") == first and len(list(scans.glob("*.json"))) == 2


def test_a_changed_file_is_read_again(poem: Path) -> None:
    first = find_source(str(poem))
    poem.write_text(poem.read_text().replace("cat", "dog"))
    assert steps_of(str(poem)) and find_source(str(poem)).sha256 != first.sha256
    os.utime(poem, ns=(1, 1))
    assert steps_of(str(poem)) and not steps_of(str(poem))


def test_a_recently_changed_file_is_not_trusted(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one from the future: a second change within the same tick of the clock would not show."""
    changed = max(poem.stat().st_mtime, poem.stat().st_ctime)
    monkeypatch.setattr(fingerprint, "STAMP_SECONDS", 2.0)
    for seconds, trusted in ((1, False), (5, True)):
        monkeypatch.setattr("light_llm.data.fingerprint.time.time", lambda seconds=seconds: changed + seconds)
        assert steps_of(str(poem)) and bool(steps_of(str(poem))) != trusted
    os.utime(poem, (changed + 3600, changed + 3600))
    assert steps_of(str(poem)) and steps_of(str(poem))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"scan": {}}', b"null", b"\xff", None])
def test_a_damaged_result_is_replaced(poem: Path, scans: Path, damage: bytes | None) -> None:
    first = find_source(str(poem))
    [file] = scans.glob("*.json")
    intact = file.read_bytes()
    changed = intact.replace(f'"n_chars": {first.n_chars}'.encode(), b'"n_chars": 17')
    file.write_bytes(changed if damage is None else damage)
    assert changed != intact and find_source(str(poem)) == first and file.read_bytes() == intact


def test_a_cache_that_cannot_be_written_costs_a_pass(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(poem))  # a file
    assert steps_of(str(poem)) and steps_of(str(poem))


def test_a_text_that_changes_under_a_reader_is_noticed(poem: Path, scans: Path) -> None:
    """Even if the time stamps are wrong and a cached result was trusted; the next start reads the text again."""
    source, n_bytes = find_source(str(poem)), poem.stat().st_size
    poem.write_text(poem.read_text().replace("cat", "dog"))
    [file] = scans.glob("*.json")
    key = fingerprint._file_stamps(TextFiles("text", (poem,), hash_raw_bytes=True))[0]
    os.rename(file, file.with_name(f"{key}.json"))  # as if the stamps had not changed
    for trusted in (source, find_source(str(poem))):
        with pytest.raises(DataError, match="poem.txt changed"):
            list(trusted.read())
    assert poem.stat().st_size == n_bytes and find_source(str(poem)).sha256 != source.sha256


def test_a_file_that_disappears(poem: Path) -> None:
    source = find_source(str(poem))
    poem.unlink()
    with pytest.raises(DataError, match="poem.txt .*No such file"):
        list(source.read())


def test_progress_covers_all_files() -> None:
    Path("f").mkdir()
    for i in range(3):
        Path(f"f/{i}.jsonl").write_text('{"text": "abc"}\n' * 10)
    steps, again = list[tuple[int, int]](), list[tuple[int, int]]()
    source = find_source("f", progress=lambda *step: steps.append(step))
    list(source.read(lambda *step: again.append(step)))
    assert steps[-1] == (480, 480) and again == steps == sorted(steps)
