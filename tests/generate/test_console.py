"""The REPL of `generate interactive`: the effect of each line. Its terminal is tested in test_terminal.py."""

import contextlib
import io
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from light_llm.config import Sampling, settings_of
from light_llm.data.tokenizers import ByteTokenizer, StreamingDecoder
from light_llm.errors import ConfigError
from light_llm.generate import TextGenerator
from light_llm.generate.repl import COMMANDS, HELP, Repl, ReplSettings, visible_tail
from light_llm.generate.terminal import Terminal, delayed_interrupt
from tests.support.tools import model_path


@dataclass
class Session:
    """The result of some lines."""

    repl: Repl
    code: int
    out: str
    err: str


class Fragile(io.StringIO):
    """A stream that raises once, at the given write."""

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
    """Run lines through a REPL, piped or (`typed`) as from a terminal without colours."""
    out, err = out or io.StringIO(), io.StringIO()
    start = ReplSettings(**({"max_new_tokens": 12, "seed": 7} | settings))
    repl = Repl(writer, start, Terminal(out, err, typed, typed))
    code = repl.run(reader(*lines), first=first)
    return Session(repl, code, out.getvalue(), err.getvalue())


def generated(writer: TextGenerator, prompt: str, n: int = 12, **options: Any) -> str:
    return writer.generate(prompt, n, **({"temperature": 1.0, "top_k": 0, "seed": 7} | options))


# ---- texts


def answers(writer: TextGenerator, *prompts: str, **options: Any) -> str:
    """Answer number n of a session uses seed 7 + n."""
    return "".join(generated(writer, p, **({"seed": 7 + i} | options)) + "\n" for i, p in enumerate(prompts))


KNOBS = {"temperature": 1.3, "top_k": 9, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2, "stop": ("j",)}


def test_an_answer_is_what_the_library_generates(writer: TextGenerator) -> None:
    done = say(writer, "abc", "de", "abc", **KNOBS)
    assert (done.out, done.code, done.err) == (answers(writer, "abc", "de", "abc", **KNOBS), 0, "")


def test_without_a_seed_each_session_is_new(writer: TextGenerator) -> None:
    texts = {say(writer, "abc", seed=-1).out for _ in range(3)}
    assert len(texts) == 3 and all(text.startswith("abc") for text in texts)


