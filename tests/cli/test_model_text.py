"""Which text `eval` reads: the one of the training, wherever it lies now, and no other."""

from pathlib import Path

import pytest

from light_llm.atomic_io import Files
from light_llm.checkpoint import write_model_file
from light_llm.checkpoint.model_file import model_meta
from light_llm.cli import main
from light_llm.data import prepare_dataset
from tests.support.tools import model_path, tiny_model


@pytest.fixture
def model() -> str:
    """A model of a.txt that held out b.txt; c.txt is another text."""
    for name in "abc":
        Path(f"{name}.txt").write_text(f"The words of {name}, which are its own. " * 40)
    dataset, tokenizer = prepare_dataset("a.txt", 16, "byte", val_data="b.txt")
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    meta = model_meta(model, dataset, step=1, dtype="float32", evaluation=None)
    write_model_file(Path("m.pt"), model.state_dict(), meta, Files())
    return "m.pt"


def test_the_held_out_text_can_be_named(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--data", "b.txt"], ["--data", "a.txt"]):
        assert main(["eval", model, *words]) == 0
        assert "text        b.txt: 1,399" in capsys.readouterr().out
    Path("b.txt").rename("moved.txt")
    assert main(["eval", model, "--data", "moved.txt"]) == 0
    assert "text        moved.txt: 1,399" in capsys.readouterr().out


def test_another_text_is_refused_with_what_can_be_done(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", model, "--data", "c.txt"]) == 2
    error = capsys.readouterr().err
    assert "c.txt is not the text that m.pt was trained on" in error and "leave out --data" in error
    assert "light-llm eval m.pt --text c.txt" in error


def test_a_text_that_is_elsewhere_is_to_be_named(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from another working folder."""
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["eval", f"../{model}"]) == 2
    error = capsys.readouterr().err
    assert "'a.txt'" in error and "if the text that ../m.pt was trained on was moved, use --data PATH" in error


def test_the_held_out_text_is_enough_with_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the training text, --data has nothing to split, and says what can be done."""
    Path("a.txt").unlink()
    assert main(["eval", model, "--data", "b.txt"]) == 2
    assert "light-llm eval m.pt --text b.txt" in capsys.readouterr().err
    assert main(["eval", model, "--text", "b.txt"]) == 0
    assert "1,399 tokens" in capsys.readouterr().out


def test_a_model_without_a_record_of_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(model_path(tmp_path))
    assert main(["eval", path]) == 2
    assert f"light-llm eval {path} --text FILE" in capsys.readouterr().err
    Path("a.txt").write_text("A text for it. " * 30)
    for flag in ("--data", "--text"):
        assert main(["eval", path, flag, "a.txt"]) == 0
        assert "a.txt" in capsys.readouterr().out
