"""Help at 80 columns: no line is longer, and no word is broken."""

import re

import pytest

from light_llm.cli import main
from light_llm.cli.main import COMMANDS


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    assert words_of(text) == words_of(shown(capsys, command, "--help"))


def words_of(text: str) -> list[str]:
    """The words of a help page, without its frames."""
    return sorted(re.sub("[╭╮╰╯│─]", " ", text).split())


def test_the_list_of_commands_fits_too(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 80 and all(f"  {command} " in text for command in COMMANDS)
