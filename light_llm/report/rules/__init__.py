"""Rules that judge a run. `judge` applies the tuple `RULES` of every module here; no other list names them.

The evidence for a threshold stands above it in a comment. "Default runs" are nano and micro with the default settings
on Shakespeare and tales, as in bands.json; "nano on tales" is one such run, read up to step 137. docs/log.md, "see
the mathematics", reports what was tried. A threshold that no experiment supports is called a rule of thumb.
"""

import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import takewhile

from ..run_log import RunLog

LEVELS = ("bad", "watch", "good", "info")  # worst first


@dataclass(frozen=True)
class Finding:
    """The result of a rule."""

    level: str
    message: str  # one sentence; of a note it ends with "since step N", unless the step is named in it
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


def last_since(steps: Sequence[int], flags: Sequence[bool]) -> int | None:
    """Return the first step of the unbroken stretch of true flags at the end; None if the last flag is false.

    >>> last_since([10, 20, 30, 40], [True, False, True, True]), last_since([10], [False])
    (30, None)
    """
    n = sum(1 for _ in takewhile(bool, reversed(flags)))
    return steps[-n] if n else None


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
        notes += [_note(finding, rule) for finding in findings]
    return sorted(notes, key=lambda note: LEVELS.index(note.level))


def _note(finding: Finding, rule: Rule) -> HealthNote:
    message, step = finding.message, finding.since
    # Not after "step 1": that is from the start.
    if step is not None and step > 1 and f"step {step:,}" not in message:
        message = f"{message.removesuffix('.')}, since step {step:,}."
    return HealthNote(finding.level, message, finding.advice, step, rule=rule.name, figure=rule.figure)
