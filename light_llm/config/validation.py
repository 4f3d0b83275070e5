"""Checks and conversions shared by the configs: the messages a wrong value gets are written here, once."""

import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar

from ..errors import ConfigError, did_you_mean

Config = TypeVar("Config")
MAX_SEED = (1 << 63) - 1
LONGEST_SHOWN = 80  # characters of a value in a message
_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "nothing",
    list: "a list",
    dict: "a table",
}


def repr_short(value: Any) -> str:
    """A value as Python writes it, for a message: cut where it is long.

    >>> repr_short("top"), repr_short(10**9), len(repr_short("a" * 10**6))
    ("'top'", '1000000000', 80)
    >>> repr_short(10**5000)
    'a number of thousands of digits'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write numbers of thousands of digits
        return "a number of thousands of digits" if isinstance(value, int) else "something without end"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def check_range(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    integer: bool = False,
) -> None:
    """Raise ConfigError unless value is a finite number with low <= value <= high and above < value < below."""
    wanted = "a whole number" if integer else "a number"
    limits = [
        f"{word} {bound:g}"
        for word, bound in (("at least", low), ("at most", high), ("above", above), ("below", below))
        if math.isfinite(bound)
    ]
    wanted = " ".join([wanted, " and ".join(limits)]).strip()
    kind_fits = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not kind_fits or not _is_finite(value) or not (low <= value <= high and above < value < below):
        raise ConfigError(f"{name}={repr_short(value)} cannot be used; it must be {wanted}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float comes near
        return False


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ConfigError, naming the nearest choice, unless value is one of them."""
    choices = list(choices)
    if value not in choices:
        near = did_you_mean(value if isinstance(value, str) else repr_short(value), choices)
        raise ConfigError(f"{name}={repr_short(value)} is not known{near} It can be {', '.join(choices)}")


def from_dict(kind: type[Config], values: Mapping[str, Any], *, what: str) -> Config:
    """Build a config dataclass from plain values; an unknown key or a wrong type is a ConfigError.

    Whole numbers are taken where a float is wanted; nothing else is converted.
    """
    assert is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(_no_such_setting(what, key, known))
        if not _fits(value, hints[key]):
            raise wrong_type(f"{what}.{key}", value, _spell(hints[key]))
    return typing.cast(Config, kind(**values))


def wrong_type(name: str, value: Any, expected: str) -> ConfigError:
    """The error for a value of the wrong type: what was expected, and what was found."""
    return ConfigError(f"{name}={repr_short(value)} has the wrong type; expected {expected}, found {_kind_of(value)}")


def parse_as(kind: type, key: str, text: str, *, what: str) -> Any:
    """Read the text of `--set what.key=text` as the type that field has.

    Raises:
        ConfigError: an unknown key, or text that is not of the field's type.
    """
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise ConfigError(_no_such_setting(what, key, hints))
    options = typing.get_args(hints[key]) or (hints[key],)
    if NoneType in options and text.lower() in ("none", ""):
        return None
    for option in options:
        try:
            if option is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if option in (int, float, str):
                return option(text)
        except ValueError:
            continue
    raise ConfigError(f"{what}.{key}={text} has the wrong type; expected {_spell(hints[key])}")


def _no_such_setting(what: str, key: str, known: Iterable[str]) -> str:
    near = did_you_mean(key, known)
    return f"there is no {what} setting {repr_short(key)}{near}" + (
        f" There are {', '.join(known)}" if near == "." else ""
    )


def _fits(value: Any, hint: Any) -> bool:
    options = typing.get_args(hint) or (hint,)
    if isinstance(value, bool):
        return bool in options
    if isinstance(value, int):
        return int in options or float in options
    return any(isinstance(value, option) for option in options)


def _spell(hint: Any) -> str:
    return " or ".join(_NAMES.get(option, str(option)) for option in typing.get_args(hint) or (hint,))


def _kind_of(value: Any) -> str:
    """What a value is, in words: anything that TOML or JSON can say."""
    if isinstance(value, float):
        return "a decimal number"
    return _NAMES.get(type(value), "a date or time")
