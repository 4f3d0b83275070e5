"""The parts of a rule: what it looks for, and what it found."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..run_log import RunLog

LEVELS = ("bad", "watch", "good", "info")  # worst first


@dataclass(frozen=True)
class Finding:
    """The result of a rule."""

    level: str
    message: str  # one sentence
    advice: str = ""  # one sentence; empty if there is nothing to do
    since: int | None = None  # the step from which it shows


@dataclass(frozen=True)
class Rule:
    """A property to look for in a run.

    `check` is a pure function that returns one finding, several, or None. The rule is skipped if one of the rules
    named in `unless`, which have a lower `order`, has found something to watch or bad: that one is the cause.
    """

    name: str
    figure: str  # id of the figure beside which findings are shown
    check: Callable[[RunLog], Finding | Iterable[Finding] | None]
    unless: tuple[str, ...] = ()
    order: int = 1000  # findings of the same level are listed in this order
