"""The console: the spelling of options, and how long lines are broken."""

import io
from pathlib import Path
from typing import Any

import pytest

from light_llm.errors import as_flags, as_keywords
from light_llm.observe import Console


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def said(*lines: str, out: io.StringIO | None = None, **options: Any) -> list[str]:
    out = out or io.StringIO()
    console = Console(total=9, file=out, **options)
    for line in lines:
        console.say(line)
    console.close()
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("spell", "option"), [(as_flags, "--max-steps 9"), (as_keywords, "max_steps=9")])
def test_options_are_spelled_as_the_reader_types_them(spell: Any, option: str, tmp_path: Path) -> None:
    assert said("note     longer: {--max-steps 9}", spell=spell, log=tmp_path / "log") == [f"note     longer: {option}"]
    assert (tmp_path / "log").read_text() == f"note     longer: {option}\n"
    out = io.StringIO()
    Console(total=9, file=out, spell=spell)({"kind": "sample", "step": 1, "text": "{--out}"})
    assert "  | {--out}\n" in out.getvalue()  # what a model writes stays as it is


@pytest.mark.usefixtures("narrow")
def test_long_lines_are_broken_below_their_text_on_a_terminal_only(tmp_path: Path) -> None:
    line = "note     the run reads the text 5 times, so it may start to memorise-it; --patience 2 stops it when it does"
    shown = said(line, out=Screen(), log=tmp_path / "log")
    assert shown == [
        "note     the run reads the text 5 times, so it may start to",
        "         memorise-it; --patience 2 stops it when it does",
    ]
    assert said(line) == [line] and (tmp_path / "log").read_text() == line + "\n"


@pytest.mark.usefixtures("narrow")
def test_a_command_to_copy_is_not_broken() -> None:
    command = "light-llm train --preset nano --data my.txt --set model.n_positions=64 --dropout 0.1"
    assert said(f"next     {command}", out=Screen()) == [f"next     {command}"]
    shown = said(f"notice   no report; try again with: {command}", out=Screen())
    assert shown == ["notice   no report; try again with:", f"         {command}"]
