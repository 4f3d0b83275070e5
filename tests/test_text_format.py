"""Sizes, durations, counts and numbers for people; the docstrings have the ordinary values."""

import pytest

from light_llm.text_format import format_bytes, format_count, format_duration, format_number


def test_a_negative_duration_is_zero() -> None:
    assert format_duration(-5.0) == format_duration(-75.0) == "0 s"


@pytest.mark.parametrize(
    ("format_value", "below", "value", "text"),
    [
        (format_bytes, "999 kB", 999_500, "1.00 MB"),
        (format_count, "999k", 999_500, "1.00M"),
        (format_number, "999", 999.5, "1,000"),
        (format_duration, "59.9 s", 59.95, "1 min 00 s"),
        (format_duration, "59 min 59 s", 3599.5, "1 h 00 min"),
    ],
)
def test_rounding_carries_into_the_next_unit(format_value, below: str, value: float, text: str) -> None:  # type: ignore[no-untyped-def]
    assert format_value(value) == text
    assert format_value(0.9999 * value) == below
