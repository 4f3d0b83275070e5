"""What is said of a run: every rule on a curve made for it, and nothing bad of a run that is well."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from light_llm.report import Verdict, View, judge, read_view
from light_llm.report.bands import Band, Point
from light_llm.report.verdicts import RULES
from tests.support.made_up_run import ANALYSIS, GROUPS, RUN, H, L, V, learning, made_up_run, wobble

UNIFORM = math.log(V)
Change = Callable[[dict[str, Any]], object]


def found(view: View, rule: str) -> Verdict | None:
    """The first verdict of a rule."""
    return next((v for v in judge(view) if v.rule == rule), None)


def first_named(folder: Path, rule: str, level: str, **how: Any) -> int | None:
    """The first step at which a run that is watched as it goes is judged so, looking every 5 steps."""
    for step in range(5, 201, 5):
        verdict = found(read_view(made_up_run(folder, steps=step, status=None, **how)), rule)
        if verdict and verdict.level == level:
            return step
    return None


def test_a_healthy_run_is_called_healthy(tmp_path: Path) -> None:
    for steps in (1, 10, 50, 100, 150, 200):
        verdicts = judge(read_view(made_up_run(tmp_path / str(steps), steps=steps)))
        assert {v.level for v in verdicts} <= {"good", "info"}, [v for v in verdicts if v.level in ("bad", "watch")]
    assert {"generalising", "trend", "attention", "context", "update ratios", "data"} <= {v.rule for v in verdicts}


def test_the_worst_comes_first_and_names_are_unique(tmp_path: Path) -> None:
    view = read_view(made_up_run(tmp_path / "run", loss=lambda s: 3.0 if s < 100 else 6.5))
    levels = [v.level for v in judge(view)]
    assert levels == sorted(levels, key=["bad", "watch", "good", "info"].index) and levels[0] == "bad"
    assert len({rule.name for rule in RULES}) == len(RULES)


# --- collapse: the weights are thrown far off, and do not come back


def thrown_off(step: int) -> float:
    """Learns for 80 steps, then up to log V within ten, and stays."""
    return learning(step) if step < 80 else min(UNIFORM, learning(80) + 0.2 * (step - 80)) + 0.05 * wobble(step)


def test_a_collapse_is_named_within_fifty_steps(tmp_path: Path) -> None:
    step = first_named(tmp_path, "collapse", "bad", loss=thrown_off, held=lambda s: 6.0)
    assert step is not None and 80 < step <= 80 + 50
    verdict = found(read_view(made_up_run(tmp_path / "whole", loss=thrown_off, held=lambda s: 6.0)), "collapse")
    assert verdict and "collapsed" in verdict.what and "near log V" in verdict.what and "--lr 0.00015" in verdict.advice
    assert verdict.since is not None and 80 <= verdict.since <= 95


def stuck(step: int) -> float:
    """Down to the frequencies of tokens in 40 steps, and not further."""
    return max(0.83 * UNIFORM, UNIFORM - 0.03 * step) + 0.03 * wobble(step)


def test_a_loss_that_stands_at_the_frequencies_has_collapsed(tmp_path: Path) -> None:
    def faded(row: dict[str, Any]) -> None:
        if row["kind"] == "step":
            row["grad_norm"] = 5.0 if row["step"] < 20 else 0.3

    how: dict[str, Any] = {"loss": stuck, "held": lambda s: 0.85 * UNIFORM, "probed": False}
    step = first_named(tmp_path, "collapse", "bad", change=faded, **how)
    assert step is not None and 40 < step <= 40 + 50
    verdicts = judge(
        read_view(made_up_run(tmp_path / "pulls", **how))
    )  # the same curve, with gradients that still pull
    assert "collapse" not in {v.rule for v in verdicts}


def one_direction(row: dict[str, Any], largest: float = 5000.0, rank: float = 1.1) -> None:
    if row["kind"] == "probe":
        row["stream"] |= {"effective_rank": [8.0, rank, rank], "largest": [4.0, largest, largest]}


def test_a_stream_of_one_direction_has_collapsed(tmp_path: Path) -> None:
    """A loss that still creeps down hides it; what is inside does not."""
    creeps = {"loss": lambda s: 6.0 - 0.008 * s + 0.03 * wobble(s), "held": lambda s: 6.0 - 0.008 * s}
    step = first_named(tmp_path, "collapse", "bad", change=one_direction, **creeps)
    assert step is not None and step <= 50
    whole = read_view(made_up_run(tmp_path / "whole", change=one_direction, **creeps))
    assert (verdict := found(whole, "collapse")) and "blown up (largest activation 5,000" in verdict.what
    assert verdict.since == 20
    several = partial(one_direction, rank=2.5)  # blown up in a few directions is blown up
    assert first_named(tmp_path, "collapse", "bad", change=several, **creeps) == step
    small = partial(one_direction, largest=8.0)  # so do large vocabularies in their first steps, and come out of it
    step = first_named(tmp_path, "collapse", "bad", change=small, **creeps)
    assert step == 120
    verdict = found(read_view(made_up_run(tmp_path / "small", change=small, **creeps)), "collapse")
    assert verdict and "look alike" in verdict.what
    learned = read_view(made_up_run(tmp_path / "learned", change=one_direction, loss=lambda s: 2.0 + 4 / s))
    assert found(learned, "collapse") is None  # a low loss: a few large features are usual in trained models


def test_a_run_that_recovers_has_not_collapsed(tmp_path: Path) -> None:
    def bump(step: int) -> float:
        return learning(step) + (2.0 if 100 <= step < 104 else 0.0)

    view = read_view(made_up_run(tmp_path / "run", loss=bump))
    assert found(view, "collapse") is None
    assert (verdict := found(view, "spikes")) and verdict.since == 100 and "once" in verdict.what


# --- memorising: training goes on falling, the rest does not


def memorised(step: int) -> float:
    return 1.0 + 5.0 * math.exp(-step / 70) + 0.02 * wobble(step)


def turning(step: int) -> float:
    """Held out: falls until step 100, then rises."""
    return 1.3 + 5.0 * math.exp(-min(step, 100) / 70) + 0.004 * max(0, step - 100)


@pytest.mark.parametrize("every", [10, 20, 50])
def test_memorising_is_named_within_fifty_steps(tmp_path: Path, every: int) -> None:
    step = first_named(tmp_path, "memorising", "bad", loss=memorised, held=turning, every=every)
    assert step is not None and 100 < step <= 150
    view = read_view(made_up_run(tmp_path / "x", loss=memorised, held=turning, every=every))
    verdict = found(view, "memorising")
    assert verdict and verdict.since == 100
    assert "for 100 steps the held-out loss has risen by 0.400" in verdict.what and "training fell" in verdict.what
    assert verdict.advice.startswith("Use more text or dropout 0.2; the best is of step 100")  # it is over
    going = replace(view, past=replace(view.past, steps=view.past.steps[:150]), end=None)
    assert (verdict := found(going, "memorising")) and verdict.advice.startswith("Stop here, or use more text")


def test_a_held_out_loss_that_stands_while_training_falls_is_memorising(tmp_path: Path) -> None:
    def flat(step: int) -> float:
        return turning(min(step, 100)) + 0.003 * wobble(step)

    verdict = found(read_view(made_up_run(tmp_path / "run", loss=memorised, held=flat)), "memorising")
    assert verdict and verdict.level == "bad"


def test_a_gap_that_widens_is_watched(tmp_path: Path) -> None:
    def slower(step: int) -> float:
        return turning(min(step, 100)) - 0.0015 * max(0, step - 100)

    view = read_view(made_up_run(tmp_path / "run", loss=memorised, held=slower))
    assert (verdict := found(view, "widening gap")) and verdict.level == "watch" and "dropout" in verdict.advice
    assert found(view, "memorising") is None and found(view, "generalising") is None


# --- where the curve goes


def test_a_loss_that_still_falls_wants_more_steps(tmp_path: Path) -> None:
    verdict = found(read_view(made_up_run(tmp_path / "run")), "trend")
    assert verdict and "still falling" in verdict.what and "--max-steps 400" in verdict.advice
    going = found(read_view(made_up_run(tmp_path / "going", steps=150, status=None)), "trend")
    assert going and not going.advice


def test_a_plateau_is_seen(tmp_path: Path) -> None:
    def level(step: int) -> float:
        return 2.0 + 4 * math.exp(-step / 15)

    view = read_view(made_up_run(tmp_path / "run", loss=lambda s: level(s) + 0.01 * wobble(s), held=level))
    assert (verdict := found(view, "trend")) and "levelled off" in verdict.what


def test_learning_that_hardly_begins(tmp_path: Path) -> None:
    view = read_view(made_up_run(tmp_path / "run", loss=lambda s: UNIFORM - 0.0015 * s, held=lambda s: UNIFORM))
    assert (verdict := found(view, "hardly learning")) and "--lr 0.0075" in verdict.advice
    assert found(view, "collapse") is None


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    view = read_view(
        made_up_run(tmp_path / "run", steps=90, loss=lambda s: None if s == 90 else 4.0, status="nonfinite")
    )
    assert (verdict := found(view, "not finite")) and (verdict.level, verdict.since) == ("bad", 90)
    skipped = read_view(made_up_run(tmp_path / "skipped", loss=lambda s: None if s == 90 else learning(s)))
    assert (
        (verdict := found(skipped, "not finite")) and verdict.level == "watch" and "at 1 of the steps" in verdict.what
    )


# --- limits and bands


def limited(bits: float) -> Change:
    def change(row: dict[str, Any]) -> None:
        if row["kind"] == "eval":
            row["limit"] = bits

    return change


def test_nothing_is_better_than_the_limit(tmp_path: Path) -> None:
    last = 0.75 * (3.55 + 2.7 * math.exp(-200 / 60))
    view = read_view(made_up_run(tmp_path / "near", change=limited(last - 0.2)))
    assert found(view, "below the limit") is None
    assert (verdict := found(view, "limit")) and "0.200 bits/byte above" in verdict.what
    view = read_view(made_up_run(tmp_path / "below", change=limited(last + 0.2)))
    assert (verdict := found(view, "below the limit")) and verdict.level == "bad" and "bug" in verdict.advice
    view = read_view(made_up_run(tmp_path / "noise", change=limited(last + 0.02)))  # 3 x 0.02 x 0.75 is noise
    assert found(view, "below the limit") is None


@pytest.mark.parametrize(
    ("mean", "level", "word"), [(0.0, "good", "Inside"), (-0.5, "watch", "Outside"), (0.5, "info", "better side")]
)
def test_inside_and_outside_of_the_band(tmp_path: Path, mean: float, level: str, word: str) -> None:
    view = read_view(made_up_run(tmp_path / "run"))
    loss = view.held_out[-1].loss
    band = Band("tiny/verse", 3, (), (Point(100, 9.0, 0.1), Point(200, loss + mean, 0.1)))
    verdict = found(replace(view, band=band), "expected band")
    assert verdict and (verdict.level, verdict.since) == (level, 200) and word in verdict.what


# --- what single rows show


def at_kind(kind: str, **values: Any) -> Change:
    def change(row: dict[str, Any]) -> None:
        if row["kind"] == kind:
            for name, value in values.items():
                if isinstance(value, dict):
                    row[name] = {**row[name], **value}
                else:
                    row[name] = value

    return change


def late_norms(row: dict[str, Any]) -> None:
    if row["kind"] == "step" and row["step"] > 170:
        row["grad_norm"] = 40.0


ALARMS = [{"layer": 1, "head": 0, "what": "one position"}, {"layer": 0, "head": None, "what": "all heads alike"}]


@pytest.mark.parametrize(
    ("rule", "level", "words", "change"),
    [
        ("exploding gradients", "bad", "40", late_norms),
        (
            "vanishing gradients",
            "bad",
            "h.1.mlp",
            at_kind("step", grad_norms={"h.1.mlp": 1e-6}, update_ratios={"h.1.mlp": 1e-6}),
        ),
        ("clipping", "info", "100% of the last 100", at_kind("step", clipped=True)),
        ("clipping", "watch", "typical norm is 5.00", at_kind("step", clipped=True, grad_norm=5.0)),
        ("update ratios", "watch", "More than 1% of its size", at_kind("step", update_ratios={"h.0.mlp": 0.02})),
        ("update ratios", "watch", "Less than 0.01%", at_kind("step", update_ratios={"wte": 2e-5})),
        ("update ratios", "good", "0.10% to 2.00%", at_kind("step", update_ratios={"wpe": 0.02})),  # a table may
        (
            "attention",
            "bad",
            "layer 1, head 0 puts all its weight on one position; layer 0 has heads",
            at_kind("probe", alarms=ALARMS),
        ),
        ("attention", "info", "few heads stand out: layer 1, head 0", at_kind("probe", alarms=ALARMS[:1])),
        ("attention", "info", "few heads stand out", at_kind("probe", alarms=[ALARMS[0] | {"what": "uniform"}])),
        ("attention", "watch", "layer 1, head 2", at_kind("probe", alarms=[ALARMS[0] | {"head": h} for h in range(3)])),
        ("attention", "good", "No head has collapsed", at_kind("probe")),
        ("dead units", "watch", "layer 1 (80%)", at_kind("probe", dead_units=[0.1, 0.8])),
        ("rank", "watch", "effective rank 1.2", at_kind("probe", stream={"effective_rank": [9, 5, 1.2]})),
        ("outliers", "watch", "60,000", at_kind("probe", stream={"largest": [1, 2, 6e4]})),
        ("confidence", "watch", "overconfident", at_kind("probe", predictions={"confidence": 0.5})),
        ("confidence", "info", "less sure than it could be", at_kind("probe", predictions={"confidence": 0.02})),
        ("context", "info", "nats more than early", at_kind("eval", by_position={"loss": [1.0, 1.0, 3.0, 3.0, 3.0]})),
        ("induction", "good", "layer 1, head 2", at_kind("probe", induction={"score": 0.7})),
        ("data", "bad", "80% of the time", at_kind("step", phases={"data": 2.0})),
        ("data", "watch", "29% of the time", at_kind("step", phases={"data": 0.2})),
        ("use of the machine", "watch", "reaches 5%", at_kind("step", mfu=0.05)),
        ("context", "info", "helps little", at_kind("eval", by_position={"loss": [4.0] * 5})),
    ],
)
def test_what_rows_show(tmp_path: Path, rule: str, level: str, words: str, change: Change) -> None:
    verdict = found(read_view(made_up_run(tmp_path / "run", change=change)), rule)
    assert verdict and verdict.level == level and words in verdict.what


def test_an_alarm_is_dated_from_its_first_look(tmp_path: Path) -> None:
    def late(row: dict[str, Any]) -> None:
        if row["kind"] == "probe" and row["step"] >= 160:
            row["alarms"] = ALARMS[:1]

    assert (
        verdict := found(read_view(made_up_run(tmp_path / "run", change=late)), "attention")
    ) and verdict.since == 160
    early = read_view(made_up_run(tmp_path / "early", steps=40, change=at_kind("probe", alarms=ALARMS)))
    assert (verdict := found(early, "attention")) and verdict.level == "info"


def test_rates_that_are_unusual(tmp_path: Path) -> None:
    for lr, word in ((0.045, "high"), (1e-5, "low")):
        view = read_view(made_up_run(tmp_path / word, run=RUN.with_settings(train__lr=lr)))
        assert (verdict := found(view, "learning rate")) and word in verdict.what
    muon = RUN.with_settings(train__lr=0.045, train__optimizer="muon")
    assert found(read_view(made_up_run(tmp_path / "muon", run=muon)), "learning rate") is None


def test_speed_that_drops(tmp_path: Path) -> None:
    def tired(row: dict[str, Any]) -> None:
        if row["kind"] == "step":
            row["tok_per_sec"] = 1000 if row["step"] < 150 else 300

    assert (
        verdict := found(read_view(made_up_run(tmp_path / "run", change=tired)), "speed")
    ) and verdict.level == "watch"


def test_curvature_and_noise(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run")
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    view = read_view(folder)
    assert (verdict := found(view, "sharpness")) and "0.50 of its threshold" in verdict.what
    assert (verdict := found(view, "noise")) and "5,120 tokens; a step has 128." in verdict.what
    assert "Larger batches" in verdict.advice
    sharp = ANALYSIS | {"sharpness": {"preconditioned": 76.0, "preconditioned_threshold": 38.0}}
    assert (verdict := found(replace(view, analysis=sharp), "sharpness")) and verdict.level == "watch"


def test_each_rule_is_about_a_picture_that_can_be_there(tmp_path: Path) -> None:
    from light_llm.report.figures import run_sections

    folder = made_up_run(tmp_path / "run")
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    drawn = {f.id for section in run_sections(read_view(folder), []) for f in section.figures}
    assert {rule.picture for rule in RULES} <= drawn
    assert len(GROUPS) == 2 * L + 3 and H == 3
