"""Corpora: their file, their shards as one array, and training on them."""

import pickle
from pathlib import Path

import pytest

from light_llm.data import prepare_dataset
from light_llm.data import shard_list as shard_list_module
from tests.support.corpora import make_corpus, text_of


def test_the_ids_of_all_shards_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read across their edges, and however few may be open at once."""
    monkeypatch.setattr(shard_list_module, "MAX_OPEN", 1)
    folder = make_corpus(tmp_path / "corpus")
    dataset, tokenizer = prepare_dataset(folder, max_length=16)
    whole = [
        [tokenizer.separator, *text_of(name, i).encode(), tokenizer.separator]
        for name in ("wiki", "code")
        for i in range(2)
    ]
    ids = [i for shard in whole for i in shard]
    assert len(dataset.tokens) == len(ids) and dataset.tokens.read(0, len(ids)).tolist() == ids
    for start, stop in ((2990, 3010), (6000, 6006), (0, 0), (3001, 9010), (12_000, 13_000)):
        assert dataset.tokens.read(start, stop).tolist() == ids[start:stop]
        assert pickle.loads(pickle.dumps(dataset.tokens)).read(start, stop).tolist() == ids[start:stop]
    assert dataset.check() == 8
