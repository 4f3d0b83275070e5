"""Exports of models that were trained with a published tokenizer: its file, byte for byte, and the same ids."""

import json
from pathlib import Path

import pytest

from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.interop.export import export
from light_llm.interop.import_model import read_folder
from tests.support.export_tools import HF, tiny_loaded
from tests.support.published import write_folder
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


def test_a_tokenizer_that_transformers_builds_by_itself_is_noted(tmp_path: Path) -> None:
    """LlamaTokenizer of transformers 5 is not that of the file, in the published model too."""
    kind = tokenizer_kind("llama2")
    ids = {"vocab_size": kind.vocab_size, "bos_token_id": kind.bos, "eos_token_id": kind.eos}
    write_folder(tmp_path / "published", "tinyllama", files=kind.files(), **ids)
    done = export(read_folder(tmp_path / "published"), HF, tmp_path / "out")
    assert done.check is not None and done.check.same_tokenizer
    card = (tmp_path / "out/README.md").read_text()
    assert "LlamaTokenizer" in done.summary and "PreTrainedTokenizerFast" in card
    assert "The licence of published applies to it" in card
    assert (tmp_path / "out/tokenizer_config.json").read_bytes() == kind.files()["tokenizer_config.json"]
