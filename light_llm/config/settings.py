"""Declare a setting once: its default, bounds, help, flag and resume rule are one dataclass field.

The rest is derived from the field: the checks when a config is made, the flags of the command line, what a resumed run
may change, and the command that repeats a run.
"""

import math
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar

from .validation import as_plain, check_choice, check_range, expected_number, types_of, wrong_type

Value = TypeVar("Value")
Kind = TypeVar("Kind", bound=type)
_KEY = "setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The declaration of one field of a config: a number within bounds, a choice, true or false, or text."""

    help: str  # its effect, in one sentence without a full stop
    short: str = ""  # the help of its flag, where `help` is too long for one line
    # Bounds of a number; the first two are allowed values themselves.
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()  # the values that a text can have
    # Whether a resumed run may change it; by_hash: a text may move, and is recognised by its hash. A setting is fixed
    # unless it says otherwise, so that a forgotten rule refuses a change instead of continuing a different run.
    resume: Literal["fixed", "free", "by_hash"] = "fixed"
    flag: bool = False  # of `train`. Without one it can still be set with --set and in recipes.
    metavar: str = ""  # the value's name in --help; by default N, X or NAME, by type

    @property
    def flag_help(self) -> str:
        """Return the help of the flag, with the choices."""
        text = self.short or self.help
        return f"{text}: {'|'.join(self.choices)}" if self.choices else text


def setting(default: Value, help: str, **rules: Any) -> Value:
    """Declare a field of a config dataclass, as in `lr: float = setting(1.5e-3, "peak learning rate", above=0)`.

    Args:
        rules: the other fields of `Setting`.
    """
    return field(default=default, metadata={_KEY: Setting(help=help, **rules)})


@cache
def settings_of(config: type) -> dict[str, Setting]:
    """Return the settings of a config dataclass by name, in order."""
    return {f.name: f.metadata[_KEY] for f in fields(config) if _KEY in f.metadata}


def metavar_of(config: type, name: str) -> str:
    """Return the placeholder of a setting's value in help: its metavar, or N, X or NAME, by type."""
    kind = next(kind for kind in types_of(config)[name] if kind is not NoneType)
    return settings_of(config)[name].metavar or {int: "N", float: "X"}.get(kind, "NAME")


def values_of(config: type, name: str) -> str:
    """Return which values a setting takes, in words: "a whole number at least 1", "cosine or wsd"; "" for any text."""
    declared, types = settings_of(config)[name], types_of(config)[name]
    if declared.choices:
        return " or ".join(filter(None, [", ".join(declared.choices[:-1]), declared.choices[-1]]))
    if bool in types:
        return "true or false"
    if not {int, float} & set(types):
        return ""
    return expected_number(**_bounds(declared), integer=float not in types) + ", or none" * (NoneType in types)


def default_of(config: type, name: str) -> str:
    """Return the default of a setting as it is written in a recipe or after --set: `0.0015`, `false`, `none`."""
    default = next(f.default for f in fields(config) if f.name == name)
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def describe_settings(config: Kind) -> Kind:
    """Add each setting of a config dataclass to its docstring, for `help()` and editors."""
    kind: Any = config
    lines = []
    for name, declared in settings_of(kind).items():
        facts = ", ".join(filter(None, (values_of(kind, name), f"default {default_of(kind, name)}")))
        lines.append(f"        {name}: {declared.help} ({facts}).")
    kind.__doc__ = "\n".join([str(kind.__doc__).rstrip(), "", "    Settings:", *lines, "    "])
    return config


def _bounds(declared: Setting) -> dict[str, float]:
    return {bound: getattr(declared, bound) for bound in ("low", "high", "above", "below")}


def check_settings(config: object) -> None:
    """Convert the settings to Python's own numbers and texts (`as_plain`).

    Raises:
        ConfigError: for the first setting whose value is out of its bounds, choices or type.
    """
    kind: Any = type(config)
    for name, declared in settings_of(kind).items():
        given, types = getattr(config, name), types_of(kind)[name]
        value = as_plain(given)
        if value is not given:
            object.__setattr__(config, name, value)
        if value is None and NoneType in types:
            continue
        if declared.choices:
            check_choice(name, value, declared.choices)
        elif bool in types:
            if not isinstance(value, bool):
                raise wrong_type(name, value, "true or false")
        elif int in types or float in types:
            check_range(name, value, **_bounds(declared), integer=float not in types)
        elif not isinstance(value, str):
            raise wrong_type(name, value, "text")