@pytest.mark.parametrize("step", [4, 12])
def test_an_empty_line_goes_on_as_if_it_had_been_written_in_one_go(writer: TextGenerator, step: int) -> None:
    """Far past the window of 16, where the last half is read again from fixed places."""
    done = say(writer, "abc", *[""] * (48 // step - 1), temperature=0.0, max_new_tokens=step)
    pieces = done.out.removesuffix("\n")
    whole = generated(writer, "abc", 48, temperature=0.0)
    at = [3 + step * i for i in range(48 // step + 1)]
    assert pieces == "\n".join([whole[: at[1]], *(whole[a:b] for a, b in zip(at[1:], at[2:], strict=False))])
    assert len(set(whole)) > 3 and len(done.repl.text) <= writer.context + step
    assert say(writer, "").out == answers(writer, ""), "the first one starts from nothing"


def test_the_tail_is_what_a_model_would_still_see(tmp_path: Path) -> None:
    bytes_ = TextGenerator(model_path(tmp_path), device="cpu")  # sees 16, moves by 8
    assert visible_tail(bytes_, "a" * 16) == "a" * 16
    assert visible_tail(bytes_, "abcdefgh" + "i" * 9) == "i" * 9
    assert visible_tail(bytes_, "abcdefgé" + "i" * 9) == "i" * 9  # the second half of é is nothing
    assert isinstance(bytes_.tokenizer, ByteTokenizer)
    for n in range(40):
        text = "aé日" * n
        assert text.endswith(visible_tail(bytes_, text)) and len(visible_tail(bytes_, text).encode()) <= 16


def test_two_slashes_are_a_text_with_one(writer: TextGenerator) -> None:
    assert say(writer, "//abc").out == answers(writer, "/abc") and say(writer, "///a").out.startswith("//a")
    assert say(writer, "de", first="/abc").out == answers(writer, "/abc", "de"), "a first prompt has no commands"


def test_after_an_unusable_line_the_next_one_is_answered(writer: TextGenerator) -> None:
    """It uses no seed, and the prompt before it stays the last one."""
    lines = ["abc", "a" * 17, "XYZ", "/again"]
    done = say(writer, *lines)
    assert done.out == answers(writer, "abc", "abc")
    assert re.fullmatch(r"error: .*17 tokens.* 16.*\nerror: .*'X' \(U\+0058\).*--tokenizer.*\n", done.err)
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
    assert done.repl.settings == ReplSettings(**{"max_new_tokens": 12, "seed": 7, **settings})
    assert (done.out, done.err, done.code) == ("", "", 0)
    assert say(writer, line, typed=True).out == shown + "\n\n"  # and a new line at the end of input
    if settings.get("seed") != -1:
        options = {"n" if name == "max_new_tokens" else name: value for name, value in settings.items()}
        assert say(writer, line, "abc").out == answers(writer, "abc", **options)


def test_a_command_alone_shows_its_value_and_settings_shows_all(writer: TextGenerator) -> None:
    shown = [
        *("temperature         1.0", "top-k               0", "top-p               1.0", "min-p               0.0"),
        *("repetition-penalty  1.0", "max-new-tokens      12", "stop                'b'  'c'"),
        "seed                7 (the next answer: 8)",
    ]
    done = say(writer, "abc", "/settings", stop=("b", "c"))
    assert done.err.splitlines() == shown  # piped, standard output has nothing but answers
    assert done.out == answers(writer, "abc", stop=("b", "c"))
    for line in shown:
        name = line.split()[0]
        if name != "stop":
            asked = say(writer, "abc", f"/{name}", stop=("b", "c"))
            assert asked.err.splitlines() == [line] and asked.repl.settings == done.repl.settings


def test_stop_strings_add_up_and_are_cleared_by_none(writer: TextGenerator) -> None:
    assert say(writer, "/stop b", "/stop c", "/stop b").repl.settings.stop == ("b", "c")
    done = say(writer, "/stop b", "/stop", typed=True)
    assert done.repl.settings.stop == () and "stop                none\n" in done.out


def test_a_seed_starts_the_counting_again(writer: TextGenerator) -> None:
    twice = answers(writer, "abc", "abc")
    assert say(writer, "abc", "abc", "/seed 7", "abc", "/temperature 1", "abc").out == twice + twice


def test_again_is_the_same_prompt_with_the_next_seed(writer: TextGenerator) -> None:
    assert say(writer, "abc", "/again").out == say(writer, "abc", "abc").out
    done = say(writer, "ab", "", "/again", max_new_tokens=5)
    first = generated(writer, "ab", 5)
    expected = [generated(writer, first, 5, seed=seed).removeprefix(first) for seed in (8, 9)]
    assert done.out == "\n".join([first, *expected]) + "\n" and expected[0] != expected[1]


def test_samples_are_numbered_answers(writer: TextGenerator) -> None:
    """The same as `generate text --num-samples`: row i is written with seed + i."""
    many = writer.generate_many(["abc"] * 3, max_new_tokens=12, seed=7, temperature=1.0, top_k=0)
    expected = "".join(f"--- sample {i + 1}\nabc{text}\n" for i, text in enumerate(many))
    assert say(writer, "/sample 3 abc").out == expected and len(set(many)) == 3
    assert say(writer, "abc", "/seed 7", "/sample 3").out == answers(writer, "abc") + expected


def test_help_lists_every_command_on_one_screen(writer: TextGenerator) -> None:
    shown = say(writer, "/help").err.splitlines()
    assert shown == list(HELP) and len(shown) <= 22 and max(map(len, shown)) <= 80
    assert [line.split()[0] for line in shown if line.startswith("  /")] == list(COMMANDS)
    assert all(fact in " ".join(shown) for fact in ("empty line", "//usr is /usr", "N, N+1, N+2", "Ctrl-D"))
    others = {"help", "max-new-tokens", "stop", "seed", "sample", "settings", "again", "quit"}
    assert COMMANDS.keys() == {f"/{name.replace('_', '-')}" for name in others | settings_of(Sampling).keys()}


def test_quit_leaves(writer: TextGenerator) -> None:
    done = say(writer, "abc", "/quit", "abc", typed=True)
    assert done.code == 0 and re.fullmatch(re.escape(generated(writer, "abc")) + "\n12 tokens, .*, seed 7\n", done.out)


WRONG = {  # and the word of the message that helps
    "/temprature 1": "did you mean /temperature",
    "/": "/help",
    "/temperature hot": "temperature=hot",
    "/temperature -1": "temperature=-1.0",
    "/temperature nan": "temperature=nan",
    "/top-k 1.5": "top_k=1.5",
    "/top-k -1": "top_k=-1",
    "/top-p 0": "top_p=0.0",
    "/min-p 2": "min_p=2.0",
    "/repetition-penalty 0": "repetition_penalty=0.0",
    "/max-new-tokens 0": "max_new_tokens=0",
    "/seed x": "seed=x",
    "/seed -2": "seed=-2",
    "/seed 9223372036854775807": "seed=9223372036854775807",
    "/sample": "/sample 3 TEXT",
    "/sample abc": "/sample 3 TEXT",
    "/sample 0": "sample=0",
    "/sample 3": "no prompt",
    "/sample 2 XYZ": "'X' (U+0058)",
    "/again": "no prompt",
    "/again abc": "'abc'",
    "/quit now": "'now'",
}


@pytest.mark.parametrize("line", WRONG)
def test_mistakes_change_nothing(writer: TextGenerator, line: str) -> None:
    done = say(writer, line, "abc")
    assert done.err.startswith("error: ") and WRONG[line] in done.err and done.err.count("\n") == 1
    assert (done.code, done.out) == (2, answers(writer, "abc"))
    assert done.repl.settings == ReplSettings(max_new_tokens=12, seed=7)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="stop=''"):
        ReplSettings(stop=("",))


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
    pattern = r"(.*)\n6 tokens, [\d,]+ tokens/s, seed 7, stopped\n(.*)\n12 tokens, .*, seed 8\n\n"
    lines = re.fullmatch(pattern, done.out, re.DOTALL)
    assert lines and lines[1] == shown[:-1]  # the sixth was being written
    assert lines[2] == generated(writer, shown, seed=8).removeprefix(shown)
    assert done.code == 0 and done.err == ""


def test_ctrl_c_stops_all_samples(writer: TextGenerator) -> None:
    done = say(writer, "/sample 3 abc", "de", typed=True, out=Fragile(8, KeyboardInterrupt))
    assert done.out.count("---") == 1 and "stopped\nde" in done.out and done.code == 0


def test_a_real_ctrl_c_is_never_lost(writer: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the middle of a token, where a library might drop it; the answer stops after that token."""
    push = StreamingDecoder.push
    pushed = 0

    def press(stream: StreamingDecoder, token: int) -> str:
        nonlocal pushed
        pushed += 1
        if pushed == 3:
            with contextlib.suppress(KeyboardInterrupt):  # such a library
                signal.raise_signal(signal.SIGINT)
        return push(stream, token)

    monkeypatch.setattr(StreamingDecoder, "push", press)
    before = signal.getsignal(signal.SIGINT)
    done = say(writer, "abc", typed=True)
    assert re.search(r"\n3 tokens, .*, seed 7, stopped\n", done.out) and pushed == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), delayed_interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    found: list[object] = []

    def elsewhere() -> None:
        with delayed_interrupt() as raise_if_pressed:
            raise_if_pressed()
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


@pytest.mark.parametrize("end", [KeyboardInterrupt, BrokenPipeError])
def test_piped_lines_end_by_ctrl_c_and_by_a_reader_that_leaves(writer: TextGenerator, end: type[BaseException]) -> None:
    """The command line's own handler makes the second, as of `| head`, silent."""
    with pytest.raises(end):
        say(writer, "abc", out=Fragile(5, end))
    with pytest.raises(end):
        say(writer, end)


def test_the_header_says_what_is_loaded(writer: TextGenerator, model: Path) -> None:
    lines = say(writer).repl.header()
    assert lines[0] == f"model       {model}, step 1"
    parameters = sum(p.numel() for p in writer.model.parameters())
    assert lines[1] == f"            {parameters:,} parameters, context 16 tokens, on cpu"
    assert lines[2] == "trained on  (not recorded)" and "/help lists the commands" in lines[3]
    named = TextGenerator(model, device="cpu")
    named.file.data["title"] = "a poem"
    assert say(named).repl.header()[2] == "trained on  a poem"
