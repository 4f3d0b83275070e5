"""Corpora: their file, their shards as one array, and what they refuse."""

import json
import pickle
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.config import DataConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data import shard_list as shard_list_module
from light_llm.data.corpus import CORPUS, VOCABULARY, corpus_folder, read_corpus
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.shard_list import TokenSpan
from light_llm.data.shards import TokensInMemory
from light_llm.data.tokenizers import ByteTokenizer
from light_llm.errors import ConfigError, DataError
from light_llm.json_io import dump_with_digest, load_verified
from tests.support.corpora import make_corpus, text_of
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import flip


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


def test_one_source_in_order_1_is_the_text(tmp_path: Path) -> None:
    """The windows of a corpus of one source, however many shards it has, are those of its ids as one shard."""
    dataset, _ = prepare_dataset(make_corpus(tmp_path / "corpus", {"wiki": 1}, shards=3), max_length=16, order=1)
    ids = dataset.tokens.read(0, len(dataset.tokens)).tolist()
    config = replace(DataConfig(), max_length=16)
    text = replace(dataset, tokens=TokensInMemory(ids), sources=(), config=config)
    a, b = create_dataloader(dataset, 4, seed=7), create_dataloader(text, 4, seed=7)
    for k in (0, 1, 500, 10**9):
        assert torch.equal(a.batch(k).tokens, b.batch(k).tokens) and torch.equal(a.batch(k).targets, b.batch(k).targets)
        assert a.target_bytes(a.batch(k)) == b.target_bytes(b.batch(k))


def test_the_batches_of_a_mixture(tmp_path: Path) -> None:
    """In 4,096 sequences each source has its exact share; ranks divide a batch; `describe` says where it is from."""
    folder = make_corpus(tmp_path / "corpus")
    dataset, tokenizer = prepare_dataset(str(folder / CORPUS), max_length=8, weights="wiki=3,code=1")
    loader = create_dataloader(dataset, 128, seed=2)
    seen = Counter[str]()
    for k in range(3, 3 + 4096 // 128):
        batch = loader.batch(k)
        ranks = [loader.batch(k, slice(r * 32, (r + 1) * 32)) for r in range(4)]
        assert torch.equal(torch.cat([part.targets for part in ranks]), batch.targets)
        places = [loader.order.place(k * 128 + row) for row in range(128)]
        seen.update(dataset.sources[place.source].name for place in places)
        for row, place in enumerate(places):
            ids = TokenSpan(dataset.tokens, 6004 * place.source, 6004).read(place.start, place.start + 9)
            assert batch.tokens[row].tolist() == ids[:-1].tolist() and batch.targets[row].tolist() == ids[1:].tolist()
    assert seen == {"wiki": 3072, "code": 1024}
    first = places[0]
    assert f"{dataset.sources[first.source].name} (pass {first.epoch + 1}) {first.start:,}" in loader.describe(k)
    assert loader.passes(64) == pytest.approx({"wiki": 6144 / 749, "code": 2048 / 749})
    assert dataset.config.weights == "wiki=3,code=1" and dataset.config.order == 2
    assert tokenizer.name == "byte" and dataset.config.data == str(folder)


def test_held_out_text_by_source(tmp_path: Path) -> None:
    dataset, tokenizer = prepare_dataset(make_corpus(tmp_path / "corpus"), max_length=8)
    parts = dataset.held_out_by_source()
    assert list(parts) == ["wiki", "code"]
    ids = [part.read(0, len(part)).tolist() for part in parts.values()]
    assert ids[0] + ids[1] == dataset.held_out.read(0, len(dataset.held_out)).tolist()
    assert tokenizer.decode(ids[1]).count("code 1 line") > 10 and "wiki" not in tokenizer.decode(ids[1])
    record = dataset.record()
    assert record["order"] == 2 and [s["name"] for s in record["sources"]] == ["wiki", "code"]
    assert record["train_tokens"] == sum(s["train_tokens"] for s in record["sources"]) == len(dataset.tokens)


def test_bytes_that_the_ids_do_not_tell(tmp_path: Path) -> None:
    """Tokenizers whose shards store them: the targets' bytes of a batch are those of the text."""
    kind = tokenizer_kind("llama2")
    tokenizer = HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)
    assert tokenizer.needs_byte_counts
    dataset, _ = prepare_dataset(make_corpus(tmp_path / "corpus", tokenizer=tokenizer), max_length=8)
    counts = dataset.tokens.byte_counts
    assert counts is not None and counts.read(0, len(counts)).sum() == 4 * 3000
    loader = create_dataloader(dataset, 4)
    for k in (0, 70):
        starts = [loader.order.start(4 * k + row) for row in range(4)]
        n = sum(counts.read(start + 1, start + 9).sum() for start in starts)
        assert loader.target_bytes(loader.batch(k)) == n > 0
        assert loader.target_bytes(loader.batch(k, slice(2))) + loader.target_bytes(loader.batch(k, slice(2, 4))) == n


# ---- damage


