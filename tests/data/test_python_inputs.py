"""Texts and tokenizers given as Python objects, datasets that torch's own DataLoader takes, and what they print."""

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from light_llm.cli.cache_info import cache_entries
from light_llm.data import TokenDataset, create_dataloader, prepare_dataset
from light_llm.data.bpe import GPT2Tokenizer, train_bpe
from light_llm.data.tokenizer_json import to_tokenizer_json
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, tokenizer_hash
from light_llm.errors import ConfigError, DataError

DOCUMENTS = [f"Story {i}: the fox saw the hen, and the hen saw the fox.\n" for i in range(40)]


@pytest.fixture
def dataset() -> TokenDataset:
    Path("my.txt").write_text("".join(DOCUMENTS))
    return prepare_dataset("my.txt", 16, "byte")[0]


def test_a_list_of_texts_is_a_list_of_documents() -> None:
    records = [{"body": text, "n": i} for i, text in enumerate(DOCUMENTS)]
    datasets = [
        prepare_dataset(DOCUMENTS, 16, "byte")[0],
        prepare_dataset(iter(DOCUMENTS), 16, "byte")[0],
        prepare_dataset(np.array(DOCUMENTS), 16, "byte")[0],
        prepare_dataset(records, 16, "byte", text_field="body")[0],
    ]
    for made in datasets:
        assert made.source.documents == 40 and len(made.tokens) == len(datasets[0].tokens)
        ids = made.tokens.read(0, 60)
        assert ids[0] == 256 and made.tokenizer.decode(ids).startswith("Story 0: the fox")
    assert repr(datasets[0]).startswith("TokenDataset(") and "tokens of 40 documents, windows of 16" in repr(
        datasets[0]
    )
    # A resumed run finds the text by this path.
    saved = Path(datasets[0].config.data)
    assert saved.is_file() and [entry.kind for entry in cache_entries() if entry.path == saved] == ["stdin"]
    held_out = prepare_dataset(DOCUMENTS, 16, "byte", val_data=["Another one, and the fox again.\n"])[0].held_out
    assert ByteTokenizer().decode(held_out.read(0, len(held_out))) == "Another one, and the fox again.\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"the text itself", "data is bytes"),
        ("the text itself,\n" * 999, r"data is a text of 16,983 characters, .*\.\.\.; .*prepare_dataset\(\[text\]\)"),
        ([], "an empty list has no documents"),
        (["my.txt"], "list of paths: 'my.txt'.* folder"),
        ([Path("a"), Path("b")], "list of paths: 'a'"),
        (["text", 5], r"document 2 is 5 \(int\) and not a text"),
        ([{"body": "x"}], "document 1 has no text in field 'text'; it has the fields body: .*text_field="),
        ({"text": "x"}, "has the type dict and cannot be used; give the name of a source"),
        ({"a", "b"}, "has the type set"),
        (5, "data=5 has the type int"),
        ("", "data='' names nothing"),
    ],
)
def test_other_objects_are_refused_in_one_line(data: Any, message: str) -> None:
    Path("my.txt").write_text("x")
    with pytest.raises(DataError, match=message) as caught:
        prepare_dataset(data, 16, "byte")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_path_is_never_the_name_of_a_built_in_text() -> None:
    for name in ("tales", "tales:1", "shakespeare", "-"):
        with pytest.raises(DataError, match=f"no file, folder or built-in text './{name}'"):
            prepare_dataset(Path(name), 16, "byte")
    Path("tales").mkdir()
    Path("tales/a.txt").write_text("a tale of one's own\n" * 9)
    dataset = prepare_dataset(Path("tales"), 16, "byte")[0]
    assert dataset.source.n_chars == 180 and dataset.config.data == "./tales" and not dataset.source.limits


def test_a_list_that_is_too_small_is_not_named_by_its_copy(shared_cache: Path) -> None:
    for options, message in (
        ({"data": ["abc"]}, "^the list of documents gives 2 training tokens"),
        (
            {"data": ["".join(DOCUMENTS)], "val_data": ["."]},
            r"^the held-out text the list of documents \(val_data=...\) has 1 token",
        ),
    ):
        with pytest.raises(DataError, match=message) as error:
            prepare_dataset(max_length=16, tokenizer="byte", **options)  # type: ignore[arg-type]
        assert str(shared_cache) not in str(error.value)


def test_a_held_out_text_is_named_in_its_message() -> None:
    with pytest.raises(DataError, match="^val_data=5 has the type int"):
        prepare_dataset(DOCUMENTS, 16, "byte", val_data=5)


