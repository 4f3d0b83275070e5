"""Every rule on a curve made for it, and nothing bad of a healthy run."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from light_llm.report import HealthNote, RunLog, judge, read_run_log
from light_llm.report.curves import Band, BandPoint
from light_llm.report.figures import run_sections
from light_llm.report.rules import find_rules
from tests.support.made_up_run import ANALYSIS, RUN, V, learning, made_up_run, memorised, turning, wobble

UNIFORM = math.log(V)
Change = Callable[[dict[str, Any]], object]


def read(folder: Path, **options: Any) -> RunLog:
    return read_run_log(made_up_run(folder, **options))


def training(log: RunLog) -> RunLog:
    """The same run while a process trains it."""
    return replace(log, training_since=log.updated)


def find(log: RunLog, rule: str) -> HealthNote | None:
    """The first note of a rule."""
    return next((note for note in judge(log) if note.rule == rule), None)


def get(log: RunLog, rule: str) -> HealthNote:
    note = find(log, rule)
    assert note is not None, f"{rule}: {judge(log)}"
    return note


def first_named(folder: Path, rule: str, **options: Any) -> int:
    """The first step, of every fifth, at which the log so far gets a bad note by a rule; 0 if there is none."""
    for step in range(5, 201, 5):
        note = find(read(folder, steps=step, status=None, **options), rule)
        if note and note.level == "bad":
            return step
    return 0


@pytest.mark.parametrize("steps", [1, 10, 50, 100, 150, 200])
def test_a_healthy_run_is_called_healthy(tmp_path: Path, steps: int) -> None:
    notes = judge(read(tmp_path, steps=steps))
    assert {note.level for note in notes} <= {"good", "info"}, notes
    expected = {"generalising", "trend", "attention", "context", "update ratios", "data"}
    assert steps < 200 or expected <= {note.rule for note in notes}


def test_the_worst_comes_first(tmp_path: Path) -> None:
    levels = [note.level for note in judge(read(tmp_path, loss=lambda s: 3.0 if s < 100 else 6.5))]
    assert levels == sorted(levels, key=["bad", "watch", "good", "info"].index) and levels[0] == "bad"


def test_rules_are_found_with_the_causes_first() -> None:
    """Each has a name of its own, and the rules that silence it come before it."""
    rules = find_rules()
    names = [rule.name for rule in rules]
    assert len(set(names)) == len(names) >= 29
    assert all(names.index(cause) < names.index(rule.name) for rule in rules for cause in rule.unless)


def test_each_rule_is_about_a_figure(tmp_path: Path) -> None:
    log = replace(read(tmp_path), analysis=ANALYSIS)
    drawn = {figure.id for section in run_sections(log, []) for figure in section.figures}
    assert {rule.figure for rule in find_rules()} <= drawn


# --- collapse: the weights are thrown far off, and do not come back


def thrown_off(step: int) -> float:
    """Learns for 80 steps, then rises to log V within ten, and stays."""
    return learning(step) if step < 80 else min(UNIFORM, learning(80) + 0.2 * (step - 80)) + 0.05 * wobble(step)


def test_a_collapse_is_named_within_fifty_steps(tmp_path: Path) -> None:
    run = {"loss": thrown_off, "held": lambda s: 6.0}
    assert 80 < first_named(tmp_path, "collapse", **run) <= 80 + 50
    note = get(read(tmp_path / "whole", **run), "collapse")
    assert "near log V" in note.message and "--lr 0.00015" in note.advice
    assert note.since is not None and 80 <= note.since <= 95


def stuck(step: int) -> float:
    """Falls to the frequencies of tokens in 40 steps, and no further."""
    return max(0.83 * UNIFORM, UNIFORM - 0.03 * step) + 0.03 * wobble(step)


def test_a_loss_that_stands_at_the_frequencies_has_collapsed(tmp_path: Path) -> None:
    def faded(row: dict[str, Any]) -> None:
        if row["kind"] == "step":
            row["grad_norm"] = 5.0 if row["step"] < 20 else 0.3

    run: dict[str, Any] = {"loss": stuck, "held": lambda s: 0.85 * UNIFORM, "probed": False}
    assert 40 < first_named(tmp_path, "collapse", change=faded, **run) <= 40 + 50
    assert find(read(tmp_path / "pulls", **run), "collapse") is None  # the same curve with large gradients


def one_direction(row: dict[str, Any], largest: float = 5000.0, rank: float = 1.1) -> None:
    if row["kind"] == "probe":
        row["stream"] |= {"effective_rank": [8.0, rank, rank], "largest": [4.0, largest, largest]}


def test_a_stream_of_one_direction_has_collapsed(tmp_path: Path) -> None:
    """A loss that still creeps down hides it; the probes show it."""
    creeps = {"loss": lambda s: 6.0 - 0.008 * s + 0.03 * wobble(s), "held": lambda s: 6.0 - 0.008 * s}
    step = first_named(tmp_path, "collapse", change=one_direction, **creeps)
    assert 0 < step <= 50
    note = get(read(tmp_path / "whole", change=one_direction, **creeps), "collapse")
    assert "blown up (largest activation 5,000" in note.message and note.since == 20
    # Blown up in a few directions is blown up.
    assert first_named(tmp_path, "collapse", change=partial(one_direction, rank=2.5), **creeps) == step
    # Large vocabularies have low rank in their first steps, and come out of it.
    small = partial(one_direction, largest=8.0)
    assert first_named(tmp_path, "collapse", change=small, **creeps) == 120
    assert "one direction left" in get(read(tmp_path / "small", change=small, **creeps), "collapse").message
    # With a low loss: a few large features are usual in trained models.
    learned = read(tmp_path / "learned", change=one_direction, loss=lambda s: 2.0 + 4 / s)
    assert find(learned, "collapse") is None


def test_a_run_that_recovers_has_not_collapsed(tmp_path: Path) -> None:
    log = read(tmp_path, loss=lambda s: learning(s) + (2.0 if 100 <= s < 104 else 0.0))
    assert find(log, "collapse") is None
    assert get(log, "spikes").since == 100 and "once" in get(log, "spikes").message


# --- memorising: training goes on falling, the rest does not


@pytest.mark.parametrize("every", [10, 20, 50])
def test_memorising_is_named_within_fifty_steps(tmp_path: Path, every: int) -> None:
    run = {"loss": memorised, "held": turning, "every": every}
    assert 100 < first_named(tmp_path, "memorising", **run) <= 150
    note = get(read(tmp_path / "over", **run), "memorising")
    assert note.since == 100 and "for 100 steps" in note.message and "0.400" in note.message
    assert note.advice.startswith("Use more text or dropout 0.2; the best model is from step 100")
    longer = RUN.with_settings(train__max_steps=400)
    note = get(training(read(tmp_path / "training", run=longer, status=None, **run)), "memorising")
    assert note.advice.startswith("Stop here, or use more text")


def test_a_held_out_loss_that_stands_while_training_falls_is_memorising(tmp_path: Path) -> None:
    log = read(tmp_path, loss=memorised, held=lambda s: turning(min(s, 100)) + 0.003 * wobble(s))
    assert get(log, "memorising").level == "bad"


def test_a_gap_that_widens_is_watched(tmp_path: Path) -> None:
    log = read(tmp_path, loss=memorised, held=lambda s: turning(min(s, 100)) - 0.0015 * max(0, s - 100))
    note = get(log, "widening gap")
    assert note.level == "watch" and "dropout" in note.advice
    assert find(log, "memorising") is None and find(log, "generalising") is None


# --- where the curve goes


def test_a_loss_that_still_falls_wants_more_steps(tmp_path: Path) -> None:
    note = get(read(tmp_path / "over"), "trend")
    assert "still falling" in note.message and "--max-steps 400" in note.advice
    assert not get(training(read(tmp_path / "training", steps=150, status=None)), "trend").advice


def test_a_plateau_is_seen(tmp_path: Path) -> None:
    def level(step: int) -> float:
        return 2.0 + 4 * math.exp(-step / 15)

    log = read(tmp_path, loss=lambda s: level(s) + 0.01 * wobble(s), held=level)
    assert "levelled off" in get(log, "trend").message


def test_learning_that_hardly_begins(tmp_path: Path) -> None:
    log = read(tmp_path, loss=lambda s: UNIFORM - 0.0015 * s, held=lambda s: UNIFORM)
    assert "--lr 0.0075" in get(log, "hardly learning").advice and find(log, "collapse") is None


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    log = read(tmp_path / "ended", steps=90, loss=lambda s: None if s == 90 else 4.0, status="nonfinite")
    assert (get(log, "not finite").level, get(log, "not finite").since) == ("bad", 90)
    skipped = read(tmp_path / "skipped", loss=lambda s: None if s == 90 else learning(s))
    assert (
        get(skipped, "not finite").level == "watch"
        and "at 1 step, first at step 90" in get(skipped, "not finite").message
    )


# --- limits and bands


def at_kind(kind: str, **values: Any) -> Change:
    """A change of each row of a kind: values replaced, or merged if they are dicts."""

    def change(row: dict[str, Any]) -> None:
        if row["kind"] == kind:
            for name, value in values.items():
                row[name] = {**row[name], **value} if isinstance(value, dict) else value

    return change


@pytest.mark.parametrize(
    ("above", "is_bug"),
    [(0.2, False), (-0.2, True), (-0.02, False)],  # the last: within 3 x 0.02 x 0.75, the standard error
)
def test_nothing_is_better_than_the_limit(tmp_path: Path, above: float, is_bug: bool) -> None:
    last = 0.75 * (3.55 + 2.7 * math.exp(-200 / 60))
    log = read(tmp_path, change=at_kind("eval", limit=last - above))
    note = find(log, "below the limit")
    assert (note is not None and note.level == "bad" and "bug" in note.advice) == is_bug
    assert is_bug == (find(log, "limit") is None) and (above < 0.1 or "0.200" in get(log, "limit").message)


@pytest.mark.parametrize(
    ("mean", "level", "word"), [(0.0, "good", "Inside"), (-0.5, "watch", "Outside"), (0.5, "info", "better side")]
)
def test_inside_and_outside_of_the_band(tmp_path: Path, mean: float, level: str, word: str) -> None:
    log = read(tmp_path)
    points = (BandPoint(100, 9.0, 0.1), BandPoint(200, log.evals[-1].loss + mean, 0.1))
    note = get(replace(log, band=Band("tiny/verse", 3, (), points)), "expected band")
    assert (note.level, note.since) == (level, 200) and word in note.message


# --- what single rows show


def late_norms(row: dict[str, Any]) -> None:
    if row["kind"] == "step" and row["step"] > 170:
        row["grad_norm"] = 40.0


def late_speed(row: dict[str, Any]) -> None:
    if row["kind"] == "step":
        row["tok_per_sec"] = 1000 if row["step"] < 150 else 300


ALARMS: list[dict[str, Any]] = [
    {"layer": 1, "head": 0, "what": "one position"},
    {"layer": 0, "head": None, "what": "all heads alike"},
]
THREE_HEADS = [ALARMS[0] | {"head": h} for h in range(3)]
DARK = {"grad_norms": {"h.1.mlp": 1e-6}, "update_ratios": {"h.1.mlp": 1e-6}}
LATE_TOKENS_ARE_HARD = {"loss": [1.0, 1.0, 3.0, 3.0, 3.0]}


@pytest.mark.parametrize(
    ("rule", "level", "words", "change"),
    [
        ("exploding gradients", "bad", "40", late_norms),
        ("vanishing gradients", "bad", "h.1.mlp", at_kind("step", **DARK)),
        ("clipping", "info", "100% of the last 100", at_kind("step", clipped=True)),
        ("clipping", "watch", "5.00", at_kind("step", clipped=True, grad_norm=5.0)),
        ("update ratios", "watch", "h.0.mlp by more than 1%", at_kind("step", update_ratios={"h.0.mlp": 0.02})),
        ("update ratios", "watch", "wte by less than 0.01%", at_kind("step", update_ratios={"wte": 2e-5})),
        ("update ratios", "good", "0.10% to 2.00%", at_kind("step", update_ratios={"wpe": 0.02})),  # a table may
        (
            "attention",
            "bad",
            "head 0 attends to one position only; all heads of layer 0 ",
            at_kind("probe", alarms=ALARMS),
        ),
        (
            "attention",
            "info",
            "few attention heads have collapsed: layer 1, head 0",
            at_kind("probe", alarms=ALARMS[:1]),
        ),
        (
            "attention",
            "info",
            "layer 1, head 0 attends uniformly",
            at_kind("probe", alarms=[ALARMS[0] | {"what": "uniform"}]),
        ),
        ("attention", "watch", "layer 1, head 2", at_kind("probe", alarms=THREE_HEADS)),
        ("attention", "good", "No attention head is collapsed", at_kind("probe")),
        ("dead units", "watch", "layer 1 (80%)", at_kind("probe", dead_units=[0.1, 0.8])),
        ("rank", "watch", "1.2", at_kind("probe", stream={"effective_rank": [9, 5, 1.2]})),
        ("outliers", "watch", "60,000", at_kind("probe", stream={"largest": [1, 2, 6e4]})),
        ("confidence", "watch", "overconfident", at_kind("probe", predictions={"confidence": 0.5})),
        ("confidence", "info", "underconfident", at_kind("probe", predictions={"confidence": 0.02})),
        ("context", "info", "more than early", at_kind("eval", by_position=LATE_TOKENS_ARE_HARD)),
        ("context", "info", "helps little", at_kind("eval", by_position={"loss": [4.0] * 5})),
        ("induction", "good", "layer 1, head 2", at_kind("probe", induction={"score": 0.7})),
        ("data", "bad", "80.3%", at_kind("step", phases={"data": 2.0})),
        ("data", "watch", "29.0%", at_kind("step", phases={"data": 0.2})),
        ("use of the machine", "watch", "5%", at_kind("step", mfu=0.05)),
        ("speed", "watch", "1,000 to 300", late_speed),
    ],
)
def test_what_rows_show(tmp_path: Path, rule: str, level: str, words: str, change: Change) -> None:
    note = get(read(tmp_path, change=change), rule)
    assert note.level == level and words in note.message


def test_an_alarm_is_dated_from_its_first_probe(tmp_path: Path) -> None:
    def late(row: dict[str, Any]) -> None:
        if row["kind"] == "probe" and row["step"] >= 160:
            row["alarms"] = ALARMS[:1]

    assert get(read(tmp_path / "late", change=late), "attention").since == 160
    early = read(tmp_path / "early", steps=40, change=at_kind("probe", alarms=ALARMS))
    assert get(early, "attention").level == "info"


@pytest.mark.parametrize(
    ("optimizer", "lr", "word"), [("adamw", 0.045, "high"), ("adamw", 1e-5, "low"), ("muon", 0.045, "")]
)
def test_learning_rates_that_are_unusual(tmp_path: Path, optimizer: str, lr: float, word: str) -> None:
    log = read(tmp_path, run=RUN.with_settings(train__lr=lr, train__optimizer=optimizer))
    note = find(log, "learning rate")
    assert word in note.message if note else not word


def test_curvature_and_noise(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    log = read_run_log(folder)
    assert "0.50" in get(log, "sharpness").message
    note = get(log, "noise")
    assert "5,120 tokens; a step has 128." in note.message and "a larger batch" in note.advice
    sharp = ANALYSIS | {"sharpness": {"preconditioned": 76.0, "preconditioned_threshold": 38.0}}
    assert get(replace(log, analysis=sharp), "sharpness").level == "watch"
