"""`eval --text`: files, folders and standard input, the table, the JSON file, and flags that do not fit."""

import io
import json
import sys
from pathlib import Path

import pytest

from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.evaluate import evaluate_text, use_bfloat16_weights
from tests.support.tools import model_path

TEXT = "A fox went up the hill to see what it could see.\n" * 5


@pytest.fixture
def model(tmp_path: Path) -> str:
    Path("a.txt").write_text(TEXT)
    Path("b.jsonl").write_text('{"body": "what the owl saw"}\n{"body": "an old mill"}\n')
    Path("books").mkdir()
    for name in ("one", "two"):
        Path("books", f"{name}.txt").write_text(f"The book {name}. {TEXT}")
    return str(model_path(tmp_path))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["eval", *words]) == 0
    return capsys.readouterr().out


def test_one_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = evaluate_text(load_model(model), "a.txt")
    out = run(capsys, model, "--text", "a.txt")
    for line in (
        f"text        a.txt: {len(TEXT)} tokens",
        f"counted     {len(TEXT) - 1} tokens",
        f"loss        {expected.loss:.4f} ± {expected.stderr:.4f}",
        f"bits/byte   {expected.bits_per_byte:.4f} ±",
        "context     16 tokens, 16 windows side by side; float32 on cpu",
    ):
        assert line in out


def test_several_texts_with_a_stride_into_a_file(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a.txt", "books", "b.jsonl"]
    words = ["--context", "32", "--stride", "8", "--text-field", "body", "--dtype", "bfloat16", "--output", "o.json"]
    out = run(capsys, "--checkpoint", model, "--text", *texts, *words)
    loaded = load_model(model)
    use_bfloat16_weights(loaded.model)
    expected = evaluate_text(loaded, *texts, context=32, stride=8, text_field="body", dtype="bfloat16")
    assert "stride 8" in out and "at least 24 before it" in out and "4 texts together" in out and "bfloat16" in out
    report = json.loads(Path("o.json").read_text())
    names = ["a.txt", str(Path("books/one.txt")), str(Path("books/two.txt")), "b.jsonl"]
    assert [text["name"] for text in report["texts"]] == names
    for values, evaluation in zip((report["together"], *report["texts"]), (expected, *expected.texts), strict=True):
        for name in ("loss", "stderr", "perplexity", "bits_per_byte", "bits_per_byte_stderr", "tokens", "bytes"):
            assert values[name] == getattr(evaluation, name)
        assert f"{evaluation.loss:.4f}" in out
    assert (report["context"], report["stride"], report["dtype"]) == (32, 8, "bfloat16")


def test_standard_input_and_repeated_flags(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    out = run(capsys, model, "--text", "-", "--text", "a.txt")
    rows = [line.split() for line in out.splitlines() if line.startswith(("standard input ", "a.txt "))]
    assert rows[0][2:] == rows[1][1:]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["eval", model, "--text", "-"]) == 2 and "empty" in capsys.readouterr().err


def test_notes_on_what_was_read_name_the_flags_of_the_command(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tales").write_text("a tale")
    Path("books/stories.txt").write_text("A fox.\n<|endoftext|>\n" * 9)
    out = run(capsys, model, "--text", "./tales", "books")
    notes = [line for line in out.splitlines() if line.startswith("note ")]
    assert any("3 files" in note for note in notes) and any("--separator" in note for note in notes), out
    assert not any("{" in note or "--data" in note for note in notes)


def test_the_text_of_the_training_is_noted(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder, text = str(trained / "run"), str(trained / "text.txt")
    assert f"{text} is the text that the model was trained on" in run(capsys, run_folder, "--text", text)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--text", "no.txt"], ["no.txt"]),
        (["--text"], ["--text"]),
        (["--text", "a.txt", "--tasks", "x"], ["--tasks and --text"]),
        (["--text", "a.txt", "--data", "a.txt"], ["--data", "--text"]),
        (["--text", "a.txt", "--limit", "3"], ["--limit", "--tasks"]),
        (["--stride", "3"], ["--stride", "--text"]),
        (["--output", "o.json"], ["--output", "--tasks and --text"]),
        (["--text", "a.txt", "--context", "33"], ["--context 33", "32"]),
        (["--text", "a.txt", "--stride", "17"], ["--stride 17", "--context 16"]),
        (["--text", "a.txt", "--dtype", "float16"], ["dtype", "float16", "bfloat16"]),
        (["--text", "a.txt", "--output", "a.txt"], ["a.txt already exists"]),
        (["--text", "b.jsonl"], ["text", "body"]),
        (["--text", "https://example.org/x.txt"], ["--text x.txt"]),
    ],
)
def test_mistakes(model: str, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", model, *words]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert Path("a.txt").read_text() == TEXT and not Path("o.json").exists()
