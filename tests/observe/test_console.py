"""The console: the spelling of options, and how long lines are broken."""

import io
from pathlib import Path
from typing import Any

import pytest

from light_llm.errors import as_flags, as_keywords
from light_llm.observe import Console, TimeLeft


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


# ---- the time that is left, and the phases between and after steps


def step_row(step: int, seconds: float = 1.0) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": step,
        "loss": 5.0,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tok_per_sec": 10,
        "seconds": seconds,
    }


def test_the_time_left_includes_what_follows_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of 1 s; evaluations after 4, 8 and 10: predicted to take 2 s each, measured as 5 s."""
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    time_left = TimeLeft(10, {"evaluating": 4, "sampling": 0}, {"evaluating": 6.0})
    console = Console(total=10, quiet=True, time_left=time_left)

    def step(number: int) -> float:
        clock[0] += 1.0
        console(step_row(number))
        return time_left.seconds()

    assert [step(1), step(2), step(3), step(4)] == [9 + 6, 8 + 6, 7 + 6, 6 + 6]
    with console.working("evaluating"):
        assert time_left.seconds() == 6 + 4  # its own time is in the progress line
        clock[0] += 5.0
    assert time_left.seconds() == 6 + 10
    assert [step(5), step(6), step(7), step(8), step(9), step(10)] == [15, 14, 13, 12, 6, 5]
    with console.working("evaluating"):
        assert time_left.seconds() == 0


@pytest.mark.usefixtures("narrow")
def test_after_the_last_step_the_screen_shows_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, completed, line: drawn.append(line))
    console = Console(total=9, file=Screen())
    console(step_row(9))
    with console.working("evaluating") as show:
        show(12, 40)
    with console.working("saving"):
        pass
    console.close()
    assert drawn[0].startswith("9/9 loss 5.000 10 tok/s") and all(len(line) <= 60 - 13 for line in drawn)
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in drawn[1:]] == [
        "9/9 evaluating",
        "9/9 evaluating 12/40",
        "9/9 saving",
    ]


def test_a_notebook_shows_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("light_llm.observe.console.NOTEBOOK_SECONDS", 0.0)
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    console = Console(total=30, file=notebook)
    for step in range(1, 31):
        console(step_row(step))
    console.say("done")
    console.close()
    lines = notebook.getvalue().split("\n")
    assert len(lines) == 2 and lines[0].endswith("done") and lines[1] == ""
    assert lines[0].count("\r") == 32 and "\r30/30 loss 5.000" in lines[0]
