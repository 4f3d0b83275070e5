"""`light-llm import`: its files, its output, and the files that it does not overwrite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.atomic_io import HashingWriter
from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.cli.import_ import command
from light_llm.data.tokenizers import ByteTokenizer
from light_llm.errors import CheckpointError, Interrupted
from light_llm.generate import TextGenerator
from light_llm.interop.import_model import read_folder
from light_llm.interop.model_card import write_card
from tests.interop.test_import import ROPE, exported
from tests.support.export_tools import HF, tiny_loaded
from tests.support.tools import some_tokens


def test_an_import_can_be_loaded_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = exported(tmp_path / "out", ByteTokenizer(), **ROPE)
    assert command([str(folder), "--out", "mine"]) == 0
    out = capsys.readouterr().out
    assert (
        "out (Llama, a Hugging Face folder)" in out and "light-llm generate text --checkpoint mine/best_model.pt" in out
    )
    assert max(map(len, out.splitlines())) <= 80
    loaded = load_model("mine")
    origin = loaded.file.meta["imported"]
    assert origin.pop("config_json") == json.loads((folder / "config.json").read_text())
    described = {"format": "huggingface", "family": "llama", "name": "out", "ours": True}
    assert origin == described | {"weights": {"dtype": "float32"}}
    ids = some_tokens(T=16, V=257)
    assert torch.equal(loaded.model(ids), model(ids)[..., :257])
    assert TextGenerator("mine", device="cpu").generate("abc", 5, seed=1).startswith("abc")


def test_nothing_is_overwritten_without_the_flag(tmp_path: Path) -> None:
    _, folder = exported(tmp_path / "out", ByteTokenizer())
    other = tmp_path / "deep" / "x.pt"
    assert command([str(folder), "--out", str(other)]) == 0
    other.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match=r"x\.pt already exists; name another with out=..., or replace it"):
        command([str(folder), "--out", str(other)])
    assert other.read_bytes() == b"precious"
    assert command([str(folder), "--out", str(other), "--overwrite"]) == 0
    assert load_model(other).file.config.vocab_size == 257
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="run holds a run, and best_model.pt is its model"):
        command([str(folder), "--out", str(run), "--overwrite"])
    assert command([str(folder), "--out", "back"]) == 0
    with pytest.raises(CheckpointError, match=r"best_model\.pt already exists; .* or replace it: overwrite=True"):
        command([str(folder), "--out", "back"])
    assert command([str(folder), "--out", "back", "--overwrite"]) == 0  # a model alone: an import from before
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        command([str(folder), "--out", str(other / "below")])


@pytest.mark.parametrize("at", [0, 20_000])
def test_ctrl_c_while_writing_leaves_nothing(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch turns the interruption into an error about a position in its archive."""
    _, folder = exported(tmp_path / "out", ByteTokenizer())
    write, written = HashingWriter.write, 0

    def pressed(self: Any, data: Any) -> int:
        nonlocal written
        written += len(data)
        if written > at:
            monkeypatch.setattr(HashingWriter, "write", write)  # once
            raise Interrupted(2)
        return write(self, data)

    monkeypatch.setattr(HashingWriter, "write", pressed)
    assert main(["import", str(folder), "--out", "there"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n" and not Path("there").exists()


def test_the_card_of_an_import_claims_no_training(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path, "llama")
    for name in ("there", "again"):
        (tmp_path / name).mkdir()
    HF.write(loaded, tmp_path / "there")
    back = read_folder(tmp_path / "there")
    write_card(back, tmp_path / "again", "checked")
    text = (tmp_path / "again" / "README.md").read_text()
    assert "an earlier export of light-llm: imported from there" in text
    described = json.loads((tmp_path / "there" / "config.json").read_text())
    del described["light_llm"]  # as another program would have written it
    (tmp_path / "there" / "config.json").write_text(json.dumps(described))
    write_card(read_folder(tmp_path / "there"), tmp_path / "again", "checked")
    text = (tmp_path / "again" / "README.md").read_text()
    assert "not trained by light-llm: imported from there" in text
    assert "updates" not in text and "held-out" not in text
