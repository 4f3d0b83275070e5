"""Declare a setting once: its default, bounds, help, flag and resume rule are one dataclass field.

The rest is derived from the field: the checks when a config is made, the flags of the command line, what a resumed run
may change, and the command that repeats a run.
"""

import math
import typing
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar

from .validation import check_choice, check_range, wrong_type

Value = TypeVar("Value")
# A text may move between two parts of a run. It is recognised by its hash, not by its path.
ResumeRule = Literal["fixed", "free", "by_hash"]
_KEY = "setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The declaration of one field of a config: a number within bounds, a choice, true or false, or text."""

    help: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    resume: ResumeRule = "fixed"
    flag: bool = False
    metavar: str = ""

    @property
    def flag_help(self) -> str:
        """Return the help of the flag, with the choices."""
        return f"{self.help}: {'|'.join(self.choices)}" if self.choices else self.help


def setting(
    default: Value,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    choices: tuple[str, ...] = (),
    resume: ResumeRule = "fixed",
    flag: bool = False,
    metavar: str = "",
) -> Value:
    """Declare a field of a config dataclass, as in `lr: float = setting(1.5e-3, "peak learning rate", above=0)`.

    Args:
        help: its effect, in a few words that fit on the line of its flag.
        low, high, above, below: bounds of a number; the first two are allowed values themselves.
        choices: the values a text can have.
        resume: whether a resumed run may change it. A setting is fixed unless it says otherwise, so that a forgotten
            rule refuses a change instead of continuing a different run.
        flag: whether `train` has a flag of this name. Without one it can still be set with --set and in recipes.
        metavar: the value's name in --help; by default N, X or NAME, by type.
    """
    declared = Setting(
        help=help,
        low=low,
        high=high,
        above=above,
        below=below,
        choices=choices,
        resume=resume,
        flag=flag,
        metavar=metavar,
    )
    return field(default=default, metadata={_KEY: declared})


@cache
def settings_of(config: type) -> dict[str, Setting]:
    """Return the settings of a config dataclass by name, in order."""
    return {f.name: f.metadata[_KEY] for f in fields(config) if _KEY in f.metadata}


@cache
def types_of(config: type) -> dict[str, tuple[type, ...]]:
    """Return the types that each field allows: (int,) of `int`, (int, NoneType) of `int | None`."""
    hints = typing.get_type_hints(config)
    return {name: typing.get_args(hint) or (hint,) for name, hint in hints.items()}


def metavar_of(config: type, name: str) -> str:
    """Return the placeholder of a setting's value in help: its metavar, or N, X or NAME, by type."""
    kind = next(kind for kind in types_of(config)[name] if kind is not NoneType)
    return settings_of(config)[name].metavar or {int: "N", float: "X"}.get(kind, "NAME")


def check_settings(config: object) -> None:
    """Raise ConfigError for the first setting whose value is out of its bounds, choices or type."""
    kind: Any = type(config)
    for name, declared in settings_of(kind).items():
        value, types = getattr(config, name), types_of(kind)[name]
        if value is None and NoneType in types:
            continue
        if declared.choices:
            check_choice(name, value, declared.choices)
        elif bool in types:
            if not isinstance(value, bool):
                raise wrong_type(name, value, "true or false")
        elif int in types or float in types:
            check_range(
                name,
                value,
                low=declared.low,
                high=declared.high,
                above=declared.above,
                below=declared.below,
                integer=float not in types,
            )
