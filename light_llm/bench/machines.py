"""The machines that were measured with `light-llm bench` itself: `machines.json`, a list of results of --json."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from ..errors import DataError
from ..plain import parsed
from .result import Result, result_of

FILE = "machines.json"


def shipped_machines() -> tuple[Result, ...]:
    """The machines that come with this version. Raises DataError where the package's own file is damaged."""
    data = resources.files(__package__).joinpath(FILE).read_bytes()
    try:
        contents = parsed(data)
    except ValueError as error:
        raise DataError(f"{FILE} of this installation is damaged ({error}); install light-llm again") from None
    return machines_of(contents)


def machines_of(contents: Sequence[Any]) -> tuple[Result, ...]:
    """A list of contents of files of --json, each checked. Raises DataError for one that is none."""
    if not isinstance(contents, list):
        raise DataError(f"{FILE} of this installation is no list; install light-llm again")
    return tuple(result_of(values, f"entry {n} of {FILE}") for n, values in enumerate(contents, 1))
