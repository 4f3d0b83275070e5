"""A file of another kind that was given as a model: the error says what it is, and what to do."""

from pathlib import Path

import pytest
import torch

from light_llm.atomic_io import Files
from light_llm.checkpoint import load_model, read_model
from light_llm.checkpoint.model_file import write_model_file
from light_llm.cli import main
from light_llm.errors import CheckpointError
from light_llm.generate import TextGenerator
from tests.support.tools import model_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["run/metrics.jsonl", "run/run.json"],
            r"metrics.jsonl is a file of a run; name the folder of the run: \S+/run$",
        ),
        (["run/step-000001/model.json"], r"name the folder of the run: \S+/run$"),
        (["hf/model.safetensors", "hf/config.json"], r"import the folder first: light-llm import \S+/hf$"),
        (["model.safetensors"], r"has the weights of a model but not its sizes; put it into a folder with its config"),
        (["run/step-000001/model.safetensors", "run/step-000001/model.json"], r"name the folder: \S+/step-000001$"),
        (["model.gguf"], "model.gguf is a GGUF file, for llama.cpp; use the model that it was exported from"),
        (["model.onnx"], "model.onnx is an ONNX graph"),
        (["a.txt"], "a.txt is not a model but a .txt file; name a run folder or a .pt file"),
        (["data.jsonl"], "data.jsonl is not a model but a .jsonl file"),
        (["cut.pt"], "cut.pt is damaged or truncated, or not a model file"),
    ],
)
def test_a_file_of_another_kind_is_named(files: list[str], message: str) -> None:
    for name in files:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes((b"GGUF" if name.endswith("gguf") else b"[1, ") + b"\0" * 100)
    with pytest.raises(CheckpointError, match=message):
        load_model(files[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json", "model.safetensors"], "is a Hugging Face folder; import it first: light-llm import f$"),
        (["config.json", "pytorch_model.bin"], "light-llm import f$"),
        (["model.onnx", "README.md"], "it is an ONNX export"),
        (["b/run.json", "a/best_model.pt", "c/notes.txt"], "it has the runs f/a, f/b; name one of them"),
        (["run.json", "metrics.jsonl"], "its run has no checkpoint yet; .*resume=True"),
        (["notes.txt"], "there is no model in the folder f: train one with: light-llm train"),
    ],
)
def test_a_folder_without_a_model_is_named(files: list[str], message: str) -> None:
    for name in files:
        Path("f", name).parent.mkdir(parents=True, exist_ok=True)
        Path("f", name).touch()
    with pytest.raises(CheckpointError, match=message):
        load_model("f")


def test_a_checkpoint_of_nanogpt_is_to_be_imported_first() -> None:
    torch.save({"model": {}, "model_args": {}, "iter_num": 0}, "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"nanoGPT's; import it first: light-llm import ckpt\.pt"):
        load_model("ckpt.pt")


@pytest.mark.parametrize("imported", [True, False])
def test_a_model_without_a_tokenizer_says_so(
    imported: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An import with --tokenizer none, and a run from a loader of one's own; whatever text is named."""
    file = read_model(model_path(tmp_path))
    origin = {"imported": {"name": "some-model"}} if imported else {}
    write_model_file(file.path, file.weights, file.meta | {"tokenizer": None} | origin, Files())
    why = (
        "import some-model again, with --tokenizer"
        if imported
        else "loader of your own; give the Trainer its tokenizer"
    )
    Path("a.txt").write_text("a text")
    for words in (["eval", str(file.path), "--data", "a.txt"], ["generate", "text", "--checkpoint", str(file.path)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "best_model.pt has no tokenizer: " in error and why in error
    with pytest.raises(CheckpointError, match=r"has no tokenizer: .*TextGenerator\(path, tokenizer=tokenizer\)"):
        TextGenerator(file.path)
