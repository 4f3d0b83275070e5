"""The terminal of `generate interactive`: streams, edited lines, the history, keys and pipes.

The last test runs a real process in a terminal of its own.
"""

import builtins
import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from light_llm.cli import main
from light_llm.generate import TextGenerator
from light_llm.generate.repl import COMPLETIONS
from light_llm.generate.terminal import (
    HISTORY_LINES,
    Terminal,
    add_to_history,
    completions,
    detect_terminal,
    edit_lines,
    interruptible_wait,
    line_reader,
    read_history,
)
from tests.generate.test_console import generated


class FakeTty(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_abilities_of_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pipe, tty = io.StringIO(), FakeTty()
    assert detect_terminal(pipe, pipe, pipe) == Terminal(pipe, pipe)
    assert detect_terminal(tty, tty, pipe) == Terminal(tty, pipe, interactive=True, live=True, styled=True)
    assert detect_terminal(pipe, tty, pipe) == Terminal(tty, pipe, interactive=False, live=True, styled=True)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not detect_terminal(tty, tty, pipe).styled


@pytest.mark.parametrize(
    ("styled", "expected"), [(True, "\x1b[1mabc\x1b[0m\x1b[2mnote\x1b[0m\n"), (False, "abcnote\n")]
)
def test_styles_are_for_terminals_that_know_them(styled: bool, expected: str) -> None:
    out = io.StringIO()
    screen = Terminal(out, io.StringIO(), interactive=True, live=True, styled=styled)
    screen.text("abc", "1")
    screen.text("", "1")
    screen.note("note")
    assert out.getvalue() == expected


def test_a_model_cannot_command_the_terminal() -> None:
    """An escape sequence in a text is shown; a file gets the text as it is."""
    text = "a\x1b[2J\x07\tb\r\n\x7f\x9b"
    for live, expected in ((True, "a␛[2J␇\tb\n␡\ufffd"), (False, text)):
        out = io.StringIO()
        Terminal(out, io.StringIO(), live=live).text(text)
        assert out.getvalue() == expected


# ---- where lines come from


def test_piped_lines_lose_their_end_and_nothing_else() -> None:
    read = line_reader(io.StringIO(" a \n\nb"), Terminal(io.StringIO(), io.StringIO()), [])
    assert [read(), read(), read()] == [" a ", "", "b"]
    with pytest.raises(EOFError):
        read()


def test_a_prompt_stays_out_of_a_file() -> None:
    out, err = io.StringIO(), io.StringIO()
    read = line_reader(FakeTty("a\n"), Terminal(out, err, interactive=True), [])
    assert (read(), out.getvalue(), err.getvalue()) == ("a", "", "> ")


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "interactive-history.txt"


def test_typed_lines_are_remembered(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = iter(["one", "one", "", "two\nlines", "Où?"])
    monkeypatch.setattr(builtins, "input", lambda prompt: asked.append(prompt) or next(answers))
    read = line_reader(FakeTty(), Terminal(FakeTty(), io.StringIO(), interactive=True, live=True), COMPLETIONS)
    assert [read() for _ in range(5)] == ["one", "one", "", "two\nlines", "Où?"] and asked == ["> "] * 5
    assert read_history() == ["one", "Où?"]  # neither twice in a row, nor what a file of lines cannot hold
    assert own_cache.read_text(encoding="utf-8") == "one\nOù?\n"
    assert sys.platform == "win32" or own_cache.stat().st_mode & 0o077 == 0  # nobody else reads it


def test_the_history_keeps_its_last_thousand_lines(own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("".join(f"line {i}\n" for i in range(5_000)))
    add_to_history("the last")
    lines = own_cache.read_text().splitlines()
    assert len(lines) == HISTORY_LINES == 1_000 and lines[-2:] == ["line 4999", "the last"] and lines == read_history()
    assert [path.name for path in own_cache.parent.iterdir()] == [own_cache.name]


def test_a_history_that_cannot_be_written_is_silent(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own_cache.parent.write_text("a file where the folder should be")
    add_to_history("abc")
    assert read_history() == []
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(own_cache.parent.parent / "damaged"))
    damaged = own_cache.parent.parent / "damaged" / own_cache.name
    damaged.parent.mkdir()
    damaged.write_bytes(b"caf\xe9\n")
    assert read_history() == ["caf\ufffd"]
    assert capfd.readouterr() == ("", "")


def test_tab_completes_commands_only() -> None:
    assert completions("/te", COMPLETIONS) == ["/temperature "]
    assert completions("/s", COMPLETIONS) == ["/sample ", "/stop ", "/seed ", "/settings"]
    assert completions("te", COMPLETIONS) == completions("", COMPLETIONS) == []


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: Windows has no readline")
def test_readline_gets_the_history_and_the_commands(own_cache: Path) -> None:
    import readline

    add_to_history("typed yesterday")
    edit_lines(COMPLETIONS)
    assert readline.get_history_item(readline.get_current_history_length()) == "typed yesterday"
    complete = readline.get_completer()
    assert complete and [complete("/top", n) for n in range(3)] == ["/top-k ", "/top-p ", None]
    readline.clear_history()
    readline.set_completer(None)


def test_a_python_without_readline_reads_lines_all_the_same(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr(builtins, "input", lambda prompt: "abc")
    assert line_reader(FakeTty(), Terminal(FakeTty(), io.StringIO(), interactive=True, live=True), [])() == "abc"


# ---- the command line


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_flags_are_start_values(
    writer: TextGenerator, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, "é\n".encode())
    words = "--temperature 0.9 --top-k 5 --top-p 0.8 --min-p 0.01 --repetition-penalty 1.3 --max-new-tokens 9 --stop j "
    words += f"--seed 3 --device cpu --prompt abc --checkpoint {model}"
    assert main(["generate", "interactive", *words.split()]) == 0
    knobs = {"temperature": 0.9, "top_k": 5, "top_p": 0.8, "min_p": 0.01, "repetition_penalty": 1.3, "stop": "j"}
    texts = [generated(writer, prompt, 9, seed=3 + i, **knobs) + "\n" for i, prompt in enumerate(["abc", "é"])]
    assert capsys.readouterr() == ("".join(texts), "")


def test_bytes_that_are_no_text_do_not_end_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, b"caf\xe9\nabc")
    assert main(["generate", "interactive", "--checkpoint", str(model), "--max-new-tokens", "3"]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("abc") and shown.err.startswith("error: character '\ufffd' (U+FFFD) is not in the")


# Without a console there is no input at all; in a terminal the header stays out of a file of answers.
@pytest.mark.parametrize(("source", "err"), [(None, ""), (FakeTty("/quit\n"), "model       .*commands.\n> ")])
def test_nothing_but_answers_is_output(
    source: FakeTty | None, err: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", source)
    assert main(["generate", "interactive", "--checkpoint", str(model)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and re.fullmatch(err, shown.err, re.DOTALL)


def test_a_pipe_gets_answers_and_nothing_else(
    writer: TextGenerator, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, b"abc\n/temperature 0\nde\n/temprature 1\n\n")
    words = f"--checkpoint {model} --seed 7 --top-k 0 --max-new-tokens 12 --device cpu --temperature 1"
    assert main(["generate", "interactive", *words.split()]) == 2
    shown, greedy = capsys.readouterr(), generated(writer, "de", 24, temperature=0.0)
    assert shown.out == f"{generated(writer, 'abc')}\n{greedy[:14]}\n{greedy[14:]}\n"
    assert shown.err.startswith("error: there is no command /temprature; did you mean") and shown.err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: Windows delivers signals in another way")
def test_ctrl_c_ends_a_wait_that_its_signal_did_not_interrupt() -> None:
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGWINCH)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGWINCH, lambda number, frame: None)  # as the line editor does
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), interruptible_wait():
            threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
            time.sleep(200)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert time.monotonic() - start < 190 and signal.set_wakeup_fd(-1) == -1


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: Windows has no pseudo-terminals")
def test_a_session_at_a_terminal(writer: TextGenerator, model: Path, own_cache: Path) -> None:
    """Keys go in, a screen comes out: a prompt, arrow up, Tab, Ctrl-C in an answer and at the prompt, Ctrl-D."""
    import fcntl
    import pty
    import termios

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that the terminal turns Ctrl-C into a signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell may have told its background jobs to ignore

    screen, terminal = pty.openpty()
    words = ["--checkpoint", str(model), "--seed", "7", "--max-new-tokens", "12", "--temperature", "1", "--top-k", "0"]
    child = subprocess.Popen(
        [sys.executable, "-m", "light_llm", "generate", "interactive", *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=own_terminal,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"},
    )
    os.close(terminal)
    seen = b""

    def wait_for(text: str) -> str:
        """What the screen shows up to this text, counted from where the last wait ended."""
        nonlocal seen
        deadline = time.monotonic() + 60
        while text.encode() not in seen:
            assert time.monotonic() < deadline and select.select([screen], [], [], 60)[0], seen
            seen += os.read(screen, 65_536)
        shown, _, seen = seen.partition(text.encode())
        return (shown + text.encode()).decode().replace("\r\n", "\n")

    def answer(seed: int) -> str:
        return "\x1b[1mabc\x1b[0m" + generated(writer, "abc", seed=seed).removeprefix("abc")

    try:
        assert "context 16 tokens" in wait_for("> ")
        os.write(screen, b"abc\r")
        assert answer(7) in wait_for("seed 7\x1b[0m") and wait_for("> ")
        os.write(screen, b"\x1b[A\r")
        assert answer(8) in wait_for("seed 8\x1b[0m") and wait_for("> ")
        os.write(screen, b"/max\t1000000\r")
        assert wait_for("max-new-tokens      1000000") and wait_for("> ")
        os.write(screen, b"abc\r")
        assert wait_for(answer(9)[:16])
        os.write(screen, b"\x03")
        assert len(wait_for("seed 9, stopped")) < 1_000_000 and wait_for("> ")
        os.write(screen, b"half a line")
        assert wait_for("half a line")
        os.write(screen, b"\x03")
        assert wait_for("> ")
        os.write(screen, b"\x04")
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.wait()
        os.close(screen)
    assert own_cache.read_text() == "abc\n/max-new-tokens 1000000\nabc\n"
