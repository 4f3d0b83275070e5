"""Convert JSON values of unknown origin: a value of another type counts as missing, and so do NaN and infinity."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Number = float | None  # None: missing, or not finite
Numbers = tuple[Number, ...]
Grid = tuple[Numbers, ...]

# From 2^53 on, a float no longer holds every integer.
MAX_INT = 1 << 53


def as_number(value: Any) -> Number:
    """Return a finite float, or None for anything else.

    >>> as_number(2), as_number(float("nan")), as_number("2"), as_number(True)
    (2.0, None, None, None)
    """
    # Almost every value is a float, and a long run has millions of them.
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_int(value: Any) -> int | None:
    """Return an integer from 0 to 2^53 - 1, or None for anything else."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return value if is_int and 0 <= value < MAX_INT else None


def as_numbers(value: Any) -> Numbers:
    """Return a tuple of numbers with None for other elements; () for anything but a list."""
    return tuple(as_number(v) for v in value) if isinstance(value, (list, tuple)) else ()


def as_grid(value: Any) -> Grid:
    """Return a tuple of tuples of numbers; () for anything but a list."""
    return tuple(as_numbers(row) for row in value) if isinstance(value, (list, tuple)) else ()


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; {} for anything else."""
    return value if isinstance(value, dict) else {}


def as_objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects of a list; [] for anything but a list."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, (list, tuple)) else []


def as_text(value: Any) -> str:
    """Return a string; "" for anything else."""
    return value if isinstance(value, str) else ""


def drop_none(values: Sequence[Number]) -> list[float]:
    """Return the numbers without the missing ones."""
    return [v for v in values if v is not None]


def mean_of(values: Sequence[Number]) -> Number:
    """Return the mean of the numbers that are not missing; None if all are.

    >>> mean_of([1.0, None, 2.0]), mean_of([None])
    (1.5, None)
    """
    numbers = drop_none(values)
    # Divide first: the sum of two large floats can overflow.
    return math.fsum(v / len(numbers) for v in numbers) if numbers else None
