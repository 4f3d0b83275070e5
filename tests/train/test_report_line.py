"""The report at the end of a run is written, and never makes the run fail."""

import errno
from pathlib import Path
from typing import Any

import pytest

from light_llm.atomic_io import WriteFn
from light_llm.checkpoint import Files
from light_llm.train import messages
from tests.support.tools import files_of, train_small


def test_a_run_leaves_its_report(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_small(poem, max_steps=4, report=True, quiet=False)
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "report   run/report.html" in capsys.readouterr().out
    assert page.startswith("<!doctype html>") and '"name":"run"' in page and "Plotly" in page


def test_an_interrupted_run_has_one_too(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "2")
    _, result = train_small(poem, max_steps=4, report=True)
    assert result.status == "interrupted" and '"status":"interrupted"' in Path("run/report.html").read_text()


class NoRoomForPages(Files):
    def write(self, path: Path, write_fn: WriteFn) -> str:
        if "report.html" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(path, write_fn)


def test_a_report_that_cannot_be_written_costs_the_run_nothing(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_small(poem, "whole", max_steps=4)
    _, result = train_small(poem, max_steps=4, report=True, quiet=False, files=NoRoomForPages())
    assert result.status == "done" and not Path("run/report.html").exists()
    assert files_of(Path("run/step-000004")) == files_of(Path("whole/step-000004"))
    said = capsys.readouterr().out
    assert "(No space left on device)" in said and "light-llm report run" in said


def test_neither_does_a_bug_in_a_picture(
    poem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Path:
        raise ZeroDivisionError("a picture of nothing")

    monkeypatch.setattr(messages, "write_report", broken)
    _, result = train_small(poem, max_steps=4, report=True, quiet=False)
    assert result.status == "done"
    assert "(ZeroDivisionError: a picture of nothing)" in capsys.readouterr().out
