"""The format number: earlier formats are read, later ones are refused by it, and a new field does not change it."""

import json
import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import pytest

from light_llm.checkpoint import Files, read_model, read_step, read_step_files, write_model_file
from light_llm.checkpoint.carried_files import MAX_FILE, read_carried_files
from light_llm.checkpoint.commit import FORMAT, commit_folder
from light_llm.checkpoint.model_file import KIND
from light_llm.config import ModelConfig
from light_llm.errors import CheckpointError
from light_llm.json_io import ORDINARY, TOKENIZER, load_json, parse_json
from tests.checkpoint.test_checkpoint import FILES, meta_of, save, trained
from tests.support.hostile_files import archive, pickled
from tests.support.tools import tiny_model

RUNS = Path(__file__).parent.parent / "train" / "fixtures"  # made by the versions that wrote these formats
STEPS = {1: RUNS / "adamw/stopped/step-000025", 2: RUNS / "published/stopped/step-000007"}


@pytest.mark.parametrize("format", [1, 2])
def test_each_format_is_read(format: int) -> None:
    step = STEPS[format]
    assert json.loads((step / "MANIFEST.json").read_text())["format"] == format
    assert read_step(step)[3].step == int(step.name[5:])
    for path in (step, step.parent):
        file = read_model(path)
        assert file.tokenizer is not None and bool(file.files) == (format == 2)
    assert sorted(STEPS) == list(range(1, FORMAT + 1)), "a new format needs a run folder of its own here"


def test_a_field_that_an_older_version_did_not_write_has_its_default(tmp_path: Path) -> None:
    """So a new choice of the architecture whose default means "as before" keeps the format number."""
    model, path = tiny_model(), tmp_path / "best_model.pt"
    meta = meta_of(model)
    defaults = {f.name: f.default for f in fields(ModelConfig) if f.default is not MISSING}
    unwritten = {name for name, default in defaults.items() if asdict(model.config)[name] == default}
    assert len(unwritten) > 10
    old = meta | {"config": {name: v for name, v in asdict(model.config).items() if name not in unwritten}}
    write_model_file(path, model.state_dict(), old, Files())
    assert read_model(path).config == model.config
    stored = json.loads((STEPS[1] / "model.json").read_text())["config"]
    assert stored.keys() < asdict(model.config).keys()
    assert all(
        asdict(read_model(STEPS[1]).config)[name] == default
        for name, default in defaults.items() - stored.items()
        if name not in stored
    )


def test_a_later_format_is_refused_by_its_number(tmp_path: Path) -> None:
    """Whatever else is new in it: no other message can say what to do."""
    model, new = tiny_model(), {"config": {"of the future": 1}, "tokenizer": {"kind": "of the future"}}
    archive(tmp_path / "new.pt", pickled({"kind": KIND, "format": FORMAT + 1, "parts": [1, 2], "meta": new}))
    save(tmp_path / "step-000003", *trained(), meta=meta_of(model))
    step = tmp_path / "step-000004"
    shutil.copytree(tmp_path / "step-000003", step)
    manifest = json.loads((step / "MANIFEST.json").read_text())
    (step / "MANIFEST.json").write_text(json.dumps({"format": FORMAT + 1, "sums": manifest["files"]}))
    message = f"was written by a newer light-llm, in format {FORMAT + 1}"
    for path in (tmp_path / "new.pt", step):
        with pytest.raises(CheckpointError, match=f"{path.name} {message}"):
            read_model(path)
    commit_folder(tmp_path / "step-000005", {"model.json": lambda f: f.write(b'{"format": 7}')}, Files())
    with pytest.raises(CheckpointError, match="step-000005 was written by a newer light-llm, in format 7"):
        read_model(tmp_path / "step-000005")


# ---- files that travel with a model


def test_only_files_of_the_manifest_travel(tmp_path: Path) -> None:
    """What someone put into a step folder is not a part of it; what is missing is named."""
    step = tmp_path / "step-000003"
    save(step, *trained())
    (step / "vocab.json").write_text("{}")
    assert read_step_files(step) == read_model(step).files == FILES
    (step / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        read_step_files(step)
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        read_model(step)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / "best_model.pt"
    for files in ({"../tokenizer.json": b"{}"}, {"model.json": b"{}"}, {"merges.txt": bytes(MAX_FILE + 1)}):
        with pytest.raises(ValueError, match="not a file that travels with a model"):
            write_model_file(path, model.state_dict(), meta_of(model), Files(), files)
    assert not path.exists()


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("merges.txt", "config.json", "README.md", "chat_template.jinja"):
        (tmp_path / name).write_text(name)
    assert read_carried_files(tmp_path) == {name: name.encode() for name in ("merges.txt", "chat_template.jinja")}
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read: it is longer than 67,108,864 bytes"):
        read_carried_files(tmp_path)


def test_a_tokenizer_may_be_larger_than_other_json(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for data in (b'["' + b"a" * (20 << 20) + b'"]', b'{"merges": [' + b'["a", "b"],' * 300_000 + b"[]]}"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"longer than 16,777,216 bytes|more than 262,144 brackets"):
            load_json(path, ORDINARY)
        assert load_json(path, TOKENIZER)
    with pytest.raises(ValueError, match="more than 2,000,000 brackets"):
        parse_json(b"[" * 2_000_001, TOKENIZER)
