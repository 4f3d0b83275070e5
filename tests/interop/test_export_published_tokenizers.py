"""Exports of models that were trained with a published tokenizer: its file, byte for byte, and the same ids."""

import json
from pathlib import Path

import pytest

from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.interop.import_model import read_folder
from tests.support.export_tools import HF, tiny_loaded
from tests.support.texts_in_scripts import texts_in_scripts
from tests.support.tokenizer_checks import compare
from tests.support.tokenizer_kinds import KINDS, tokenizer_kind


@pytest.mark.parametrize("name", KINDS)
def test_transformers_reads_the_ids_of_the_file(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    kind, folder = tokenizer_kind(name), tmp_path / "out"
    tokenizer = HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)
    folder.mkdir()
    HF.write(tiny_loaded(tmp_path, tokenizer=tokenizer), folder)
    assert (folder / "tokenizer.json").read_bytes() == kind.data
    assert compare(tokenizer, AutoTokenizer.from_pretrained(folder), texts_in_scripts(60)) == []
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == kind.eos and generation["bos_token_id"] == (*kind.prefix, kind.eos)[0]
    back = read_folder(folder).file.tokenizer
    assert isinstance(back, HuggingFaceTokenizer) and back.data == kind.data
    assert (back.separator, back.prefix, back.suffix) == (tokenizer.separator, tokenizer.prefix, tokenizer.suffix)
