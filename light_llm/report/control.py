"""What a page may ask of a run: to stop, or to save. Only with a key that no other page and no other user knows."""

import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LightLLMError

Control = Callable[[Path, str], str]
"""Does what is asked ("stop" or "save") of the run in a folder: a sentence of what comes next.

Raises LightLLMError where it cannot.
"""
PROMISES = {"stop": "{} finishes its step, saves and stops", "save": "{} is saved after this step"}  # by what is asked


@dataclass(frozen=True)
class Desk:
    """Where wishes are handed in."""

    control: Control
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @classmethod
    def of(cls, control: Control | None) -> "Desk | None":
        """With a new key; none where nothing may be asked."""
        return None if control is None else cls(control)

    @property
    def query(self) -> str:
        """The end of the address under which the page has buttons."""
        return f"?key={self.key}"

    def knows(self, key: str | None) -> bool:
        """Whether a key is the right one, in the same time for every wrong one."""
        return hmac.compare_digest((key or "").encode(), self.key.encode())


def control_of(stop: Callable[[], object], save: Callable[[], object]) -> Control:
    """A run of this process, by its trainer's `request_stop` and `request_save`."""

    def control(folder: Path, what: str) -> str:
        (stop if what == "stop" else save)()
        return PROMISES[what].format(folder)

    return control


def asked(control: Control, folders: Sequence[Path], body: bytes) -> tuple[int, str]:
    """Do what a request's body asks: the HTTP status, and a sentence.

    >>> asked(lambda folder, what: f"{what}: {folder}", [Path("a"), Path("b")], b'{"run": 1, "do": "save"}')
    (200, 'save: b')
    >>> asked(lambda folder, what: "", [], b'{"run": 0, "do": "dance"}')
    (400, 'a run can be asked to stop or to save')
    """
    try:
        wish: Any = json.loads(body)
    except (ValueError, RecursionError):
        return 400, "this is no JSON"
    if not isinstance(wish, dict) or wish.get("do") not in tuple(PROMISES):
        return 400, "a run can be asked to stop or to save"
    run = wish.get("run")
    if not isinstance(run, int) or isinstance(run, bool) or not 0 <= run < len(folders):
        return 400, f"there is no run {run!r} on this page"
    try:
        return 200, control(folders[run], wish["do"])
    except LightLLMError as error:
        return 409, str(error)
