"""Bugs that a test has to notice: `tests/deliberate_bugs.py` tries them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """An edit, and the test files that are asked."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str
