"""Check and convert the values of settings. The messages for a wrong value are written here, once."""

import math
import numbers
import os
import sys
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType
from typing import Any, TypeVar

from ..errors import ConfigError, did_you_mean

Config = TypeVar("Config")
MAX_SEED = (1 << 63) - 1
DEFAULT_SEED = 1337  # of the weights, dropout and order, on the command line and in Python
MAX_REPR_LENGTH = 80  # characters of a value in a message
_TYPE_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "nothing",
    list: "a list",
    dict: "a table",
}


def repr_short(value: Any) -> str:
    """Return the repr of a value for a message, truncated if it is long.

    >>> repr_short("top"), repr_short(10**9), len(repr_short("a" * 10**6))
    ("'top'", '1000000000', 80)
    >>> repr_short(10**5000)
    'a number with thousands of digits'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Python refuses to print numbers with thousands of digits.
        return "a number with thousands of digits" if isinstance(value, int) else "a value nested too deeply"
    return text if len(text) <= MAX_REPR_LENGTH else f"{text[: MAX_REPR_LENGTH - 3]}..."


def as_plain(value: Any) -> Any:
    """Return a number of NumPy or torch, a path, or a device or dtype of torch as an int, float, bool or str.

    >>> from fractions import Fraction
    >>> from pathlib import Path
    >>> as_plain(Fraction(1, 2)), as_plain(Path("my.txt")), as_plain([1])
    (0.5, 'my.txt', [1])
    """
    if type(value) in (int, float, bool, str, NoneType):
        return value
    # An array or tensor without dimensions. NumPy and torch are not imported here.
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if type(value).__module__ == "torch" and type(value).__name__ in ("device", "dtype"):
        return str(value).removeprefix("torch.")
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def whole_number(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf) -> int:
    """Return a value as an int. Raises ConfigError unless it is a whole number with low <= value <= high."""
    number = as_plain(value)
    check_range(name, number, low=low, high=high, integer=True)
    return int(number)


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
    expected = expected_number(low=low, high=high, above=above, below=below, integer=integer)
    if isinstance(value, float) and not math.isfinite(value) and not integer:
        expected = expected.replace("a number", "a finite number", 1)
    type_fits = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    # Not math.isfinite, which raises OverflowError for a whole number beyond the range of a float.
    is_finite = type_fits and abs(value) <= sys.float_info.max
    if not is_finite or not (low <= value <= high and above < value < below):
        raise ConfigError(f"{name}={repr_short(value)} cannot be used; it must be {expected}")


def expected_number(*, low: float, high: float, above: float, below: float, integer: bool) -> str:
    """Return a number's type and bounds in words: "a whole number at least 1"."""
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    limits = " and ".join(
        f"{word} {bound if isinstance(bound, int) else format(bound, 'g')}"
        for word, bound in bounds.items()
        if math.isfinite(bound)
    )
    return f"{'a whole number' if integer else 'a number'} {limits}".rstrip()


def divisors(n: int) -> str:
    """Return the divisors of a number for a message: "1, 2, 4, 8" of 8."""
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ConfigError, with the most similar choice, unless value is one of them."""
    choices = list(choices)
    if value not in choices:
        near = did_you_mean(value if isinstance(value, str) else repr_short(value), choices)
        raise ConfigError(f"{name}={repr_short(value)} is not known{near} It can be {', '.join(choices)}")


@cache
def types_of(config: type) -> dict[str, tuple[type, ...]]:
    """Return the types that each field of a dataclass allows: (int,) of `int`, (int, NoneType) of `int | None`."""
    return {name: typing.get_args(hint) or (hint,) for name, hint in typing.get_type_hints(config).items()}


def from_dict(kind: type[Config], values: Mapping[str, Any], *, what: str) -> Config:
    """Return a config dataclass with plain values. Raises ConfigError for an unknown key or a wrong type.

    A whole number is accepted for a float; otherwise only what `as_plain` converts.
    """
    types = types_of(typing.cast("type", kind))
    for key, given in values.items():
        value = as_plain(given)
        if key not in types:
            raise ConfigError(_no_such_setting(what, key, types))
        if not _fits(value, types[key]):
            raise wrong_type(f"{what}.{key}", value, _type_names(types[key]))
    return kind(**values)


def wrong_type(name: str, value: Any, expected: str) -> ConfigError:
    """Return the error for a value of the wrong type, with the expected and the actual type."""
    return ConfigError(f"{name}={repr_short(value)} has the wrong type; expected {expected}, found {_type_name(value)}")


def parse_as(kind: type, key: str, text: str, *, what: str) -> Any:
    """Return the text of `--set what.key=text` as the type of that field.

    Raises:
        ConfigError: an unknown key, or text that is not of that type.
    """
    types = types_of(kind)
    if key not in types:
        raise ConfigError(_no_such_setting(what, key, types))
    if not text and str not in types[key] and NoneType not in types[key]:
        raise ConfigError(f"{what}.{key}= has no value; write {_type_names(types[key])} after the equals sign")
    if NoneType in types[key] and text.lower() in ("none", ""):
        return None
    for option in types[key]:
        try:
            if option is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if option in (int, float, str):
                return option(text)
        except ValueError:
            continue
    raise ConfigError(f"{what}.{key}={text} has the wrong type; expected {_type_names(types[key])}")


def _no_such_setting(what: str, key: str, known: Iterable[str]) -> str:
    # Imported here, because the aliases are about the settings of all parts, which are declared with this module.
    from .aliases import ALIASES

    part, _, name = ALIASES.get(key.lower().replace("-", "_"), "").partition(".")
    near = f"; here it is {part}.{name}." if name else did_you_mean(key, known)
    return f"there is no {what} setting {repr_short(key)}{near} `light-llm settings` lists all"


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    # A bool is an int in Python, but true is no whole number here.
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (isinstance(value, int) and float in types)


def _type_names(types: tuple[type, ...]) -> str:
    return " or ".join(_TYPE_NAMES.get(kind, str(kind)) for kind in types)


def _type_name(value: Any) -> str:
    """Return the type of a value from TOML, JSON or Python, in words."""
    if isinstance(value, float):
        return "a decimal number"
    if type(value).__module__ == "datetime":
        return "a date or time"
    return _TYPE_NAMES.get(type(value), f"an object of type {type(value).__name__}")
