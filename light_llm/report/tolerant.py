"""Values out of files that somebody may have edited: what is not of the kind that was asked for is missing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Number = float | None
Numbers = tuple[Number, ...]
Grid = tuple[Numbers, ...]


def finite(value: Any) -> Number:
    """A finite number, or None for anything else.

    >>> finite(2), finite(float("nan")), finite("2"), finite(True)
    (2.0, None, None, None)
    """
    if type(value) is float:  # nearly all, of millions
        return value if math.isfinite(value) else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        return float(value) if is_number and math.isfinite(value) else None
    except OverflowError:  # a whole number that no float comes near
        return None


def whole(value: Any) -> int | None:
    """A whole number from 0 that a float can hold, or None for anything else."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if is_whole else None


def numbers(value: Any) -> Numbers:
    """A list of numbers; None in the places of what is none. Anything but a list is empty."""
    return tuple(finite(v) for v in value) if isinstance(value, (list, tuple)) else ()


def grid(value: Any) -> Grid:
    """A list of lists of numbers."""
    return tuple(numbers(row) for row in value) if isinstance(value, (list, tuple)) else ()


def mapping(value: Any) -> Mapping[str, Any]:
    """An object of JSON; anything else is empty."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; anything else in it is left out."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, (list, tuple)) else []


def text(value: Any) -> str:
    """A text; anything else is empty."""
    return value if isinstance(value, str) else ""


def known(values: Sequence[Number]) -> list[float]:
    """The numbers that are there."""
    return [v for v in values if v is not None]
