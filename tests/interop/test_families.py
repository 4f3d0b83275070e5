"""Models as the hub has them, of every family: the numbers of transformers, and the same files on the way back."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from light_llm.interop.huggingface import HuggingFaceExporter
from light_llm.interop.import_model import read_folder
from tests.support.parity import check_family
from tests.support.published import CONFIGS, FAMILIES, with_old_buffers, write_folder

HF = HuggingFaceExporter()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_model_is_the_one_of_transformers(name: str, tmp_path: Path) -> None:
    """In the dtype of its files, from shards; and what goes out is what came in."""
    row = check_family(name, tmp_path)
    assert row.right, asdict(row)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_in_every_dtype(name: str, dtype: str, tmp_path: Path) -> None:
    row = check_family(name, tmp_path, dtype=dtype, shards=False)
    assert row.right, asdict(row)


@pytest.mark.parametrize("name", FAMILIES.values())
def test_buffers_of_older_files_make_no_difference(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, name)
    expected = read_folder(tmp_path, tokenizer="none").file.weights
    with_old_buffers(tmp_path)
    found = read_folder(tmp_path, tokenizer="none").file.weights
    assert found.keys() == expected.keys() and all(torch.equal(found[part], expected[part]) for part in found)
