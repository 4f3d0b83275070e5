"""Each rule on a run in which its verdict is true, and on runs in which the opposite is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from light_llm.report import RunLog, judge, read_run_log
from light_llm.report.rules import find_rules
from tests.report.verdict_cases import CASES, Case, noisy, outlier
from tests.support.made_up_run import learning, made_up_run


@pytest.mark.parametrize("case", CASES, ids=[f"{case.rule}: {case.name}" for case in CASES])
def test_a_verdict_says_what_the_run_shows(tmp_path: Path, case: Case) -> None:
    log = replace(read_run_log(made_up_run(tmp_path, **case.options)), **case.log)
    note = next((note for note in judge(log) if note.rule == case.rule), None)
    assert (note.level if note else None) == case.level, note
    text = f"{note.message} {note.advice}" if note else ""
    assert all(word in text for word in case.words), (case.words, text)


def test_every_rule_is_tried_on_a_run_in_which_the_opposite_is_true() -> None:
    levels = {rule.name: {case.level for case in CASES if case.rule == rule.name} for rule in find_rules()}
    assert len(levels) >= 29 and {case.rule for case in CASES} == levels.keys()
    assert {name for name, seen in levels.items() if len(seen) < 2} == set()


def missing_probes(row: dict[str, Any]) -> None:
    for name in ("attention", "stream", "dead_units", "predictions", "induction", "alarms"):
        if row["kind"] == "probe":
            row.pop(name)


ODD_RUNS: dict[str, dict[str, Any]] = {
    "three steps": {"steps": 3},
    "one step": {"steps": 1},
    "no step": {"steps": 0},
    "no probe": {"probed": False},
    "empty probes": {"change": missing_probes},
    "a segment without numbers": {"loss": lambda s: None if 60 <= s < 100 else learning(s)},
    "nothing but missing losses": {"loss": lambda s: None, "held": lambda s: None},
    "noisy": {"loss": noisy},
    "one outlier": {"loss": outlier},
}


@pytest.mark.parametrize("name", ODD_RUNS)
def test_an_odd_run_gets_no_verdict_of_what_it_lacks(tmp_path: Path, name: str) -> None:
    log: RunLog = read_run_log(made_up_run(tmp_path, **ODD_RUNS[name]))
    notes = judge(log)
    expected = {"a segment without numbers": {"not finite"}, "nothing but missing losses": {"not finite"}}
    alarmed = {note.rule for note in notes if note.level in ("bad", "watch")}
    assert alarmed == expected.get(name, {"spikes"} if name == "one outlier" else set()), notes
    assert not any("nan" in note.message or "inf " in note.message for note in notes)