def test_an_open_file_is_refused_with_its_path() -> None:
    Path("my.txt").write_text("x")
    with open("my.txt") as file, pytest.raises(DataError, match="open file; give its path, 'my.txt' instead"):
        prepare_dataset(file, 16, "byte")
    with pytest.raises(DataError, match="open file; give its path instead"):
        prepare_dataset(io.StringIO("x"), 16, "byte")


def test_tokenizers_of_other_libraries_give_the_same_ids(tmp_path: Path) -> None:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    ours = train_bpe(DOCUMENTS, 270)
    values = to_tokenizer_json(ours)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(values))
    theirs = tokenizers.Tokenizer.from_file(str(file))
    for given in (
        file,
        str(file),
        values,
        ours.to_dict(),
        ours,
        theirs,
        PreTrainedTokenizerFast(tokenizer_object=theirs),
    ):
        _, made = prepare_dataset(DOCUMENTS, 16, given)
        assert tokenizer_hash(made) == tokenizer_hash(ours), type(given)


def test_tiktokens_gpt2_is_ours(offline_files: Path) -> None:
    import tiktoken

    ours = GPT2Tokenizer((offline_files / "gpt2" / "vocab.bpe").read_text(encoding="utf-8"))
    theirs = tiktoken.Encoding("gpt2", pat_str=".", mergeable_ranks=dict(ours._ranks), special_tokens={})
    assert prepare_dataset(DOCUMENTS, 16, theirs)[1].vocab_size == ours.vocab_size


@pytest.mark.parametrize("tokenizer", [5, len, ["byte"], {"model": "WordPiece"}])
def test_what_is_no_tokenizer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="^tokenizer=.* cannot be used|given as tokenizer cannot be used"):
        prepare_dataset(DOCUMENTS, 16, tokenizer)


def test_windows_by_index(dataset: TokenDataset) -> None:
    ids = torch.from_numpy(dataset.tokens.read(0, len(dataset.tokens)))
    windows = list(dataset)  # type: ignore[call-overload]
    assert len(windows) == len(dataset) > 1
    for i, (tokens, targets) in enumerate(windows):
        assert torch.equal(tokens, ids[16 * i : 16 * i + 16]) and torch.equal(targets, ids[16 * i + 1 : 16 * i + 17])
    assert torch.equal(dataset[-1][0], windows[-1][0]) and torch.equal(dataset[np.int64(1)][1], windows[1][1])
    for wrong in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match=f"window {wrong} of {len(dataset)}"):
            dataset[wrong]


def test_torchs_own_loader_takes_a_dataset(dataset: TokenDataset) -> None:
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, num_workers=1)
    tokens, targets = next(iter(loader))
    assert tokens.shape == (4, 16) and torch.equal(tokens[:, 1:], targets[:, :-1])


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_a_dataset_for_another_process_maps_its_files_again(tokenizer: str) -> None:
    Path("my.txt").write_text("".join(DOCUMENTS))
    dataset, _ = prepare_dataset("my.txt", 16, tokenizer)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[1][0], dataset[1][0]) and again.record() == dataset.record()
    assert isinstance(again.tokens.ids, np.memmap)
    assert len(pickle.dumps(dataset.tokens)) < 2000
    loader = pickle.loads(pickle.dumps(create_dataloader(dataset, 2)))
    assert torch.equal(loader.batch(5).tokens, create_dataloader(dataset, 2).batch(5).tokens)


def test_what_they_print(dataset: TokenDataset) -> None:
    tokens = f"{len(dataset.tokens):,} tokens"
    assert repr(dataset) == f"TokenDataset({tokens} of my.txt, windows of 16, byte 257)"
    loader = create_dataloader(dataset, 4, seed=3)
    assert repr(loader) == f"DataLoader({len(loader)} batches of 4 windows in a pass, seed 3, of {dataset!r})"
    assert re.fullmatch(rf"Shard\({tokens} in .*train.bin\)", repr(dataset.tokens))
    assert repr(CharTokenizer("abc")) == "CharTokenizer(4 ids)"


@pytest.mark.parametrize("wrong", ["my.txt", [1, 2], None, torch.zeros(3)])
def test_a_loader_is_made_of_a_dataset(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="create_dataloader takes the dataset that prepare_dataset returns, not"):
        create_dataloader(wrong)


def test_a_loader_is_not_made_of_the_held_out_tokens(dataset: TokenDataset) -> None:
    with pytest.raises(ConfigError, match="prepare_dataset returns, not Shard"):
        create_dataloader(dataset.held_out)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size=0"):
        create_dataloader(dataset, batch_size=0)
    assert create_dataloader(dataset, np.int64(2), seed=torch.tensor(3)).seed == 3  # type: ignore[arg-type]
