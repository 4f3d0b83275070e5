"""Each threshold of a rule: the verdict on both sides of it. A changed constant moves one of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from light_llm.report import RunLog, judge, read_run_log
from light_llm.report.log_rows import Probe
from tests.support.made_up_run import ANALYSIS, GROUPS, RUN, made_up_run, probe_row

Edit = Callable[[RunLog], RunLog]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    return read_run_log(made_up_run(tmp_path_factory.mktemp("run")))


def probe(**values: Any) -> Edit:
    """A last probe with other values, merged if they are dicts."""
    row = probe_row(200)
    row |= {name: row[name] | value if isinstance(value, dict) else value for name, value in values.items()}
    return lambda log: replace(log, probes=(Probe(200, row),))


def steps(**columns: Any) -> Edit:
    """Columns of the 200 steps; a single value fills one."""

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(part) for name, part in value.items()}
        return value if isinstance(value, tuple) else (value,) * 200

    return lambda log: replace(log, steps=replace(log.steps, **{name: fill(v) for name, v in columns.items()}))


def phases(data: float) -> Edit:
    return steps(phases={"data": data, "gradients": 1 - data})


def ratios(**values: float) -> Edit:
    return steps(update_ratios=dict.fromkeys(GROUPS, 1e-3) | values)


def vanished(norm: float, ratio: float) -> Edit:
    norms, updates = dict.fromkeys(GROUPS, 0.5) | {"wpe": norm}, dict.fromkeys(GROUPS, 1e-3) | {"wpe": ratio}
    return steps(grad_norms=norms, update_ratios=updates)


def rate(lr: float) -> Edit:
    return lambda log: replace(log, run=RUN.with_settings(train__lr=lr))


def analysis(part: str, **values: float) -> Edit:
    return lambda log: replace(log, analysis=ANALYSIS | {part: ANALYSIS[part] | values})


def late(before: float, after: float, n: int = 100) -> tuple[float, ...]:
    return (before,) * (200 - n) + (after,) * n


def slow(n: int) -> tuple[float, ...]:
    """Speeds of which n of the 190 that are judged are slow."""
    return (256,) * 100 + (100,) * n + (256,) * (100 - n)


def clipped(n: int, norm: float = 5.0) -> Edit:
    return steps(clipped=(0,) * (200 - n) + (1,) * n, grad_norm=norm)


def positions(late_loss: float) -> Edit:
    def edit(log: RunLog) -> RunLog:
        last = replace(log.evals[-1], upto=(1, 2, 4, 8), by_position=(4.0, 4.0, 4.0, late_loss))
        return replace(log, evals=(*log.evals[:-1], last))

    return edit


# rule, an edit of a healthy run on either side of a threshold, and the two levels
THRESHOLDS: tuple[tuple[str, Edit, str | None, Edit, str | None], ...] = (
    ("dead units", probe(dead_units=[0.0, 0.1]), "good", probe(dead_units=[0.0, 0.101]), "info"),
    ("dead units", probe(dead_units=[0.0, 0.5]), "info", probe(dead_units=[0.0, 0.501]), "watch"),
    ("rank", probe(stream={"effective_rank": [9, 2.0]}), "good", probe(stream={"effective_rank": [9, 1.99]}), "watch"),
    ("outliers", probe(stream={"largest": [1, 300]}), "good", probe(stream={"largest": [1, 301]}), None),
    ("outliers", probe(stream={"largest": [1, 3e4]}), None, probe(stream={"largest": [1, 3.01e4]}), "watch"),
    ("confidence", probe(predictions={"confidence": 0.349}), "good", probe(predictions={"confidence": 0.351}), "watch"),
    ("confidence", probe(predictions={"confidence": 0.251}), "good", probe(predictions={"confidence": 0.249}), "info"),
    ("induction", probe(induction={"score": 0.4}), "info", probe(induction={"score": 0.401}), "good"),
    ("context", positions(3.901), "info", positions(3.899), "good"),
    ("data", phases(0.149), "good", phases(0.151), "watch"),
    ("data", phases(0.499), "watch", phases(0.501), "bad"),
    ("use of the machine", steps(mfu=0.15), "good", steps(mfu=0.149), "watch"),
    ("clipping", clipped(50), "good", clipped(51), "watch"),
    ("clipping", clipped(100, norm=2.99), "info", clipped(100, norm=3.0), "watch"),
    ("update ratios", ratios(ln_f=0.0099), "good", ratios(ln_f=0.0101), "watch"),
    ("update ratios", ratios(ln_f=1.01e-4), "good", ratios(ln_f=0.99e-4), "watch"),
    ("update ratios", ratios(wte=0.0299), "good", ratios(wte=0.0301), "watch"),
    ("update ratios", ratios(wpe=0.0299), "good", ratios(wpe=0.0301), "watch"),
    ("learning rate", rate(1e-2), None, rate(1.01e-2), "watch"),
    ("learning rate", rate(5e-5), None, rate(4.9e-5), "watch"),
    ("exploding gradients", steps(grad_norm=late(0.8, 7.99, 20)), None, steps(grad_norm=late(0.8, 8.0, 20)), "bad"),
    ("exploding gradients", steps(grad_norm=late(0.01, 0.99, 20)), None, steps(grad_norm=late(0.01, 1.0, 20)), "bad"),
    ("vanishing gradients", vanished(5.1e-5, 1e-5), None, vanished(4.9e-5, 1e-5), "bad"),
    ("vanishing gradients", vanished(1e-6, 1e-4), None, vanished(1e-6, 9.9e-5), "bad"),
    (
        "data",
        steps(phases={"data": 0.0, "gradients": 0.0}),
        None,
        steps(phases={"data": 1e-4, "gradients": 1e-4}),
        "watch",
    ),
    (
        "speed",
        steps(tok_per_sec=(256,) * 59 + (None,) * 141),
        None,
        steps(tok_per_sec=(256,) * 60 + (None,) * 140),
        "good",
    ),
    ("speed", steps(tok_per_sec=slow(9)), "good", steps(tok_per_sec=slow(10)), "watch"),
    ("speed", steps(tok_per_sec=284), "good", steps(tok_per_sec=285), "info"),  # beside the 256 of the whole run
    ("speed", steps(tok_per_sec=late(256, 154, 20)), "good", steps(tok_per_sec=late(256, 153, 20)), "watch"),
    (
        "sharpness",
        analysis("sharpness", preconditioned=57e3),
        "good",
        analysis("sharpness", preconditioned=58e3),
        "watch",
    ),
    ("noise", analysis("noise", scale_tokens=384.0), "good", analysis("noise", scale_tokens=385.0), "info"),
    ("noise", analysis("noise", scale_tokens=43.0), "good", analysis("noise", scale_tokens=42.0), "info"),
    (
        "noise",
        analysis("noise", scale_tokens=128.0, stderr=40.0),
        "good",
        analysis("noise", scale_tokens=128.0, stderr=40.1),
        "info",
    ),
)


@pytest.mark.parametrize(("rule", "below", "level", "above", "other"), THRESHOLDS)
def test_a_verdict_changes_at_its_threshold(
    log: RunLog, rule: str, below: Edit, level: str | None, above: Edit, other: str | None
) -> None:
    def level_of(log: RunLog) -> str | None:
        return next((note.level for note in judge(log) if note.rule == rule), None)

    assert (level_of(below(log)), level_of(above(log))) == (level, other)
