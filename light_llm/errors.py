"""Errors that a user can fix: one family, so that a caller can catch them all.

Each message says what is wrong, with which value, and what to do. It names an option as `{--max-steps 20}`, and the
reader sees the spelling that they can type: `--max-steps 20` on the command line, `max_steps=20` in Python.
"""

import difflib
import re
import signal
from collections.abc import Iterable

_OPTION = re.compile(r"\{--([a-z][a-z-]*)(?:[ =]([^{}]+))?\}")
_SWITCHES = ("fit", "force", "offline", "overwrite", "resume", "skip-doctor")


def as_flags(text: str) -> str:
    """Return a message with its options as they are typed on the command line.

    >>> as_flags("continue it ({--resume}) or name another folder ({--out})")
    'continue it (--resume) or name another folder (--out)'
    """
    return _OPTION.sub(lambda option: option[0][1:-1], text)


def as_keywords(text: str) -> str:
    """Return a message with its options as keyword arguments.

    >>> as_keywords("{--resume}, {--out}, {--max-steps 20} or {--set train.beta2=0.9}")
    'resume=True, out=..., max_steps=20 or beta2=0.9'
    >>> as_keywords("{--device auto}, {--preset nano} {--set train.checkpointing=true}")
    "device='auto', ModelConfig.preset('nano'), checkpointing=True"
    """

    def keyword(option: re.Match[str]) -> str:
        name, value = option[1], option[2]
        if name == "set" and value:
            path, equals, value = value.partition("=")
            return f"{path.partition('.')[2] or path}{equals}{_as_python(value)}"
        if name == "preset":
            return f"ModelConfig.preset({_as_python(value or '...')})"
        value = _as_python(value or "")
        return f"{name.replace('-', '_')}={value or ('True' if name in _SWITCHES else '...')}"

    # Flags of a command stand side by side, keyword arguments have commas between them.
    return _OPTION.sub(keyword, re.sub(r"\} \{(?=--)", "}, {", text))


def _as_python(value: str) -> str:
    """Return the value of an option as Python: a text in quotes; a number or a placeholder (N, ...) as it is."""
    if value in ("true", "false"):
        return value.capitalize()
    return repr(value) if re.match(r"[a-z/~_]|\.[a-z/]", value) else value


def mark_options(text: str) -> str:
    """Mark the flags in a text as options.

    >>> mark_options("--preset nano --micro-batch 1; leave out --set model.n_layer")
    '{--preset nano} {--micro-batch 1}; leave out {--set model.n_layer}'
    """
    return re.sub(r"--[a-z][a-z-]*( [^-;\s][^;\s]*)?", lambda flag: "{" + flag[0] + "}", text)


class LightLLMError(Exception):
    """An error that a user can fix. The command line prints it without a traceback and exits with code 2."""

    @property
    def message(self) -> str:
        """The text with its options still marked, for a message that quotes this one."""
        return super().__str__()

    def __str__(self) -> str:
        return as_keywords(self.message)


class ConfigError(LightLLMError):
    """A setting, flag or argument that cannot be used."""


class DataError(LightLLMError):
    """A text, download, tokenizer or shard that cannot be used."""


class CheckpointError(LightLLMError):
    """A run folder or model file that is missing, damaged, in use or of the wrong kind."""


class DeviceError(LightLLMError):
    """A device or number format that this machine does not have."""


class RankLost(LightLLMError):
    """Another process of the run has ended, failed or does not answer."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the whole program. At a prompt, Ctrl-C alone is a plain KeyboardInterrupt.

    Args:
        number: of the signal.
        advice: how to continue, for the message.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(advice)
        self.number = number

    @classmethod
    def with_advice(cls, error: KeyboardInterrupt, advice: str) -> "Interrupted":
        """Return an interruption by the same signal, with advice."""
        return cls(error.number if isinstance(error, Interrupted) else signal.SIGINT, advice)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: the most similar known word as a question, or a full stop if none is similar.

    >>> did_you_mean("max_step", ["max_steps", "lr"])
    '; did you mean max_steps?'
    >>> did_you_mean("zzz", ["max_steps", "lr"])
    '.'
    """
    near = difflib.get_close_matches(word[:100].lower(), list(known)[:1000], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "."
