"""Hostile files are refused with our own error, in bounded time and memory, and no code in them runs."""

import json
import sys
from pathlib import Path

import pytest

from tests.support import hostile_files
from tests.support.hostile_files import KINDS, MARK, MEMORY
from tests.support.tools import run_child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="resource, sparse files and links are of Unix")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("kinds", "at_least"), [("downloads shards runs vocabularies texts", 30), ("steps step_models", 30), ("models", 30)]
)
def test_every_hostile_file_is_refused(tmp_path: Path, kinds: str, at_least: int) -> None:
    for kind in kinds.split():
        hostile_files.make(tmp_path / "corpus", kind)
    (tmp_path / "here").mkdir()
    words = [sys.executable, "-m", "tests.support.hostile_files", "read", str(tmp_path / "corpus"), *kinds.split()]
    child = run_child(words, cwd=tmp_path / "here")
    assert child.returncode == 0, child.stderr
    found = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(found) >= at_least
    for each in found:
        assert each["raised"] == "ours" and each["message"], each
        assert each["seconds"] < each["allowed"] and each["bytes"] < MEMORY, each
    assert list((tmp_path / "here").iterdir()) == [] and not (tmp_path / MARK).exists()


def test_the_corpus_would_harm_a_careless_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs when it is unpickled does run then: the mark is worth looking for."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(hostile_files.EVIL)
    assert (tmp_path / MARK).is_dir()


def test_every_kind_is_read() -> None:
    assert set(KINDS) == {"downloads", "shards", "runs", "vocabularies", "texts", "steps", "step_models", "models"}
