"""`light-llm generate interactive`: read a line, continue it, print; and the commands that change how."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from ..config import Sampling, check_range, get_model_size, metavar_of, settings_of
from ..config.validation import parse_as
from ..data.tokenizers import decode as decode_ids
from ..errors import ConfigError, Interrupted, LightLLMError, did_you_mean
from .decode import window_start
from .generator import TextGenerator, check_request
from .terminal import BOLD, DIM, Screen, between_tokens


@dataclass(frozen=True, kw_only=True)
class Settings(Sampling):
    """How an answer is written: the knobs of sampling, how long, up to what, from which seed.

    Raises:
        ConfigError: a value outside its range.
    """

    max_new_tokens: int = 100
    stop: tuple[str, ...] = ()
    seed: int = -1  # of the first answer, one more for each after it; below 0: a new one for each

    def __post_init__(self) -> None:
        super().__post_init__()
        check_request(self.max_new_tokens, self.stop, max(0, self.seed))

    def changed(self, name: str, text: str) -> "Settings":
        """With one number read from text. Raises ConfigError where that is no number, or out of range."""
        return replace(self, **{name: parse_as(Settings, name, text, what="settings")})


@dataclass(frozen=True)
class Command:
    """A line of /help."""

    name: str
    value: str
    what: str


COMMANDS = (
    Command("/again", "", "the last prompt again, with another seed"),
    Command("/sample", "N [TEXT]", "N answers to TEXT, or to the last prompt"),
    *(
        Command(f"/{name.replace('_', '-')}", metavar_of(Sampling, name), setting.help)
        for name, setting in settings_of(Sampling).items()
    ),
    Command("/max-new-tokens", "N", "tokens to write at most"),
    Command("/stop", "TEXT", "end before TEXT too (\\n: a line's end); alone: none"),
    Command("/seed", "N", "answers use N, N+1, N+2 ...; -1: a new seed for each"),
    Command("/settings", "", "all values; a command alone shows its own"),
    Command("/help", "", "this"),
    Command("/quit", "", "leave, as Ctrl-D does; Ctrl-C stops an answer"),
)
NAMES = tuple(command.name for command in COMMANDS)
TO_TYPE = tuple(f"{command.name} " if command.value else command.name for command in COMMANDS)  # what Tab completes
SETTINGS = tuple(f.name for f in fields(Settings))
NUMBERS = {f"/{name.replace('_', '-')}": name for name in SETTINGS if name != "stop"}
HELP = (
    "Type a text, and the model continues it: each time from what you typed alone.",
    "An empty line goes on where the last answer ended (at first: from nothing).",
    "A text that begins with a slash is typed with two: //usr is /usr.",
    "",
    *(f"  {f'{c.name} {c.value}':24}{c.what}" for c in COMMANDS),
)


@dataclass(frozen=True)
class Prompt:
    """What an answer starts from, and whether it was typed, so that it is shown in front of the answer."""

    text: str
    typed: bool = True


class Repl:
    """A read-evaluate-print loop over a model: the state of one session.

    Args:
        writer: the model.
        settings: what holds until a command changes it.
        screen: where answers and messages go.
    """

    def __init__(self, writer: TextGenerator, settings: Settings, screen: Screen) -> None:
        self.writer, self.settings, self.screen = writer, settings, screen
        self.answers = 0  # since the seed was set
        self.prompt: Prompt | None = None  # of the last answer
        self.text = ""  # the last prompt and its answer
        self.failed = False  # a line could not be answered
        self.over = False

    def header(self) -> list[str]:
        """What is loaded, and the one thing to know."""
        file = self.writer.file
        return [
            f"model       {file.path}, step {file.meta.get('step')}",
            f"            {get_model_size(file.config):,} parameters, context {self.writer.context:,} tokens, "
            f"on {self.writer.device.value}",
            f"trained on  {file.data.get('title', 'a text it does not name')}",
            "Type a text and it goes on; /help lists the commands.",
        ]

    def run(self, read: Callable[[], str], *, first: str = "") -> int:
        """Answer line after line.

        Args:
            read: gives the next line; raises EOFError after the last.
            first: a prompt that is answered before anything is read.

        Returns:
            The exit code: 0, or 2 where nobody sits at the keyboard and a line could not be answered.
        """
        if first:
            self._safely(self.answer, Prompt(first))
        while not self.over:
            try:
                line = read()
            except (EOFError, KeyboardInterrupt) as end:
                if isinstance(end, Interrupted) or (isinstance(end, KeyboardInterrupt) and not self.screen.asks):
                    raise
                self.over = isinstance(end, EOFError)
                if self.screen.asks:
                    self.screen.remark("")
                continue
            self._safely(self.handle, line)
        return 2 if self.failed and not self.screen.asks else 0

    def handle(self, line: str) -> None:
        """One line: a command, a text, or nothing. Raises LightLLMError for what cannot be done."""
        if line.startswith("/") and not line.startswith("//"):
            name, value = [*line.split(maxsplit=1), ""][:2]
            self._command(name, value)
        elif line:
            self.answer(Prompt(line.removeprefix("/")))
        else:
            self.answer(Prompt(tail(self.writer, self.text), typed=False))

    def answer(self, prompt: Prompt, heading: str = "") -> None:
        """Continue a prompt on the screen, as it is written.

        Raises:
            ConfigError, DataError: a prompt that cannot be used; nothing is shown then, and no seed is used up.
        """
        s = self.settings
        seed = s.seed + self.answers if s.seed >= 0 else secrets.randbits(32)
        pieces = self.writer.stream(
            prompt.text, max_new_tokens=s.max_new_tokens, sampling=s, stop=s.stop, seed=seed, each_token=True
        )
        shown: list[str] = []
        began = time.perf_counter()
        try:
            with between_tokens() as stop_here:
                for piece in pieces:
                    if not shown:
                        self._begin(prompt, heading)
                    shown.append(piece)
                    self.screen.text(piece)
                    stop_here()
        except KeyboardInterrupt:
            self.screen.text("\n")
            self._end(prompt, shown, f"{_speed(len(shown), began)}, seed {seed}, stopped")
            raise
        if not self.screen.live or not f"{prompt.text if prompt.typed else ''}{''.join(shown)}".endswith("\n"):
            self.screen.text("\n")
        self._end(prompt, shown, f"{_speed(len(shown) - 1, began)}, seed {seed}")  # the last piece is no token

    def _begin(self, prompt: Prompt, heading: str) -> None:
        """Now it is certain that the prompt can be used."""
        self.answers += 1
        if heading:
            self.screen.text(heading, DIM)
            self.screen.text("\n")
        if prompt.typed:
            self.screen.text(prompt.text, BOLD)

    def _end(self, prompt: Prompt, shown: list[str], closing: str) -> None:
        if shown:
            self.prompt, self.text = prompt, prompt.text + "".join(shown)
        if self.screen.asks and self.screen.live:
            self.screen.remark(closing)

    def _command(self, name: str, value: str) -> None:
        if name not in NAMES:
            raise ConfigError(
                f"there is no command {name}{did_you_mean(name, NAMES)} /help lists them, and a text that begins with "
                "a slash is typed with two"
            )
        value_is_none = next(c for c in COMMANDS if c.name == name).value == ""
        if value_is_none and value.strip():
            raise ConfigError(f"{name} takes no value; leave {value.strip()!r} out")
        if name in NUMBERS:
            self._set(NUMBERS[name], value.strip())
        elif name == "/stop":
            self._stop(value.strip())
        elif name == "/sample":
            self._sample(value)
        elif name == "/again":
            self.answer(self._last())
        elif name == "/quit":
            self.over = True
        else:
            for line in HELP if name == "/help" else map(self._line, SETTINGS):
                self.screen.remark(line)

    def _set(self, name: str, value: str) -> None:
        if value:
            self.settings = self.settings.changed(name, value)
            self.answers = 0 if name == "seed" else self.answers
        if self.screen.asks or not value:
            self.screen.remark(self._line(name))

    def _line(self, name: str) -> str:
        """A setting, as it is shown."""
        value = getattr(self.settings, name)
        shown = str(value)
        if name == "stop":
            shown = "  ".join(map(repr, value)) or "none"
        elif name == "seed":
            shown += " (a new one for each answer)" if value < 0 else f" (the next answer: {value + self.answers})"
        return f"{name.replace('_', '-'):18}  {shown}"

    def _stop(self, text: str) -> None:
        """A line break cannot be typed: `\\n`, alone or repeated, stands for it; `\\newline` is itself."""
        text = "\n" * text.count("\\n") if not text.replace("\\n", "") else text
        stop = tuple(dict.fromkeys([*self.settings.stop, text])) if text else ()
        self.settings = replace(self.settings, stop=stop)
        if self.screen.asks:
            self.screen.remark(self._line("stop"))

    def _sample(self, value: str) -> None:
        number, text = [*value.split(maxsplit=1), "", ""][:2]
        try:
            count = int(number)
        except ValueError:
            raise ConfigError("/sample needs to know how many, as in: /sample 3, or: /sample 3 TEXT") from None
        check_range("sample", count, low=1, integer=True)
        prompt = Prompt(text) if text else self._last()
        for i in range(count):
            self.answer(prompt, f"--- sample {i + 1}")

    def _last(self) -> Prompt:
        if self.prompt is None:
            raise ConfigError("there is no prompt yet; type a text first")
        return self.prompt

    def _safely(self, do: Callable[..., None], *values: object) -> None:
        """A mistake is said and the loop goes on; so it does after Ctrl-C, where somebody typed it."""
        try:
            do(*values)
        except LightLLMError as error:
            self.failed = True
            self.screen.error(str(error))
        except KeyboardInterrupt as end:
            if isinstance(end, Interrupted) or not self.screen.asks:
                raise


def tail(writer: TextGenerator, text: str) -> str:
    """The end of a text that the model would still look at, had it written it all in one go."""
    while len(ids := writer.tokenizer.encode(text)) > writer.context:
        kept = decode_ids(writer.tokenizer, ids[window_start(len(ids), writer.context) :])
        text = kept.lstrip("\ufffd")  # a character that was cut in two
    return text


def _speed(tokens: int, began: float) -> str:
    rate = tokens / max(time.perf_counter() - began, 1e-9)
    return f"{tokens:,} token{'' if tokens == 1 else 's'}, {rate:,.0f} tokens/s"
