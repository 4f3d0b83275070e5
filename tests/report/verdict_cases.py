"""For each rule, runs in which its verdict is true and runs in which the opposite is, with what it must say."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from light_llm.report.curves import Band, BandPoint
from tests.support.made_up_run import ANALYSIS, RUN, V, learning, memorised, turning, wobble

UNIFORM = math.log(V)
Change = Callable[[dict[str, Any]], object]


def at(kind: str, first: int = 1, last: int = 10**9, **values: Any) -> Change:
    """A change of the rows of a kind at the steps from first to last: values replaced, or merged if they are dicts.

    A function gives the value at a step.
    """

    def change(row: dict[str, Any]) -> None:
        if row["kind"] == kind and first <= row["step"] <= last:
            for name, value in values.items():
                new = value(row["step"]) if callable(value) else value
                row[name] = {**row[name], **new} if isinstance(new, dict) else new

    return change


def both(*changes: Change) -> Change:
    return lambda row: [change(row) for change in changes]


@dataclass(frozen=True)
class Case:
    """A run, and the verdict of a rule on it.

    Args:
        words: parts of the message and the advice; the first is the number or word that the chart shows.
        options: of `made_up_run`.
        log: values to replace in the log.
    """

    rule: str
    name: str  # what the run is like
    level: str | None  # None: the rule is silent
    words: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    log: Mapping[str, Any] = field(default_factory=dict)


def case(
    rule: str, name: str, level: str | None, *words: str, log: Mapping[str, Any] | None = None, **options: Any
) -> Case:
    return Case(rule, name, level, words, options, log or {})


def rises_and_stays(step: int) -> float:
    return learning(step) if step < 80 else UNIFORM + 0.05 * wobble(step)


def collapses_and_recovers(step: int) -> float:
    return UNIFORM if 40 <= step < 90 else learning(step)


def noisy(step: int) -> float:
    return learning(step) + 1.0 * wobble(step)


def outlier(step: int) -> float:
    return 30.0 if step == 120 else learning(step)


def overfits_and_recovers(step: int) -> float:
    """Rises from step 60 to 120, then falls to the lowest loss of the run, just below that of step 60."""
    return {20: 4.0, 40: 2.6, 60: 2.0, 80: 2.2, 100: 2.4, 120: 2.5, 140: 2.4, 160: 2.2, 180: 2.1}.get(step, 1.98)


def lucky(step: int) -> float:
    """Wide noise around a level, with ten batches in the middle that happen to be easy."""
    return 4.0 + random.Random(step).gauss(0, 1) - 0.7 * (100 <= step < 110)


UNIFORM_HEAD = {"layer": 0, "head": 0, "what": "uniform"}
ALL_HEADS = [{"layer": layer, "head": head, "what": "one position"} for layer in range(2) for head in range(3)]
SMALL_GROUP = {"grad_norms": {"h.0.mlp": 1e-6}, "update_ratios": {"h.0.mlp": 1e-6}}
BETTER, WORSE = ((BandPoint(200, value, 0.05),) for value in (4.5, 2.5))
INSIDE = (BandPoint(200, 3.64, 0.05),)
FLAT = {"loss": lambda s: 2.0 + 4 * math.exp(-s / 15) + 0.01 * wobble(s), "held": lambda s: 2.0 + 4 * math.exp(-s / 15)}


def band(points: tuple[BandPoint, ...]) -> dict[str, Any]:
    return {"band": Band("tiny/verse", 3, (), points)}


def analysis(part: str, **values: Any) -> dict[str, Any]:
    return {"analysis": ANALYSIS | {part: ANALYSIS[part] | values}}


def lens_positions(*losses: float) -> Change:
    return at("eval", by_position={"upto": [1, 2, 4, 8, 16], "loss": list(losses)})


def noisy_positions(*losses: float) -> Change:
    """Set the losses by position of evaluations with a standard error of 0.1."""
    return at("eval", by_position={"upto": [1, 2, 4, 8, 16], "loss": list(losses)}, stderr=0.1)


CASES = (
    case("collapse", "rises and stays", "bad", "to 6.2", "since step", loss=rises_and_stays),
    case("collapse", "collapses early and recovers", None, loss=collapses_and_recovers),
    case("collapse", "noisy", None, loss=noisy),
    case("collapse", "noisy with a few easy batches", None, loss=lucky),
    case("collapse", "one outlier", None, loss=outlier),
    case(
        "not finite",
        "ends",
        "bad",
        "at step 90,",
        loss=lambda s: None if s == 40 else 4.0,
        steps=90,
        status="nonfinite",
    ),
    case(
        "not finite",
        "a gap that is passed",
        "watch",
        "at 20 steps, first at step 60",
        loss=lambda s: None if 60 <= s < 80 else learning(s),
    ),
    case("not finite", "finite", None),
    case("memorising", "overfits", "bad", "risen by 0.400", "since step 100", loss=memorised, held=turning),
    case("memorising", "overfits, then recovers", None, loss=memorised, held=overfits_and_recovers),
    case("below the limit", "below", "bad", "2.7", change=at("eval", 200, limit=4.0)),
    case("below the limit", "above", None, change=at("eval", limit=0.5)),
    case(
        "exploding gradients",
        "explode",
        "bad",
        "is 40 now and was 0.8",
        "since step 171",
        change=at("step", 171, grad_norm=40.0),
    ),
    case(
        "exploding gradients",
        "one calm batch between",
        "bad",
        "since step 171",
        change=both(at("step", 171, grad_norm=40.0), at("step", 195, 195, grad_norm=0.8)),
    ),
    case("exploding gradients", "explode and recover", None, change=at("step", 80, 120, grad_norm=40.0)),
    case("exploding gradients", "one outlier", None, change=at("step", 195, 195, grad_norm=1e6)),
    case("vanishing gradients", "vanish", "bad", "h.0.mlp", "since step 100", change=at("step", 100, **SMALL_GROUP)),
    case("vanishing gradients", "vanish and come back", None, change=at("step", 50, 150, **SMALL_GROUP)),
    case("vanishing gradients", "small, but the weights move", None, change=at("step", grad_norms={"h.0.mlp": 1e-6})),
    case("attention", "collapses", "bad", "and 3 more", "since step 160", change=at("probe", 160, alarms=ALL_HEADS)),
    case(
        "attention", "one head", "info", "layer 0, head 0 attends uniformly", change=at("probe", alarms=[UNIFORM_HEAD])
    ),
    case(
        "attention",
        "a head that recovers",
        "good",
        "(an earlier alarm ended after step 160: layer 0, head 0 attends uniformly)",
        change=at("probe", 100, 160, alarms=[UNIFORM_HEAD]),
    ),
    case("attention", "no head", "good", "No attention head is collapsed at step 200."),
    case(
        "widening gap",
        "widens",
        "watch",
        "the gap is",
        loss=memorised,
        held=lambda s: turning(min(s, 100)) - 0.0015 * max(0, s - 100),
    ),
    case("widening gap", "narrows again", None, loss=memorised, held=overfits_and_recovers),
    case("widening gap", "level", None),
    case(
        "worse than its best",
        "rises",
        "watch",
        "above its best, which was at step 100",
        "is from that step.",
        loss=lambda s: 3.0 + 0.01 * wobble(s),
        held=turning,
    ),
    case(
        "worse than its best",
        "falls again",
        "watch",
        "falling again",
        loss=lambda s: 3.0 + 0.01 * wobble(s),
        held=lambda s: {180: 4.0, 200: 3.5}.get(s, 3.0),
    ),
    case("worse than its best", "the last is the best", None),
    case(
        "hardly learning",
        "hardly falls",
        "watch",
        "fallen by only 0.2",
        "--lr 0.0075",
        loss=lambda s: UNIFORM - 0.0015 * s,
    ),
    case(
        "hardly learning",
        "at a rate that is high already",
        "watch",
        "is not too low",
        loss=lambda s: UNIFORM - 0.0015 * s,
        run=RUN.with_settings(train__lr=0.005),
    ),
    case("hardly learning", "starts from a trained model", None, loss=lambda s: 2.5 - 0.0005 * s),
    case("spikes", "one outlier", "watch", "jumped once, at step 120", loss=outlier),
    case("spikes", "noisy", None, loss=noisy),
    case(
        "update ratios",
        "large",
        "watch",
        "h.0.mlp by more than 1% (h.0.mlp: 2.0%)",
        change=at("step", update_ratios={"h.0.mlp": 0.02}),
    ),
    case("update ratios", "small", "watch", "wte by less than 0.01%", change=at("step", update_ratios={"wte": 2e-5})),
    case(
        "update ratios",
        "large at first, then usual",
        "good",
        "0.10%",
        change=at("step", 1, 150, update_ratios={"wte": 0.05}),
    ),
    case(
        "clipping",
        "most",
        "watch",
        "100% of the last 100 steps",
        "5.00",
        change=at("step", clipped=True, grad_norm=5.0),
    ),
    case(
        "clipping", "at the beginning only", "good", "0% of the last 100 steps", change=at("step", 1, 90, clipped=True)
    ),
    case("learning rate", "high", "watch", "0.045 is high", run=RUN.with_settings(train__lr=0.045)),
    case("learning rate", "low", "watch", "1e-05 is low", run=RUN.with_settings(train__lr=1e-5)),
    case("learning rate", "low for fine-tuning", None, run=RUN.with_settings(train__lr=1e-5, train__init_from="base")),
    case("expected band", "worse", "watch", "3.646", log=band(WORSE)),
    case("expected band", "better", "info", "better side", log=band(BETTER)),
    case("expected band", "inside", "good", "3.640 ± ", log=band(INSIDE)),
    case("generalising", "small gap", "good", "still helps on new text", "0."),
    case("generalising", "large gap", "info", "is 0.46 nats", held=lambda s: learning(s) + 0.5),
    case("generalising", "level for long", "info", "as low as at step 20,", loss=lambda s: 3.5, held=lambda s: 3.6),
    case("generalising", "rises", None, held=turning),
    case("trend", "falls", "good", "still falling: by 0.1", "--max-steps 400"),
    case("trend", "falls, interrupted", "good", "Continue it with --resume.", steps=150, status="interrupted"),
    case("trend", "level", "info", "levelled off", **FLAT),
    case("trend", "noisy", "info", "no clear trend", "± ", loss=lambda s: 4.0 + wobble(s)),
    case(
        "trend",
        "rises",
        "watch",
        "risen by 0.198",
        loss=lambda s: 4.0 + 0.2 * (s > 160) + 0.005 * wobble(s),
        held=lambda s: 4.0 - s / 1000,
    ),
    case("limit", "above", "info", "1.735 bits/byte above", change=at("eval", limit=1.0)),
    case("limit", "reached", "good", "2.735 bits/byte is within its error", change=at("eval", limit=2.73)),
    case("context", "helps", "good", "0.40 nats less", change=lens_positions(4.0, 4.0, 3.8, 3.7, 3.6)),
    case("context", "helps little", "info", "helps little", change=lens_positions(4.0, 4.0, 4.0, 4.0, 4.0)),
    case("context", "noise", "info", "helps little", change=noisy_positions(4.1, 4.1, 3.9, 3.9, 4.05)),
    case("context", "hurts", "info", "2.00 nats more", change=lens_positions(1.0, 1.0, 3.0, 3.0, 3.0)),
    case(
        "context",
        "helps, then hurts",
        "info",
        "up to token 4; the last tokens cost 1.00",
        change=lens_positions(4.0, 4.0, 3.0, 3.5, 4.0),
    ),
    case("dead units", "none", "good", "No MLP unit is dead", change=at("probe", dead_units=[0.0, 0.0])),
    case("dead units", "some", "info", "30%", change=at("probe", dead_units=[0.0, 0.3])),
    case(
        "dead units", "most", "watch", "layer 1 (80%)", "since step 160", change=at("probe", 160, dead_units=[0.0, 0.8])
    ),
    case(
        "dead units",
        "most, for a while",
        "good",
        "No MLP unit",
        change=at("probe", dead_units=lambda s: [0.0, 0.8 if s < 100 else 0.0]),
    ),
    case("rank", "high", "good", "about 10 independent directions"),
    case(
        "rank",
        "low",
        "watch",
        "effective rank 1.2",
        "since step 160",
        change=at("probe", 160, stream={"effective_rank": [9, 5, 1.2]}),
    ),
    case(
        "rank",
        "low between the layers",
        "info",
        "layer 0 only 1.2",
        change=at("probe", stream={"effective_rank": [9, 1.2, 8]}),
    ),
    case("outliers", "small", "good", "8.0 at step 200"),
    case(
        "outliers",
        "large",
        "watch",
        "60,000",
        "since step 120",
        change=at("probe", 120, stream={"largest": [1, 2, 6e4]}),
    ),
    case(
        "outliers",
        "large for a while",
        "info",
        "it was 60,000 at step 100",
        change=at("probe", 100, 100, stream={"largest": [1, 2, 6e4]}),
    ),
    case(
        "outliers",
        "not finite",
        "bad",
        "after layer 0 is not finite",
        change=at("probe", stream={"largest": [1, None, 3]}),
    ),
    case("confidence", "calibrated", "good", "Confidence matches accuracy"),
    case("confidence", "over", "watch", "overconfident", "50%", change=at("probe", predictions={"confidence": 0.5})),
    case("confidence", "under", "info", "underconfident", "2%", change=at("probe", predictions={"confidence": 0.02})),
    case(
        "confidence",
        "right on average only",
        "info",
        "0.300",
        change=at("probe", predictions={"calibration_error": 0.3}),
    ),
    case(
        "induction", "none", "info", "No induction head yet", "0.03 of 1", change=at("probe", induction={"score": 0.03})
    ),
    case("induction", "one", "good", "0.70 of 1 (layer 1, head 2)", change=at("probe", induction={"score": 0.7})),
    case(
        "induction",
        "lost",
        "info",
        "of step 100 (0.70) is lost",
        change=at("probe", 100, 100, induction={"score": 0.7}),
    ),
    case("data", "no wait", "good", "2.0%"),
    case("data", "waits", "bad", "80.3%", change=at("step", phases={"data": 2.0})),
    case("use of the machine", "busy", "good", "60%", change=at("step", mfu=0.6)),
    case("use of the machine", "idle", "watch", "5%", change=at("step", mfu=0.05)),
    case("speed", "steady", "good", "256 tokens/s"),
    case(
        "speed",
        "drops",
        "watch",
        "from 1,000 to 300",
        "since step 150",
        change=at("step", tok_per_sec=lambda s: 1000 if s < 150 else 300),
    ),
    case(
        "speed",
        "drops early",
        "watch",
        "more than 1.7 times the usual 300",
        change=at("step", tok_per_sec=lambda s: 1000 if s < 50 else 300),
    ),
    case(
        "speed",
        "a dip in the middle",
        "watch",
        "40 of 190 steps (between 80 and 119)",
        "usual 17,000",
        change=at("step", tok_per_sec=lambda s: 500 if 80 <= s < 120 else 17_000),
    ),
    case(
        "speed",
        "swings",
        "watch",
        "varies",
        change=at("step", tok_per_sec=lambda s: (4_000, 9_000, 12_000, 17_000)[s % 4]),
    ),
    case(
        "speed",
        "rises",
        "info",
        "risen from 300 to 1,000",
        change=at("step", tok_per_sec=lambda s: 300 if s < 150 else 1000),
    ),
    case(
        "speed",
        "one long pause",
        "info",
        "the average to",
        change=both(at("step", 120, 120, seconds=60.0, tok_per_sec=2)),
    ),
    case("sharpness", "below", "good", "0.50 of", log={"analysis": ANALYSIS}),
    case("sharpness", "above", "watch", "2.00 of", log=analysis("sharpness", preconditioned=76e3)),
    case("sharpness", "a saddle", None, log=analysis("sharpness", preconditioned=-1.0)),
    case("noise", "small batch", "info", "5,120 tokens", "a larger batch", log={"analysis": ANALYSIS}),
    case("noise", "large batch", "info", "12 tokens", "smaller batch", log=analysis("noise", scale_tokens=12.0)),
    case("noise", "fits", "good", "100 tokens", log=analysis("noise", scale_tokens=100.0)),
    case("noise", "uncertain", "info", "does not judge", log=analysis("noise", stderr=70.0)),
)
