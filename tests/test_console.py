"""The prompt of `generate interactive`: what each line does, in process; and once in a terminal, once in a pipe."""

import builtins
import contextlib
import io
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, TextStream
from light_llm.errors import ConfigError
from light_llm.generate import TextGenerator
from light_llm.generate.console import COMMANDS, HELP, TO_TYPE, Repl, Settings, tail
from light_llm.generate.terminal import (
    HISTORY_LINES,
    Screen,
    between_tokens,
    completions,
    ctrl_c_heard,
    edit_lines,
    line_reader,
    recall,
    remember,
    screen_of,
)

from .test_generate import model_path
from .tools import light_llm

ALPHABET = "abcdefghij \n.é/"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model over a few characters that sees 16 of them and never ends a text by itself."""
    return model_path(tmp_path_factory.mktemp("model"), CharTokenizer(ALPHABET))


@pytest.fixture(scope="module")
def writer(model: Path) -> TextGenerator:
    return TextGenerator(model, device="cpu")


@dataclass
class Session:
    """What came of some lines."""

    repl: Repl
    code: int
    out: str
    err: str


class Fragile(io.StringIO):
    """A stream that has had enough after so many writes, once."""

    def __init__(self, writes: int, end: type[BaseException]) -> None:
        super().__init__()
        self.left, self.end = writes, end

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left == 0:
            raise self.end
        return super().write(text)


def reader(*lines: str | type[BaseException]) -> Callable[[], str]:
    rest: Iterator[str | type[BaseException]] = iter(lines)

    def read() -> str:
        line = next(rest, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def say(
    writer: TextGenerator,
    *lines: str | type[BaseException],
    typed: bool = False,
    out: io.StringIO | None = None,
    first: str = "",
    **settings: Any,
) -> Session:
    """Lines through a loop, piped or (`typed`) as from a terminal without colours."""
    out, err = out or io.StringIO(), io.StringIO()
    repl = Repl(writer, Settings(**({"max_new_tokens": 12, "seed": 7} | settings)), Screen(out, err, typed, typed))
    code = repl.run(reader(*lines), first=first)
    return Session(repl, code, out.getvalue(), err.getvalue())


def generated(writer: TextGenerator, prompt: str, n: int = 12, **options: Any) -> str:
    return writer.generate(prompt, n, **({"temperature": 1.0, "top_k": 0, "seed": 7} | options))


# ---- texts


def test_an_answer_is_what_the_library_writes(writer: TextGenerator) -> None:
    """Answer number n of a session uses seed + n, whatever the knobs."""
    knobs = {"temperature": 1.3, "top_k": 9, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "stop": ("j",)}
    done = say(writer, "abc", "de", "abc", **knobs)
    assert done.out == "".join(
        generated(writer, prompt, seed=7 + i, **knobs) + "\n" for i, prompt in enumerate(["abc", "de", "abc"])
    )
    assert (done.code, done.err) == (0, "")
    assert done.out == say(writer, "abc", "de", "abc", **knobs).out


def test_without_a_seed_each_session_is_new(writer: TextGenerator) -> None:
    texts = {say(writer, "abc", seed=-1).out for _ in range(3)}
    assert len(texts) == 3 and all(text.startswith("abc") for text in texts)


def test_answers_do_not_know_each_other(writer: TextGenerator) -> None:
    assert say(writer, "de", "/seed 7", "abc").out.endswith(generated(writer, "abc") + "\n")


@pytest.mark.parametrize("step", [4, 12])
def test_an_empty_line_goes_on_as_if_it_had_been_written_in_one_go(writer: TextGenerator, step: int) -> None:
    """Far past the window of 16, where the last half is read again from fixed places."""
    done = say(writer, "abc", *[""] * (48 // step - 1), temperature=0.0, max_new_tokens=step)
    pieces = done.out.removesuffix("\n")
    whole = generated(writer, "abc", 48, temperature=0.0)
    at = [3 + step * i for i in range(48 // step + 1)]
    assert pieces == "\n".join([whole[: at[1]], *(whole[a:b] for a, b in zip(at[1:], at[2:], strict=False))])
    assert len(set(whole)) > 3 and len(done.repl.text) <= writer.context + step


def test_the_first_empty_line_starts_from_nothing(writer: TextGenerator) -> None:
    assert say(writer, "").out == generated(writer, "") + "\n"


def test_the_tail_is_what_a_model_would_still_see(tmp_path: Path) -> None:
    bytes_ = TextGenerator(model_path(tmp_path), device="cpu")  # sees 16, moves by 8
    assert tail(bytes_, "a" * 16) == "a" * 16
    assert tail(bytes_, "abcdefgh" + "i" * 9) == "i" * 9
    assert tail(bytes_, "abcdefgé" + "i" * 9) == "i" * 9  # the second half of é is nothing
    assert isinstance(bytes_.tokenizer, ByteTokenizer)
    for n in range(40):
        text = "aé日" * n
        assert text.endswith(tail(bytes_, text)) and len(tail(bytes_, text).encode()) <= 16


def test_two_slashes_are_a_text_with_one(writer: TextGenerator) -> None:
    assert say(writer, "//abc").out == generated(writer, "/abc") + "\n"
    assert say(writer, "///a").out.startswith("//a")


def test_a_first_prompt_is_answered_before_anything_is_read(writer: TextGenerator) -> None:
    assert (
        say(writer, "de", first="/abc").out == generated(writer, "/abc") + "\n" + generated(writer, "de", seed=8) + "\n"
    )


def test_a_line_that_cannot_be_used_is_said_and_the_next_one_answered(writer: TextGenerator) -> None:
    """It is no answer: no seed is used up, and the prompt before it stays the last one."""
    lines = ["abc", "a" * 17, "XYZ", "/again"]
    done = say(writer, *lines)
    assert done.out == generated(writer, "abc") + "\n" + generated(writer, "abc", seed=8) + "\n"
    assert done.err.splitlines() == [
        "error: the prompt has 17 tokens and this model can see 16; leave out at least 1",
        f"error: character 'X' (U+0058) is not in the alphabet of {len(ALPHABET)} characters this tokenizer was made "
        "from; leave it out, or train with --tokenizer gpt2 or byte",
    ]
    assert done.code == 2 and say(writer, *lines, typed=True).code == 0


# ---- commands


@pytest.mark.parametrize(
    ("line", "settings", "shown"),
    [
        ("/temperature 0.7", {"temperature": 0.7}, "temperature         0.7"),
        ("/top-k 3", {"top_k": 3}, "top-k               3"),
        ("/top-p 0.9", {"top_p": 0.9}, "top-p               0.9"),
        ("/min-p 0.05", {"min_p": 0.05}, "min-p               0.05"),
        ("/repetition-penalty 1.1 ", {"repetition_penalty": 1.1}, "repetition-penalty  1.1"),
        ("/max-new-tokens 30", {"max_new_tokens": 30}, "max-new-tokens      30"),
        ("/stop  b ", {"stop": ("b",)}, "stop                'b'"),
        ("/stop \\n\\n", {"stop": ("\n\n",)}, "stop                '\\n\\n'"),
        ("/stop \\new", {"stop": ("\\new",)}, "stop                '\\\\new'"),
        ("/seed 3", {"seed": 3}, "seed                3 (the next answer: 3)"),
        ("/seed -1", {"seed": -1}, "seed                -1 (a new one for each answer)"),
    ],
)
def test_a_setting_holds_from_the_next_answer_on(
    writer: TextGenerator, line: str, settings: dict[str, Any], shown: str
) -> None:
    done = say(writer, line)
    assert done.repl.settings == Settings(**{"max_new_tokens": 12, "seed": 7, **settings})
    assert (done.out, done.err, done.code) == ("", "", 0)
    assert say(writer, line, typed=True).out == shown + "\n\n"  # and a new line at the end of input
    if settings.get("seed") != -1:
        changed = {"n": settings.pop("max_new_tokens")} if "max_new_tokens" in settings else {}
        assert say(writer, line, "abc").out == generated(writer, "abc", **changed, **settings) + "\n"


def test_a_command_alone_shows_its_value_and_settings_shows_all(writer: TextGenerator) -> None:
    shown = [
        *("temperature         1.0", "top-k               0", "top-p               1.0", "min-p               0.0"),
        *("repetition-penalty  1.0", "max-new-tokens      12", "stop                'b'  'c'"),
        "seed                7 (the next answer: 8)",
    ]
    done = say(writer, "abc", "/settings", stop=("b", "c"))
    assert done.err.splitlines() == shown  # piped, standard output has nothing but answers
    assert done.out == generated(writer, "abc", stop=("b", "c")) + "\n"
    for line in shown:
        name = line.split()[0]
        if name != "stop":
            asked = say(writer, "abc", f"/{name}", stop=("b", "c"))
            assert asked.err.splitlines() == [line] and asked.repl.settings == done.repl.settings


def test_stops_add_up_and_are_cleared_by_none(writer: TextGenerator) -> None:
    assert say(writer, "/stop b", "/stop c", "/stop b").repl.settings.stop == ("b", "c")
    done = say(writer, "/stop b", "/stop", typed=True)
    assert done.repl.settings.stop == () and "stop                none\n" in done.out


def test_a_seed_starts_the_counting_again(writer: TextGenerator) -> None:
    one, two = (generated(writer, "abc", seed=seed) + "\n" for seed in (7, 8))
    assert say(writer, "abc", "abc", "/seed 7", "abc", "/temperature 1", "abc").out == one + two + one + two


def test_again_is_the_same_prompt_with_the_next_seed(writer: TextGenerator) -> None:
    assert say(writer, "abc", "/again").out == say(writer, "abc", "abc").out
    done = say(writer, "ab", "", "/again", max_new_tokens=5)
    first = generated(writer, "ab", 5)
    expected = [generated(writer, first, 5, seed=seed).removeprefix(first) for seed in (8, 9)]
    assert done.out == "\n".join([first, *expected]) + "\n" and expected[0] != expected[1]


def test_samples_are_numbered_answers(writer: TextGenerator) -> None:
    """The same as `generate text --num-samples`: row i is written with seed + i."""
    many = writer.generate_many(["abc"] * 3, max_new_tokens=12, seed=7)
    expected = "".join(f"--- sample {i + 1}\nabc{text}\n" for i, text in enumerate(many))
    assert say(writer, "/sample 3 abc").out == expected and len(set(many)) == 3
    again = say(writer, "abc", "/seed 7", "/sample 3").out
    assert again == generated(writer, "abc") + "\n" + expected


def test_help_lists_every_command_on_one_screen(writer: TextGenerator) -> None:
    shown = say(writer, "/help").err.splitlines()
    assert shown == list(HELP) and len(shown) <= 22 and max(map(len, shown)) <= 80
    assert [line.split()[0] for line in shown if line.startswith("  /")] == [c.name for c in COMMANDS]
    text = " ".join(shown)
    for fact in ("An empty line goes on where the last answer ended", "//usr is /usr", "N, N+1, N+2", "Ctrl-D"):
        assert fact in text
    promised = (
        "help temperature top-k top-p min-p repetition-penalty max-new-tokens stop seed sample settings again quit"
    )
    assert {c.name for c in COMMANDS} == {f"/{name}" for name in promised.split()}


def test_quit_leaves(writer: TextGenerator) -> None:
    done = say(writer, "abc", "/quit", "abc", typed=True)
    assert done.code == 0 and re.fullmatch(re.escape(generated(writer, "abc")) + "\n12 tokens, .*, seed 7\n", done.out)


WRONG = [
    (
        "/temprature 1",
        r"there is no command /temprature; did you mean /temperature\? /help lists them, and a text that",
    ),
    ("/", r"there is no command /\. /help lists them, and a text that begins with a slash is typed with two$"),
    ("/temperature hot", r"settings.temperature=hot has the wrong type; expected a number$"),
    ("/temperature -1", r"temperature=-1.0 cannot be used; it must be a number at least 0$"),
    ("/temperature nan", r"temperature=nan cannot be used"),
    ("/top-k 1.5", r"settings.top_k=1.5 has the wrong type; expected a whole number$"),
    ("/top-k -1", r"top_k=-1 cannot be used; it must be a whole number at least 0"),
    ("/top-p 0", r"top_p=0.0 cannot be used; it must be a number at most 1 and above 0"),
    ("/min-p 2", r"min_p=2.0 cannot be used"),
    ("/repetition-penalty 0", r"repetition_penalty=0.0 cannot be used"),
    ("/max-new-tokens 0", r"max_new_tokens=0 cannot be used; it must be a whole number at least 1"),
    ("/seed x", r"settings.seed=x has the wrong type; expected a whole number"),
    ("/seed 9223372036854775807", r"seed=9223372036854775807 cannot be used"),
    ("/sample", r"/sample needs to know how many, as in: /sample 3, or: /sample 3 TEXT$"),
    ("/sample abc", r"/sample needs to know how many"),
    ("/sample 0", r"sample=0 cannot be used; it must be a whole number at least 1"),
    ("/sample 3", r"there is no prompt yet; type a text first$"),
    ("/sample 2 XYZ", r"character 'X' \(U\+0058\) is not in the alphabet"),
    ("/again", r"there is no prompt yet; type a text first$"),
    ("/again abc", r"/again takes no value; leave 'abc' out$"),
    ("/quit now", r"/quit takes no value; leave 'now' out$"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_mistakes_change_nothing(writer: TextGenerator, line: str, message: str) -> None:
    done = say(writer, line, "abc")
    assert re.match("error: " + message, done.err.removesuffix("\n")), done.err
    assert done.err.count("\n") == 1 and done.code == 2
    assert done.out == generated(writer, "abc") + "\n"
    assert done.repl.settings == Settings(max_new_tokens=12, seed=7)


def test_settings_are_checked_where_they_are_made() -> None:
    with pytest.raises(ConfigError, match="stop='' cannot be used"):
        Settings(stop=("",))
    with pytest.raises(ConfigError, match="temperature=-1"):
        Settings(temperature=-1.0)


# ---- in a terminal


def test_an_answer_ends_with_a_line_about_itself(writer: TextGenerator) -> None:
    done = say(writer, "abc", "/sample 1", typed=True, max_new_tokens=1, seed=9)
    one, two = (generated(writer, "abc", 1, seed=seed) for seed in (9, 10))
    assert not (one + two).endswith("\n") and done.err == ""
    shape = rf"{one}\n1 token, [\d,]+ tokens/s, seed 9\n--- sample 1\n{two}\n1 token, [\d,]+ tokens/s, seed 10\n\n"
    assert re.fullmatch(shape, done.out)


def test_a_text_that_ends_its_line_gets_no_empty_one(writer: TextGenerator) -> None:
    """In a terminal; in a pipe every answer is ended by a line break of ours."""
    free = generated(writer, "abc", 60)
    to_break = free.index("\n") + 1 - 3
    assert f"{free[: to_break + 3]}{to_break} tokens" in say(writer, "abc", typed=True, max_new_tokens=to_break).out
    assert say(writer, "abc", max_new_tokens=to_break).out == free[: to_break + 3] + "\n"


def test_ctrl_c_stops_the_answer_and_not_the_session(writer: TextGenerator) -> None:
    """The prompt and five tokens are out when it comes; the next empty line goes on behind them."""
    done = say(writer, "abc", "", typed=True, out=Fragile(7, KeyboardInterrupt))
    shown = generated(writer, "abc")[: 3 + 5 + 1]
    lines = re.fullmatch(
        r"(.*)\n6 tokens, [\d,]+ tokens/s, seed 7, stopped\n(.*)\n12 tokens, .*, seed 8\n\n", done.out, re.DOTALL
    )
    assert lines and lines[1] == shown[:-1]  # the sixth was being written
    assert lines[2] == generated(writer, shown, seed=8).removeprefix(shown)
    assert done.code == 0 and done.err == ""


def test_ctrl_c_stops_all_samples(writer: TextGenerator) -> None:
    done = say(writer, "/sample 3 abc", "de", typed=True, out=Fragile(8, KeyboardInterrupt))
    assert done.out.count("---") == 1 and "stopped\nde" in done.out and done.code == 0


def test_a_real_ctrl_c_is_never_lost(writer: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the middle of a token, where a library might drop it; the answer stops after that token."""
    push = TextStream.push
    pushed = 0

    def press(stream: TextStream, token: int) -> str:
        nonlocal pushed
        pushed += 1
        if pushed == 3:
            with contextlib.suppress(KeyboardInterrupt):  # such a library
                signal.raise_signal(signal.SIGINT)
        return push(stream, token)

    monkeypatch.setattr(TextStream, "push", press)
    before = signal.getsignal(signal.SIGINT)
    done = say(writer, "abc", typed=True)
    assert re.search(r"\n3 tokens, .*, seed 7, stopped\n", done.out) and pushed == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), between_tokens():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    found: list[object] = []

    def elsewhere() -> None:
        with between_tokens() as stop_here:
            stop_here()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)  # there are no signals in other threads
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_ctrl_c_before_the_first_token_uses_no_seed(writer: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = writer.encode_prompt

    def interrupted(prompt: str) -> list[int]:
        if prompt == "abc":
            raise KeyboardInterrupt
        return encode(prompt)

    monkeypatch.setattr(writer, "encode_prompt", interrupted)
    done = say(writer, "abc", "de", typed=True)
    assert re.fullmatch(r"\n0 tokens, 0 tokens/s, seed 7, stopped\nde.*", done.out, re.DOTALL)
    assert generated(writer, "de") in done.out


def test_ctrl_c_at_the_prompt_is_a_new_line(writer: TextGenerator) -> None:
    done = say(writer, KeyboardInterrupt, KeyboardInterrupt, "/seed", typed=True)
    assert (done.out, done.code) == ("\n\nseed                7 (the next answer: 7)\n\n", 0)


def test_ctrl_c_leaves_when_nobody_sits_there(writer: TextGenerator) -> None:
    with pytest.raises(KeyboardInterrupt):
        say(writer, "abc", out=Fragile(5, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        say(writer, KeyboardInterrupt)


def test_a_reader_that_leaves_ends_it(writer: TextGenerator) -> None:
    """`| head`: the command line's own handler makes it quiet."""
    with pytest.raises(BrokenPipeError):
        say(writer, "abc", out=Fragile(5, BrokenPipeError))


def test_the_header_says_what_is_loaded(writer: TextGenerator, model: Path) -> None:
    lines = say(writer).repl.header()
    assert lines[0] == f"model       {model}, step 1"
    parameters = sum(p.numel() for p in writer.model.parameters())
    assert lines[1] == f"            {parameters:,} parameters, context 16 tokens, on cpu"
    assert lines[2] == "trained on  a text it does not name" and "/help lists the commands" in lines[3]
    named = TextGenerator(model, device="cpu")
    named.file.data["title"] = "a poem"
    assert say(named).repl.header()[2] == "trained on  a poem"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_what_streams_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pipe, terminal = io.StringIO(), Terminal()
    assert screen_of(pipe, pipe, pipe) == Screen(pipe, pipe)
    assert screen_of(terminal, terminal, pipe) == Screen(terminal, pipe, asks=True, live=True, styled=True)
    assert screen_of(pipe, terminal, pipe) == Screen(terminal, pipe, asks=False, live=True, styled=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not screen_of(terminal, terminal, pipe).styled
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not screen_of(terminal, terminal, pipe).styled


def test_styles_are_for_terminals_that_know_them() -> None:
    for styled, expected in ((True, "\x1b[1mabc\x1b[0m\x1b[2mnote\x1b[0m\n"), (False, "abcnote\n")):
        screen = Screen(io.StringIO(), io.StringIO(), asks=True, live=True, styled=styled)
        screen.text("abc", "1")
        screen.text("", "1")
        screen.remark("note")
        assert screen.out.getvalue() == expected  # type: ignore[attr-defined]


def test_a_model_cannot_command_the_terminal() -> None:
    """An escape sequence in a text is shown; a file gets the text as it is."""
    text = "a\x1b[2J\x07\tb\r\n\x7f\x9b"
    shown = {}
    for live in (True, False):
        screen = Screen(io.StringIO(), io.StringIO(), live=live)
        screen.text(text)
        shown[live] = screen.out.getvalue()  # type: ignore[attr-defined]
    assert shown == {True: "a␛[2J␇\tb\n␡\ufffd", False: text}


# ---- where lines come from


def test_piped_lines_lose_their_end_and_nothing_else() -> None:
    read = line_reader(io.StringIO(" a \n\nb"), Screen(io.StringIO(), io.StringIO()), [])
    assert [read(), read(), read()] == [" a ", "", "b"]
    with pytest.raises(EOFError):
        read()


def test_a_prompt_stays_out_of_a_file() -> None:
    out, err = io.StringIO(), io.StringIO()
    read = line_reader(Terminal("a\n"), Screen(out, err, asks=True), [])
    assert (read(), out.getvalue(), err.getvalue()) == ("a", "", "> ")


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "interactive-history.txt"


def test_typed_lines_are_remembered(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = iter(["one", "one", "", "two\nlines", "Où?"])
    monkeypatch.setattr(builtins, "input", lambda prompt: asked.append(prompt) or next(answers))
    read = line_reader(Terminal(), Screen(Terminal(), io.StringIO(), asks=True, live=True), TO_TYPE)
    assert [read() for _ in range(5)] == ["one", "one", "", "two\nlines", "Où?"] and asked == ["> "] * 5
    assert recall() == ["one", "Où?"]  # neither twice in a row, nor what a file of lines cannot hold
    assert own_cache.read_text(encoding="utf-8") == "one\nOù?\n"
    assert sys.platform == "win32" or own_cache.stat().st_mode & 0o077 == 0  # nobody else reads it


def test_the_history_keeps_its_last_thousand_lines(own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("".join(f"line {i}\n" for i in range(5_000)))
    remember("the last")
    lines = own_cache.read_text().splitlines()
    assert len(lines) == HISTORY_LINES == 1_000 and lines[-2:] == ["line 4999", "the last"] and lines == recall()
    assert [path.name for path in own_cache.parent.iterdir()] == [own_cache.name]


def test_a_history_that_cannot_be_kept_is_no_matter(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own_cache.parent.write_text("a file where the folder should be")
    remember("abc")
    assert recall() == []
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(own_cache.parent.parent / "damaged"))
    damaged = own_cache.parent.parent / "damaged" / own_cache.name
    damaged.parent.mkdir()
    damaged.write_bytes(b"caf\xe9\n")
    assert recall() == ["caf\ufffd"]
    assert capfd.readouterr() == ("", "")


def test_tab_completes_commands_only() -> None:
    assert completions("/te", TO_TYPE) == ["/temperature "]
    assert completions("/s", TO_TYPE) == ["/sample ", "/stop ", "/seed ", "/settings"]
    assert completions("te", TO_TYPE) == completions("", TO_TYPE) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no readline")
def test_readline_gets_the_history_and_the_commands(own_cache: Path) -> None:
    import readline

    remember("typed yesterday")
    edit_lines(TO_TYPE)
    assert readline.get_history_item(readline.get_current_history_length()) == "typed yesterday"
    complete = readline.get_completer()
    assert complete and [complete("/top", n) for n in range(3)] == ["/top-k ", "/top-p ", None]
    readline.clear_history()
    readline.set_completer(None)


def test_a_python_without_readline_reads_lines_all_the_same(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr(builtins, "input", lambda prompt: "abc")
    assert line_reader(Terminal(), Screen(Terminal(), io.StringIO(), asks=True, live=True), [])() == "abc"


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


def test_no_input_at_all(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As a program without a console starts one."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["generate", "interactive", "--checkpoint", str(model)]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_header_stays_out_of_a_file(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("/quit\n"))
    assert main(["generate", "interactive", "--checkpoint", str(model)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("model       ") and shown.err.endswith("commands.\n> ")


def test_a_pipe_gets_answers_and_nothing_else(writer: TextGenerator, model: Path) -> None:
    """A real process, its streams and its exit code."""
    lines = "abc\n/temperature 0\nde\n/temprature 1\n\n"
    child = light_llm(
        *("generate", "interactive", "--checkpoint", str(model), "--seed", "7", "--top-k", "0"),
        *("--max-new-tokens", "12", "--device", "cpu", "--temperature", "1"),
        stdin=lines,
    )
    greedy = generated(writer, "de", 24, temperature=0.0)
    assert child.stdout == f"{generated(writer, 'abc')}\n{greedy[:14]}\n{greedy[14:]}\n"
    assert child.stderr.startswith("error: there is no command /temprature; did you mean") and child.returncode == 2
    assert child.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows hands out signals in another way")
def test_ctrl_c_reaches_the_prompt_from_any_thread() -> None:
    """A signal that does not interrupt the call in which the line editor waits is noticed all the same."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGWINCH)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGWINCH, lambda number, frame: None)  # as the line editor does
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), ctrl_c_heard():
            threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
            time.sleep(60)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.monotonic() - began < 30 and signal.set_wakeup_fd(-1) == -1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_session_at_a_terminal(writer: TextGenerator, model: Path, own_cache: Path) -> None:
    """Keys go in, a screen comes out: a prompt, arrow up, Tab, Ctrl-C in an answer and at the prompt, Ctrl-D."""
    import fcntl
    import pty
    import termios

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that the terminal turns Ctrl-C into a signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell may have told its background jobs to ignore

    ours, theirs = pty.openpty()
    words = ["--checkpoint", str(model), "--seed", "7", "--max-new-tokens", "12", "--temperature", "1", "--top-k", "0"]
    child = subprocess.Popen(
        [sys.executable, "-m", "light_llm", "generate", "interactive", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=own_terminal,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    seen = b""

    def wait_for(text: str) -> str:
        """What the screen shows up to this text, counted from where the last wait ended."""
        nonlocal seen
        deadline = time.monotonic() + 60
        while text.encode() not in seen:
            assert time.monotonic() < deadline and select.select([ours], [], [], 60)[0], seen
            seen += os.read(ours, 65_536)
        shown, _, seen = seen.partition(text.encode())
        return (shown + text.encode()).decode().replace("\r\n", "\n")

    def answer(seed: int) -> str:
        return "\x1b[1mabc\x1b[0m" + generated(writer, "abc", seed=seed).removeprefix("abc")

    try:
        assert "context 16 tokens" in wait_for("> ")
        os.write(ours, b"abc\r")
        assert answer(7) in wait_for("seed 7\x1b[0m") and wait_for("> ")
        os.write(ours, b"\x1b[A\r")
        assert answer(8) in wait_for("seed 8\x1b[0m") and wait_for("> ")
        os.write(ours, b"/max\t1000000\r")
        assert wait_for("max-new-tokens      1000000") and wait_for("> ")
        os.write(ours, b"abc\r")
        assert wait_for(answer(9)[:16])
        os.write(ours, b"\x03")
        assert len(wait_for("seed 9, stopped")) < 1_000_000 and wait_for("> ")
        os.write(ours, b"half a line")
        assert wait_for("half a line")
        os.write(ours, b"\x03")
        assert wait_for("> ")
        os.write(ours, b"\x04")
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    assert own_cache.read_text() == "abc\n/max-new-tokens 1000000\nabc\n"
