"""`light-llm generate interactive`: read a line, print its continuation, and obey commands that change the settings."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from ..config import Sampling, check_range, get_model_size, metavar_of, settings_of
from ..config.validation import parse_as
from ..errors import ConfigError, Interrupted, LightLLMError, as_flags, did_you_mean
from .decode import window_start
from .generator import TextGenerator, check_request
from .terminal import BOLD, DIM, Terminal, delayed_interrupt


@dataclass(frozen=True, kw_only=True)
class ReplSettings(Sampling):
    """Settings of an answer: those of sampling, its length, its stop strings and its seed.

    Raises:
        ConfigError: a value outside its range.
    """

    max_new_tokens: int = 100
    stop: tuple[str, ...] = ()
    seed: int = -1  # of the first answer, one more for each later one; -1: a new one for each

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seed", self.seed, low=-1, integer=True)
        check_request(self.max_new_tokens, self.stop, max(0, self.seed))


# By name, with the word for the value, if there is one, and the help.
COMMANDS = {
    "/again": ("", "continue the last prompt again, with another seed"),
    "/sample": ("N [TEXT]", "N continuations of TEXT, or of the last prompt"),
    **{f"/{k.replace('_', '-')}": (metavar_of(Sampling, k), s.flag_help) for k, s in settings_of(Sampling).items()},
    "/max-new-tokens": ("N", "stop after this many tokens"),
    "/stop": ("TEXT", "also stop before TEXT (\\n: line end); alone: clear"),
    "/seed": ("N", "answers use N, N+1, N+2 ...; -1: a new seed for each"),
    "/settings": ("", "show all values; a command alone shows its own"),
    "/help": ("", "show this list"),
    "/quit": ("", "leave (also Ctrl-D); Ctrl-C stops an answer"),
}
COMPLETIONS = tuple(f"{name} " if value else name for name, (value, _) in COMMANDS.items())
SETTINGS = tuple(f.name for f in fields(ReplSettings))
NUMERIC_COMMANDS = {f"/{name.replace('_', '-')}": name for name in SETTINGS if name != "stop"}
HELP = (
    "Type a text, and the model continues it. An answer sees only that text.",
    "An empty line continues the last answer (at first: without a prompt).",
    "A text that begins with a slash is typed with two: //usr is /usr.",
    "",
    *(f"  {f'{name} {value}':24}{text}" for name, (value, text) in COMMANDS.items()),
)


@dataclass(frozen=True)
class ReplPrompt:
    """The text that an answer continues."""

    text: str
    typed: bool = True  # and so shown in front of the answer, unlike an earlier answer that is continued


class Repl:
    """A read-evaluate-print loop over a model: the state of one session, whose settings are changed by commands."""

    def __init__(self, generator: TextGenerator, settings: ReplSettings, terminal: Terminal) -> None:
        self.generator, self.settings, self.terminal = generator, settings, terminal
        self.answers = 0  # since the seed was set
        self.prompt: ReplPrompt | None = None  # of the last answer
        self.text = ""  # the last prompt and its answer
        self.failed = False  # a line could not be answered
        self.finished = False

    def header(self) -> list[str]:
        """Return the lines that describe the model."""
        file = self.generator.file
        return [
            f"model       {file.path}, step {file.meta.get('step')}",
            f"            {get_model_size(file.config):,} parameters, context {self.generator.context:,} tokens, "
            f"on {self.generator.device.value}",
            f"trained on  {file.data.get('title', '(not recorded)')}",
            "Type a text, and the model continues it; /help lists the commands.",
        ]

    def run(self, read: Callable[[], str], *, first: str = "") -> int:
        """Process input lines until the end of input.

        Args:
            read: returns the next line; raises EOFError after the last.
            first: a prompt that is answered before the first line is read.

        Returns:
            The exit code: 0, or 2 if the lines are piped and one could not be answered.
        """
        if first:
            self._safely(self.answer, ReplPrompt(first))
        while not self.finished:
            try:
                line = read()
            except (EOFError, KeyboardInterrupt) as end:
                # Ctrl-C at the prompt discards the line. SIGTERM, and Ctrl-C for piped lines, end the program.
                typed = self.terminal.interactive
                if isinstance(end, Interrupted) or (isinstance(end, KeyboardInterrupt) and not typed):
                    raise
                self.finished = isinstance(end, EOFError)
                if typed:
                    self.terminal.note("")
                continue
            self._safely(self.handle, line)
        return 2 if self.failed and not self.terminal.interactive else 0

    def handle(self, line: str) -> None:
        """Handle one line: a command, a text, or nothing. Raises LightLLMError for a mistake in it."""
        if line.startswith("/") and not line.startswith("//"):
            name, value = [*line.split(maxsplit=1), ""][:2]
            self._command(name, value)
        elif line:
            self.answer(ReplPrompt(line.removeprefix("/")))
        else:
            self.answer(ReplPrompt(visible_tail(self.generator, self.text), typed=False))

    def answer(self, prompt: ReplPrompt, heading: str = "") -> None:
        """Show a prompt and its continuation, token by token.

        Raises:
            ConfigError, DataError: an unusable prompt; it is not shown and uses no seed.
        """
        s = self.settings
        seed = s.seed + self.answers if s.seed >= 0 else secrets.randbits(32)
        pieces = self.generator.stream(
            prompt.text, max_new_tokens=s.max_new_tokens, sampling=s, stop=s.stop, seed=seed, each_token=True
        )
        shown: list[str] = []
        began = time.perf_counter()
        try:
            with delayed_interrupt() as raise_if_pressed:
                for piece in pieces:
                    if not shown:  # the first token shows that the prompt is usable
                        self.answers += 1
                        if heading:
                            self.terminal.text(f"{heading}\n", DIM)
                        if prompt.typed:
                            self.terminal.text(prompt.text, BOLD)
                    shown.append(piece)
                    self.terminal.text(piece)
                    raise_if_pressed()
        except KeyboardInterrupt:
            self.terminal.text("\n")
            self._end(prompt, shown, f"{_speed(len(shown), began)}, seed {seed}, stopped")
            raise
        if not self.terminal.live or not "".join([prompt.text * prompt.typed, *shown]).endswith("\n"):
            self.terminal.text("\n")
        self._end(prompt, shown, f"{_speed(len(shown) - 1, began)}, seed {seed}")  # the last piece holds no new token

    def _end(self, prompt: ReplPrompt, shown: list[str], closing: str) -> None:
        if shown:
            self.prompt, self.text = prompt, prompt.text + "".join(shown)
        if self.terminal.interactive and self.terminal.live:
            self.terminal.note(closing)

    def _command(self, name: str, value: str) -> None:
        if name not in COMMANDS:
            raise ConfigError(
                f"there is no command {name}{did_you_mean(name, tuple(COMMANDS))} /help lists them, and a text that "
                "begins with a slash is typed with two"
            )
        if not COMMANDS[name][0] and value.strip():
            raise ConfigError(f"{name} takes no value; leave {value.strip()!r} out")
        if name in NUMERIC_COMMANDS:
            self._set(NUMERIC_COMMANDS[name], value.strip())
        elif name == "/stop":
            self._stop(value.strip())
        elif name == "/sample":
            self._sample(value)
        elif name == "/again":
            self.answer(self._last())
        elif name == "/quit":
            self.finished = True
        else:
            for line in HELP if name == "/help" else map(self._line, SETTINGS):
                self.terminal.note(line)

    def _set(self, name: str, value: str) -> None:
        if value:
            self.settings = replace(self.settings, **{name: parse_as(ReplSettings, name, value, what="settings")})
            self.answers = 0 if name == "seed" else self.answers
        if self.terminal.interactive or not value:
            self.terminal.note(self._line(name))

    def _line(self, name: str) -> str:
        """Return the line that shows a setting."""
        value = getattr(self.settings, name)
        shown = str(value)
        if name == "stop":
            shown = "  ".join(map(repr, value)) or "none"
        elif name == "seed":
            shown += " (a new one for each answer)" if value < 0 else f" (the next answer: {value + self.answers})"
        return f"{name.replace('_', '-'):18}  {shown}"

    def _stop(self, text: str) -> None:
        """Add a stop string; without text, clear them."""
        # A line break cannot be typed, so \\n, alone or repeated, stands for it; \\newline is left alone.
        text = "\n" * text.count("\\n") if not text.replace("\\n", "") else text
        stop = tuple(dict.fromkeys([*self.settings.stop, text])) if text else ()
        self.settings = replace(self.settings, stop=stop)
        if self.terminal.interactive:
            self.terminal.note(self._line("stop"))

    def _sample(self, value: str) -> None:
        number, text = [*value.split(maxsplit=1), "", ""][:2]
        try:
            count = int(number)
        except ValueError:
            raise ConfigError("/sample needs a number, as in: /sample 3, or: /sample 3 TEXT") from None
        check_range("sample", count, low=1, integer=True)
        prompt = ReplPrompt(text) if text else self._last()
        for i in range(count):
            self.answer(prompt, f"--- sample {i + 1}")

    def _last(self) -> ReplPrompt:
        if self.prompt is None:
            raise ConfigError("there is no prompt yet; type a text first")
        return self.prompt

    def _safely(self, method: Callable[..., None], *values: object) -> None:
        """Call a method; show its LightLLMError and return; also return after Ctrl-C if the lines are typed."""
        try:
            method(*values)
        except LightLLMError as error:
            self.failed = True
            self.terminal.error(as_flags(error.message))
        except KeyboardInterrupt as end:
            if isinstance(end, Interrupted) or not self.terminal.interactive:
                raise


def visible_tail(generator: TextGenerator, text: str) -> str:
    """Return the end of a text that is still in the model's window, as if it had been generated in one call."""
    tokenizer, room = generator.tokenizer, generator.context - len(generator.tokenizer.prefix)
    while len(ids := tokenizer.encode(text)) > room:
        window = tokenizer.decode(ids[window_start(len(ids), room) :])
        text = window.lstrip("\ufffd")  # of a character whose first bytes are outside
    return text


def _speed(tokens: int, began: float) -> str:
    rate = tokens / max(time.perf_counter() - began, 1e-9)
    return f"{tokens:,} token{'' if tokens == 1 else 's'}, {rate:,.0f} tokens/s"