def change(folder: Path, **changes: Any) -> None:
    """Write another corpus.json, sealed as it should be."""
    file = folder / CORPUS
    file.write_bytes(dump_with_digest(load_verified(file) | changes))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus")
    files = [CORPUS, VOCABULARY, "code-00001/train.json", "code-00001/train.bin", "code-00001/held_out.bin"]
    for name in files:
        whole = (folder / name).read_bytes()
        flip(folder / name)
        with pytest.raises(DataError, match=re.escape(str(folder / name))):
            dataset, _ = prepare_dataset(str(folder / CORPUS), max_length=8)
            dataset.check()
        # Without corpus.json it is no corpus, and its name is no file.
        for data in (whole[:-1], None)[: 1 + (name != CORPUS)]:
            (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
            with pytest.raises(DataError) as error:
                dataset, _ = prepare_dataset(str(folder / CORPUS), max_length=8)
                dataset.check()
            assert name in str(error.value) and "from the text" not in str(error.value)
        (folder / name).write_bytes(whole)
    for name in ("wiki", "code"):
        shutil.rmtree(folder / f"{name}-00000")
    with pytest.raises(DataError, match="4 of the 8 .*wiki-00000/train.bin is missing.*code-00000"):
        prepare_dataset(folder, max_length=8)


def test_shards_of_another_corpus_are_refused(tmp_path: Path) -> None:
    """Of the same size, with a manifest that is right for itself; and held-out ids are not training ids."""
    folder = make_corpus(tmp_path / "corpus")
    for file in (folder / "code-00000").iterdir():
        shutil.copyfile(folder / "wiki-00000" / file.name, file)
    dataset, _ = prepare_dataset(folder, max_length=8)
    with pytest.raises(DataError, match="code-00000/train.json is damaged or of another corpus"):
        dataset.check()
    entries = load_verified(folder / CORPUS)["sources"]
    entries[0]["train"] = entries[0]["held_out"]
    change(folder, sources=entries)
    with pytest.raises(DataError, match="held_out.bin is of another text .* split"):
        prepare_dataset(folder, max_length=8)[0].tokens.read(0, 9)


def test_descriptions_that_cannot_be_used(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus")
    sources = load_verified(folder / CORPUS)["sources"]
    wiki, code = sources
    wrong: dict[str, dict[str, Any]] = {
        "format 2;": {"corpus_format": 2},
        "different names": {"sources": [wiki, wiki]},
        "code was encoded with another": {"sources": [wiki, code | {"tokenizer_sha256": "0"}]},
        "from 0 on": {"sources": [wiki, code | {"weight": -1}]},
        "above 0": {"sources": [wiki | {"weight": 0}]},
        "'a=b' is not a name": {"sources": [wiki | {"name": "a=b"}]},
        "'../train.bin'": {"sources": [wiki | {"train": [wiki["train"][0] | {"file": "../train.bin"}]}]},
        "'/train.bin'": {"sources": [wiki | {"train": [wiki["train"][0] | {"file": "/train.bin"}]}]},
        "no tokens": {"sources": [wiki | {"train": [wiki["train"][0] | {"tokens": "9"}]}]},
        "train": {"sources": [{"name": "wiki"}]},
    }
    for words, changes in wrong.items():
        change(folder, **({"corpus_format": 1, "sources": sources} | changes))
        with pytest.raises(DataError, match=f"{CORPUS} .*{re.escape(words)}"):
            read_corpus(folder)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus")
    for weights, words in {
        "wiki=1": "no weight for code.* wiki=1,code=0$",
        "wiki=1,code=1,books=1": "no source 'books'",
        "wiki=1,code=x": "'x' is not a number",
        "wiki=nan,code=1": "from 0 on",
        "wiki=0,code=0": "above 0",
        "wiki=100000,code=1": "the weight of code .* code=0",
    }.items():
        with pytest.raises(ConfigError, match=words):
            prepare_dataset(folder, max_length=8, weights=weights)
    with pytest.raises(ConfigError, match="gpt2.* encoded with byte"):
        prepare_dataset(folder, max_length=8, tokenizer="gpt2")
    with pytest.raises(ConfigError, match="other.txt.* its own held-out"):
        prepare_dataset(folder, max_length=8, val_data="other.txt")
    with pytest.raises(DataError, match="wiki .* 6,004 .*7000.* 7,001"):
        prepare_dataset(folder, max_length=7000)
    dataset, _ = prepare_dataset(folder, max_length=8, tokenizer=ByteTokenizer(), held_out=0.2)
    assert "--held-out" in dataset.notes[0]
    text = tmp_path / "text.txt"
    text.write_text("One line.\n" * 100)
    with pytest.raises(ConfigError, match="weights='wiki=1' are .*text.txt"):
        prepare_dataset(text, max_length=8, tokenizer="byte", weights="wiki=1")


def test_a_text_that_is_called_as_a_corpus(tmp_path: Path) -> None:
    (tmp_path / CORPUS).write_text(json.dumps([{"text": "One story of many. " * 20} for _ in range(9)]))
    assert corpus_folder(str(tmp_path)) is None
    dataset, _ = prepare_dataset(tmp_path / CORPUS, max_length=8, tokenizer="byte")
    assert dataset.source.documents == 9 and not dataset.sources
