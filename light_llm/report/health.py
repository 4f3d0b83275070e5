"""Judge a run by every rule in `report/rules`."""

import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from . import rules
from .rules.rule import LEVELS, Finding, Rule
from .run_log import RunLog


@dataclass(frozen=True)
class HealthNote:
    """A finding and the rule that made it."""

    rule: str
    figure: str  # id of the figure beside which it is shown
    level: str  # bad, watch, good, info
    message: str  # one sentence
    advice: str  # one sentence; empty if there is nothing to do
    since: int | None  # the step from which it shows


@cache
def find_rules() -> tuple[Rule, ...]:
    """Return the `RULES` of every module in `report/rules`, in order."""
    modules = [import_module(f"{rules.__name__}.{module.name}") for module in pkgutil.iter_modules(rules.__path__)]
    collected = [rule for module in modules for rule in getattr(module, "RULES", ())]
    return tuple(sorted(collected, key=lambda rule: rule.order))


def judge(log: RunLog) -> list[HealthNote]:
    """Return the notes on a run, the worst first."""
    notes: list[HealthNote] = []
    for rule in find_rules():
        if any(note.rule in rule.unless and note.level in ("bad", "watch") for note in notes):
            continue
        result = rule.check(log)
        findings = [result] if isinstance(result, Finding) else list(result or ())
        notes += [HealthNote(rule.name, rule.figure, f.level, f.message, f.advice, f.since) for f in findings]
    return sorted(notes, key=lambda note: LEVELS.index(note.level))
