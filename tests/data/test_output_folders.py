"""What light-llm writes into the folder of a text is no part of the text."""

import shutil
from pathlib import Path

import pytest

from light_llm.atomic_io import atomic_write
from light_llm.checkpoint import load_model
from light_llm.checkpoint.run_folder import PREVIOUS, contains_run
from light_llm.cli import main
from light_llm.data.output_folders import is_model_card
from light_llm.data.sources import find_source
from light_llm.errors import DataError
from light_llm.interop.gguf import GGUFExporter
from light_llm.interop.huggingface import HuggingFaceExporter
from light_llm.interop.model_card import write_card
from tests.support.tools import NANO_RUN, cache_profile

TEXT = "".join(f"{i}\n" for i in range(3000))
TRAIN = ["train", "--data", ".", *NANO_RUN, "--skip-doctor", "--quiet"]


def notes_of(path: str = ".") -> list[str]:
    notes: list[str] = []
    find_source(path, log=notes.append)
    return notes


@pytest.fixture
def text_hash() -> str:
    """The hash of a folder that has one text file so far."""
    Path("a.txt").write_text(TEXT)
    return find_source(".").sha256


def test_runs_exports_and_the_cache_inside_the_folder_of_the_text(
    text_hash: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train, resume, evaluate, export and train again: the text stays the same."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", "cache")
    cache_profile()
    assert main([*TRAIN, "--max-steps", "2"]) == 0
    assert main(["train", "--resume", "--max-steps", "4", "--skip-doctor", "--quiet"]) == 0
    assert main(["eval"]) == 0
    assert main([*TRAIN, "--max-steps", "1"]) == 0  # moves the first run to checkpoints.1
    shutil.copytree("checkpoints", "runs/a")
    shutil.copytree("checkpoints", ".", dirs_exist_ok=True)  # as --out . would
    loaded = load_model("checkpoints")
    for exporter, folder in ((HuggingFaceExporter(), Path("model-hf")), (GGUFExporter(), Path("gguf"))):
        folder.mkdir()
        exporter.write(loaded, folder if exporter.is_folder else folder / "model.gguf", dtype=exporter.dtypes[0])
        write_card(loaded, folder, "not compared")
    Path("cache/stdin").mkdir()
    Path("cache/stdin/piped.txt").write_text("from a pipe")
    assert main(["prepare", "--data", ".", "--tokenizer", "byte"]) == 0
    out = capsys.readouterr().out
    assert find_source(".").sha256 == text_hash
    assert (
        "note     the folder . has 1 file of text, 1 document; skipped: cache (the cache), checkpoints (a run), "
        "checkpoints.1 (a run), gguf (an export), 3 more\n" in out
    )


@pytest.mark.parametrize(
    ("files", "skipped"),
    [
        (["run/run.json", "run/metrics.jsonl"], "run (a run)"),
        (["run/best_model.pt", "run/notes.txt"], "run (a run)"),
        (["deep/run/step-000010/model.json", "deep/run/metrics.jsonl"], "deep/run (a run)"),
        ([f"run/{PREVIOUS}/metrics.jsonl", "run/metrics.jsonl"], "run (a run)"),
        (["hf/config.json", "hf/model-00001-of-00002.safetensors", "hf/README.md"], "hf (a model)"),
        (["onnx/model.onnx", "onnx/README.md"], "onnx (an export)"),
        (["run/wandb/latest-run/files/log.txt", "run/x.txt"], "run/wandb (of Weights & Biases)"),
        (["old/scans/a.json", "old/shards/b/train.bin", "old/stdin/c.txt"], "old (the cache)"),
    ],
)
def test_each_kind_is_recognized_and_named(text_hash: str, files: list[str], skipped: str) -> None:
    for name in files:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("not of the text")
    own = [name for name in files if name == "run/x.txt"]
    assert notes_of()[0].endswith(f"; skipped: {skipped}") and len(notes_of()) == 1
    assert (find_source(".").sha256 == text_hash) == (not own)
    run = Path("deep/run" if files[0].startswith("deep") else "run")
    assert contains_run(run) == ("a run" in skipped)


def test_a_model_card_is_skipped_wherever_it_lies_and_a_readme_is_not(text_hash: str) -> None:
    card = f"---\nlicense: unknown\n---\n\nwith light-llm\n\n| `model.onnx` | `{'0' * 64}` |\n"
    Path("README.md").write_text(card)
    assert is_model_card(Path("README.md")) and find_source(".").sha256 == text_hash
    Path("README.md").write_text(card.replace("0" * 64, "a table of one's own"))
    assert find_source(".").documents == 2
    Path("books").mkdir()
    atomic_write(Path("books/config.json"), b"{}")  # alone it says nothing
    Path("books/b.txt").write_text("a book")
    assert find_source(".").documents == 3


def test_a_folder_that_is_read_by_its_own_name_is_read(text_hash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what lies below the folder of the text is skipped."""
    for folder in ("wandb", "run/step-000001"):
        Path(folder).mkdir(parents=True)
    Path("wandb/b.txt").write_text("a manual of W&B")
    Path("run/samples.txt").write_text("what the model generated")
    assert [notes_of(name) for name in ("wandb", "run")] == [
        [f"the folder {name} has 1 file of text, 1 document"] for name in ("wandb", "run")
    ]
    Path("run/samples.txt").unlink()
    Path("run/metrics.jsonl").write_text('{"step": 1}')
    with pytest.raises(DataError, match=r"the folder run has no text: .*skipped: metrics.jsonl"):
        find_source("run")
