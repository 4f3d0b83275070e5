"""The `generation_kwargs` of a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Sampling, repr_short, settings_of
from ..errors import ConfigError

DEFAULT_MAX_TOKENS = 256  # the harness's default
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
NO_EFFECT = {  # values of other settings that change nothing here
    "num_beams": (1,),
    "early_stopping": (False,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
}
SAMPLING_SETTINGS = settings_of(Sampling).keys() - {"temperature"}


@dataclass(frozen=True)
class GenerationRequest:
    """The parsed `generation_kwargs` of a task."""

    until: tuple[str, ...]  # the text ends before the first of these
    max_tokens: int
    sampling: Sampling


def parse_generation_kwargs(kwargs: Mapping[str, Any]) -> GenerationRequest:
    """Parse the `generation_kwargs` of a task by the harness's rules.

    Texts are greedy unless `do_sample` is true, or is missing and the temperature is above 0.

    Raises ConfigError for a value out of range, or a setting that would be ignored, such as `num_beams: 10`.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    until = given.pop("until", [])
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, (list, tuple)) or not all(isinstance(text, str) for text in until):
        raise ConfigError(f"the task's until={repr_short(until)} cannot be used; it must be a text, or a list of them")
    lengths = [given.pop(name) for name in LENGTHS if name in given]
    max_tokens = int(lengths[0]) if lengths else DEFAULT_MAX_TOKENS
    if max_tokens < 1:
        raise ConfigError(f"the task's max_gen_toks={max_tokens} cannot be used; it must be at least 1")
    temperature = float(given.pop("temperature", 1.0 if given.get("do_sample") else 0.0))
    do_sample = given.pop("do_sample", temperature > 0)
    # Taken from Sampling, so that a new sampling setting works in tasks too.
    settings = {name: given.pop(name) for name in SAMPLING_SETTINGS & given.keys()}
    # A setting that was ignored in silence would give numbers that are not comparable.
    for name, value in given.items():
        if value not in NO_EFFECT.get(name, ()):
            raise ConfigError(
                f"the task wants {repr_short(name)}={repr_short(value)}, which this model cannot do; take it out of "
                "the task's generation_kwargs, or leave the task out"
            )
    sampling = Sampling(temperature=temperature if do_sample else 0.0, **settings)
    return GenerationRequest(tuple(filter(None, until)), max_tokens, sampling)


def max_prompt_tokens(context: int, max_tokens: int) -> int:
    """Return how many of a prompt's last tokens are read: the context less the tokens to generate, as in the harness.

    The harness refuses a task whose text leaves no room for a prompt. Here it gets half of the context, and the window
    moves as the text grows.

    >>> max_prompt_tokens(512, 256), max_prompt_tokens(128, 256)
    (256, 64)
    """
    return context - max_tokens if max_tokens < context else max(1, context // 2)
