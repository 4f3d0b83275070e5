"""Rules that judge a run. `judge` applies the tuple `RULES` of every module here; no other list names them.

The evidence for a threshold stands above it in a comment. "Default runs" are nano and micro with the default settings
on Shakespeare and tales, as in bands.json; "nano on tales" is one such run, read up to step 137. docs/log.md, "see
the mathematics", reports what was tried. A threshold that no experiment supports is called a rule of thumb.
"""

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

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
    named in `unless`, which have a lower `order`, has a finding of level watch or bad: that is the cause.
    """

    name: str
    figure: str  # id of the figure beside which findings are shown
    check: Callable[[RunLog], Finding | Iterable[Finding] | None]
    unless: tuple[str, ...] = ()
    order: int = 1000  # findings of the same level are listed in this order


@dataclass(frozen=True, kw_only=True)
class HealthNote(Finding):
    """A finding and the rule that made it."""

    rule: str
    figure: str  # id of the figure beside which it is shown


@cache
def find_rules() -> tuple[Rule, ...]:
    """Return the `RULES` of every module in this package, in order."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted((rule for module in modules for rule in module.RULES), key=lambda rule: rule.order))


def judge(log: RunLog) -> list[HealthNote]:
    """Return the notes on a run, the worst first."""
    notes: list[HealthNote] = []
    for rule in find_rules():
        if any(note.rule in rule.unless and note.level in ("bad", "watch") for note in notes):
            continue
        result = rule.check(log)
        findings = [result] if isinstance(result, Finding) else list(result or ())
        notes += [HealthNote(**vars(f), rule=rule.name, figure=rule.figure) for f in findings]
    return sorted(notes, key=lambda note: LEVELS.index(note.level))
