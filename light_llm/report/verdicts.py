"""Verdicts in words: what a run shows, whether that is healthy, what to try. The table is all the rules there are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .rules import collapse, gradients, held_out, inside, loss, machine, trend
from .rules.finding import LEVELS, Finding
from .view import View


@dataclass(frozen=True)
class Rule:
    """One thing to look for. `function` is pure; it gives a finding, several, or None where there is nothing to say.

    A rule is silent once one of those named in `unless`, which stand earlier in the table, has found something to
    watch, or bad: that is the cause.
    """

    name: str
    picture: str  # id of the figure it is about
    function: Callable[[View], Finding | Iterable[Finding] | None]
    unless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a rule found."""

    rule: str
    picture: str
    level: str  # bad, watch, good, info
    what: str  # a sentence
    advice: str  # a sentence; empty where there is nothing to do
    since: int | None  # the step from which it shows


RULES = (
    Rule("collapse", "loss", collapse.collapsed),
    Rule("not finite", "loss", loss.nonfinite),
    Rule("memorising", "gap", held_out.memorising, unless=("collapse",)),
    Rule("below the limit", "loss", held_out.below_limit),
    Rule("exploding gradients", "grad_norm", gradients.exploding),
    Rule("vanishing gradients", "grad_groups", gradients.vanishing),
    Rule("attention", "entropy", inside.attention_alarms),
    Rule("widening gap", "gap", held_out.widening, unless=("collapse", "memorising")),
    Rule("worse than its best", "gap", held_out.worse_than_best, unless=("collapse", "memorising")),
    Rule("hardly learning", "loss", trend.slow, unless=("collapse",)),
    Rule("spikes", "loss", loss.spikes),
    Rule("update ratios", "update_ratios", gradients.update_ratios),
    Rule("clipping", "grad_norm", gradients.clipping),
    Rule("learning rate", "lr", machine.rate),
    Rule("expected band", "loss", held_out.expected),
    Rule("generalising", "gap", held_out.generalising, unless=("collapse", "memorising", "widening gap")),
    Rule("trend", "loss", trend.going, unless=("collapse", "memorising", "widening gap", "worse than its best")),
    Rule("limit", "loss", held_out.near_limit, unless=("below the limit",)),
    Rule("context", "position", inside.context),
    Rule("dead units", "dead", inside.dead_units, unless=("collapse",)),
    Rule("rank", "rank", inside.rank, unless=("collapse",)),
    Rule("outliers", "largest", inside.outliers),
    Rule("confidence", "calibration", inside.confidence),
    Rule("induction", "induction", inside.induction),
    Rule("data", "phases", machine.waiting),
    Rule("use of the machine", "mfu", machine.use),
    Rule("speed", "speed", machine.steady),
    Rule("sharpness", "sharpness", machine.sharpness),
    Rule("noise", "noise", machine.noise),
)


def judge(view: View, rules: Iterable[Rule] = RULES) -> list[Verdict]:
    """All verdicts on a run, the worst first."""
    found: list[Verdict] = []
    for rule in rules:
        if not any(v.rule in rule.unless and v.level in ("bad", "watch") for v in found):
            findings = _as_findings(rule.function(view))
            found += [Verdict(rule.name, rule.picture, f.level, f.what, f.advice, f.since) for f in findings]
    return sorted(found, key=lambda v: LEVELS.index(v.level))


def _as_findings(result: Finding | Iterable[Finding] | None) -> list[Finding]:
    return [] if result is None else [result] if isinstance(result, Finding) else list(result)
