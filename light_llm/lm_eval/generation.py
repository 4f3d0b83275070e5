"""How a task wants its text written, and where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import Sampling, repr_short, settings_of
from ..data import Tokenizer
from ..data.tokenizers import StreamingDecoder
from ..errors import ConfigError

MOST_TOKENS = 256  # the harness's default
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # one thing; the first given counts
WITHOUT_EFFECT = {
    "num_beams": (1,),
    "early_stopping": (False,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
}
SAMPLING_SETTINGS = [name for name in settings_of(Sampling) if name != "temperature"]


@dataclass(frozen=True)
class Wanted:
    """What `generation_kwargs` of a task says."""

    until: tuple[str, ...]  # the text ends before the first of these
    max_tokens: int
    sampling: Sampling


def read_wanted(kwargs: Mapping[str, Any]) -> Wanted:
    """Read the `generation_kwargs` of a task, by the harness's rules.

    Greedy unless `do_sample` is true, or is not said and the temperature is above 0.

    Raises:
        ConfigError: a value out of range, or a wish that would be ignored, such as `num_beams: 10`.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    until = given.pop("until", [])
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, (list, tuple)) or not all(isinstance(text, str) for text in until):
        raise ConfigError(f"the task's until={repr_short(until)} cannot be used; it must be a text, or a list of them")
    lengths = [given.pop(name) for name in LENGTHS if name in given]
    most = int(lengths[0]) if lengths else MOST_TOKENS
    if most < 1:
        raise ConfigError(f"the task's max_gen_toks={most} cannot be used; it must be at least 1")
    temperature = float(given.pop("temperature", 1.0 if given.get("do_sample") else 0.0))
    sampled = given.pop("do_sample", temperature > 0)
    knobs = {name: given.pop(name) for name in SAMPLING_SETTINGS if name in given}
    for name, value in given.items():
        if value not in WITHOUT_EFFECT.get(name, ()):
            raise ConfigError(
                f"the task wants {repr_short(name)}={repr_short(value)}, which this model cannot do; take it out of "
                "the task's "
                "generation_kwargs, or leave the task out"
            )
    return Wanted(tuple(filter(None, until)), most, Sampling(temperature=temperature if sampled else 0.0, **knobs))


def room_for_prompt(context: int, max_tokens: int) -> int:
    """How many of a prompt's last tokens are kept: what the text to come leaves of the window, as the harness does it.

    Where it leaves nothing, and the harness refuses, half a window: the window then moves on as the text grows.

    >>> room_for_prompt(512, 256), room_for_prompt(128, 256)
    (256, 64)
    """
    return context - max_tokens if max_tokens < context else max(1, context // 2)


class Ending:
    """One text as it is written, up to the first of some strings."""

    def __init__(self, tokenizer: Tokenizer, until: Sequence[str]) -> None:
        self.stream, self.until = StreamingDecoder(tokenizer), until
        self.longest = max(map(len, until), default=0)
        self.text, self.ended = "", False

    def push(self, token: int | None) -> None:
        """One more token; None: the model has ended the text."""
        new = self.stream.close() if token is None else self.stream.push(token)
        if not self.ended:
            self._add(new)
            self.ended = self.ended or token is None

    def close(self) -> str:
        """The text, now that nothing more comes."""
        self.push(None)
        return self.text

    def _add(self, new: str) -> None:
        start = max(0, len(self.text) - self.longest + 1)  # one may have begun before
        self.text += new
        ends = [at for text in self.until if (at := self.text.find(text, start)) >= 0]
        if ends:
            self.text, self.ended = self.text[: min(ends)], True
