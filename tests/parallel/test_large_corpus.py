"""A mixture on two ranks, killed and resumed on one, with every read counted: the small version of the benchmark."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import large_corpus


@pytest.mark.slow
def test_a_corpus_on_two_ranks_killed_and_resumed_on_one(tmp_path: Path) -> None:
    lines = large_corpus.measure(tmp_path, large_corpus.SMALL)
    assert any("[2867, 1229] of 4096 in each of 2 periods" in line for line in lines), lines
