"""The status of a run in words, and the time that is left."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from light_llm.checkpoint.lock import FolderLock
from light_llm.report import read_run_log
from light_llm.report.page import page_state
from light_llm.report.progress import seconds_left, status_line
from light_llm.report.summary import plan_table
from tests.support.made_up_run import made_up_run


@pytest.mark.parametrize(
    ("status", "steps", "expected"),
    [
        (None, 50, "interrupted at step 50 of 200"),  # killed
        ("interrupted", 50, "interrupted at step 50 of 200"),
        ("stopped", 50, "stopped early at step 50 of 200"),
        ("nonfinite", 50, "stopped at step 50 of 200: the loss or its gradient was not finite"),
        ("done", 200, "done"),
        (None, 200, "done"),
        ("interrupted", 0, "interrupted before its first step"),
        (None, 0, "interrupted before its first step"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, status: str | None, steps: int, expected: str) -> None:
    folder = made_up_run(tmp_path, status=status, steps=steps)
    log = read_run_log(folder)
    assert (status_line(log), log.is_over, seconds_left(log)) == (expected, True, None)
    if 0 < steps < 200:  # resumed, and killed
        with open(folder / "metrics.jsonl", "a") as file:
            file.write('{"kind": "step", "step": 51, "loss": 4.0, "tokens": 1, "seconds": 1}\n')
        assert read_run_log(folder).status == "interrupted"


def test_a_run_with_a_live_lock_is_running(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, status=None, steps=50)
    with FolderLock(folder):
        log = read_run_log(folder)
        assert log.status == "running" and not log.is_over
        assert status_line(log) == "running: step 50 of 200, about 1 min left"  # 150 steps of 0.5 s
        now = log.updated or 0.0
        assert status_line(log, now + 31).endswith("of 200, no update for 30 s")
        slow = replace(log, steps=replace(log.steps, seconds=(20.0,) * 50))
        assert "left" in status_line(slow, now + 99) and "no update for 2 min" in status_line(slow, now + 101)
    owner = (folder / ".lock").write_text('{"host": "elsewhere"}')  # left behind by a run that was killed
    assert owner and read_run_log(folder).status == "running"  # the lock of another machine cannot be tested
    os.utime(folder / "metrics.jsonl", (1e9, 1e9))
    os.utime(folder / ".lock", (1e9, 1e9))
    assert read_run_log(folder).status == "interrupted"


def test_an_ended_run_is_not_running_until_it_is_resumed(tmp_path: Path) -> None:
    """The process that ends still holds the lock when it writes the report; one that resumes has no row yet."""
    folder = made_up_run(tmp_path, status="interrupted", steps=50)
    with FolderLock(folder):
        os.utime(folder / ".lock", (1e9, 1e9))
        assert read_run_log(folder).status == "interrupted"
        os.utime(folder / "metrics.jsonl", (1e8, 1e8))
        assert read_run_log(folder).status == "running"


def test_the_time_left_includes_what_follows_the_last_step(tmp_path: Path) -> None:
    """Steps take 0.5 s where 0.25 s were predicted, so everything else takes twice its prediction."""
    plan = {"step_seconds": 0.25, "left": {"steps": 50.0, "evaluations": 30.0, "samples": 4.0, "probes": 0.0}}

    def left(steps: int) -> float | None:
        log = read_run_log(made_up_run(tmp_path, status=None, steps=steps))
        return seconds_left(replace(log, record={**log.record, "plan": plan}, training_since=1.0))

    # Ten evaluations of 3 s and two samples of 2 s are planned, of which eight and two are left.
    assert left(50) == 150 * 0.5 + 2 * (8 * 3 + 2 * 2)
    assert left(200) == 2 * (3 + 2)


def test_predicted_and_measured_times_are_of_the_whole_run(tmp_path: Path) -> None:
    """A resumed run ends twice; the plan of its second process covers the steps that were left to it."""
    folder = made_up_run(tmp_path, status="done", steps=200)
    log = read_run_log(folder)
    plan = {"step_seconds": 0.4, "seconds": 80.0, "all_seconds": 50.0, "left": {"steps": 40.0, "evaluations": 10.0}}
    both = replace(
        log, record={**log.record, "plan": plan}, ends=(replace(log.ends[0], step=100, seconds=60.0), *log.ends)
    )
    rows = {name: cells for name, *cells in plan_table(both)["rows"]}
    assert rows["time in steps"] == ["1 min 20 s", "1 min 40 s"]
    assert rows["time with start, evaluation and saving"] == ["1 min 40 s", "6 min 00 s"]  # 80 + 2 x 10; 60 + 300
    killed = replace(both, ends=(replace(log.ends[0], seconds=60.0),))
    assert "time with start, evaluation and saving" not in {name for name, *_ in plan_table(killed)["rows"]}
    assert plan_table(both)["heads"] == ["", "predicted", "measured"]


def test_a_run_without_a_step_is_not_damaged(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, status="interrupted", steps=0)
    assert status_line(read_run_log(folder)) == "interrupted before its first step"
    (folder / "metrics.jsonl").unlink()
    log = read_run_log(folder)
    assert status_line(log) == page_state([log])["runs"][0]["facts"]["status"] == "interrupted before its first step"
