"""Hostile files are refused with our own error, in bounded time and memory, and no code in them runs."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import hostile_files
from tests.support.child import Child
from tests.support.hostile_files import KINDS, MARK, MEMORY

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: resource, sparse files and links are of Unix")
OTHERS = {"downloads", "shards", "runs", "vocabularies", "texts"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_every_hostile_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    found = []
    for kind in KINDS:
        hostile_files.make(tmp_path / "corpus", kind)
        child = Child([str(tmp_path / "corpus"), kind], function=hostile_files.print_costs)
        assert child.wait() == 0, child.output
        found += [json.loads(line) for line in child.output[0].splitlines()]
    counts = Counter(each["file"].split("/")[0] for each in found)
    assert counts["models"] > 30 and counts["steps"] + counts["step_models"] > 30
    assert sum(counts[kind] for kind in OTHERS) > 30 and set(counts) == set(KINDS)
    for each in found:
        assert each["raised"] == "ours" and each["message"], each
        assert each["seconds"] < each["allowed"] and each["bytes"] < MEMORY, each
    assert list(here.iterdir()) == [] and not (tmp_path / MARK).exists()


def test_the_corpus_would_harm_a_careless_reader() -> None:
    """What runs when it is unpickled does run then: the mark is worth looking for."""
    import pickle

    pickle.loads(hostile_files.EVIL)
    assert Path(MARK).is_dir()
