"""Requests to a running training: to stop, also within an evaluation or a sample, and to save."""

import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from light_llm.checkpoint import RunFolder
from light_llm.data import Batch
from light_llm.train import Result, Step, Trainer
from light_llm.train.agreement import StopFlag
from tests.support.tools import SMALL, byte_loader, byte_model, files_of, rows_of, same, tensors_of, train_small


@dataclass
class StopAt(StopFlag):
    """Requests a stop at the n-th check, as a signal in the middle of an evaluation does."""

    stop_at: int = 0
    checks: int = 0
    ask: Callable[[], None] = lambda: None

    def check(self, done: int = 0, total: int = 0) -> None:
        self.checks += 1
        if self.checks == self.stop_at:
            self.ask()
        super().check(done, total)


def stopped_at(stop_at: int, poem: Path, **changes: Any) -> tuple[Result, StopAt]:
    """Train into "two" with a stop that the n-th check is the first to see."""
    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out="two", **(SMALL | changes))
    requests = StopAt(stop_at=stop_at, ask=trainer.request_stop)
    trainer.stop_flag = requests
    return trainer.train(), requests


# Checks until the evaluation named: one before its first batch, then one after each, of which there are `checks`.
@pytest.mark.parametrize(
    ("evaluation", "batch", "how"),
    [
        (1, 0, {}),  # before its first batch
        (1, 3, {}),  # the first of the run: there is no best model yet
        (2, 5, {"save_interval": 7}),  # at a step that no save belongs to
        (3, 2, {}),  # of the last step: all updates are made, and still something is left to do
        (2, 1, {"patience": 1, "lr": 1e-9}),  # that may be the one that ends the run
    ],
)
def test_a_cancelled_evaluation_is_made_first_on_resume(
    evaluation: int, batch: int, how: dict[str, Any], poem: Path
) -> None:
    how = {"max_steps": 12, "eval_interval": 4, "save_interval": 4} | how
    _, whole = train_small(poem, "whole", **how)
    _, all_of_it = stopped_at(0, poem, **(how | {"max_steps": 4, "lr_horizon": 12}))
    checks = all_of_it.checks  # of one evaluation: the run above has just one
    assert checks > 8
    shutil.rmtree("two")
    result, requests = stopped_at(checks * (evaluation - 1) + batch + 1, poem, **how)
    assert requests.checks == checks * (evaluation - 1) + batch + 1  # not one batch more
    step = 4 * evaluation
    assert (result.status, result.step, requests.evaluation_cancelled) == ("interrupted", step, True)
    assert Path(f"two/step-{step:06d}/MANIFEST.json").is_file()
    assert [row["step"] for row in rows_of("two", "eval")] == list(range(4, step, 4))
    log = Path("two/train.log").read_text()
    assert re.search(rf"evaluation of step {step}\b.*resume=True", log)
    assert "light-llm train --resume --out two" in log
    _, again = train_small(poem, "two", resume=True, **how)
    assert (again.status, again.best_step) == (whole.status, whole.best_step) and same()


def test_an_evaluation_can_be_cancelled_twice(poem: Path) -> None:
    """The second time while a resumed run makes the first one: no step comes before it."""
    how = {"max_steps": 12, "eval_interval": 4, "patience": 3}
    train_small(poem, "whole", **how)
    for resume in (False, True):
        result, requests = stopped_at(3, poem, resume=resume, **how)
        assert (result.status, result.step, requests.checks) == ("interrupted", 4, 3) and not rows_of("two", "eval")
    train_small(poem, "two", resume=True, **how)
    assert same()


def test_a_sample_is_cancelled_too(poem: Path) -> None:
    how = {"max_steps": 6, "eval_interval": 100, "sample_interval": 2}
    train_small(poem, "whole", **how)
    result, requests = stopped_at(20, poem, **how)
    assert (result.status, result.step, requests.checks) == ("interrupted", 2, 20)
    assert "a sample" not in Path("two/train.log").read_text() and not requests.evaluation_cancelled
    train_small(poem, "two", resume=True, **how)
    assert same() and "a sample at step 4" in Path("two/train.log").read_text()


def test_a_requested_stop_wins_over_that_of_a_callback(poem: Path) -> None:
    """The run is interrupted, not stopped: it can be resumed."""
    trainer = Trainer(byte_model(), byte_loader(poem), out="run", **(SMALL | {"max_steps": 20}))

    def both(step: Step) -> str:
        trainer.request_stop()
        return "stop"

    trainer.every(10, both)
    result = trainer.train()
    assert (result.status, result.step) == ("interrupted", 10) and [r["step"] for r in rows_of("run", "eval")] == [10]


# ---- saves that are asked for, and by the clock


def test_a_save_on_request_changes_no_number(poem: Path) -> None:
    train_small(poem, "whole", max_steps=12, save_interval=6)
    how = SMALL | {"max_steps": 12, "save_interval": 6}
    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out="two", **how)
    found: list[list[str]] = []

    def ask(step: Step) -> None:
        found.append([path.name for path in RunFolder("two").steps()])
        if step.number == 7:
            trainer.request_save()

    trainer.every(1, ask)
    trainer.train()
    assert found[6] == ["step-000006"] and found[7:9] == [["step-000006", "step-000008"]] * 2
    log = Path("two/train.log").read_text()
    assert log.count("two/step-000008") == 1
    assert rows_of("whole", "step") == rows_of("two", "step")
    assert files_of(Path("whole/step-000012")) == files_of(Path("two/step-000012"))


@pytest.mark.parametrize(("minutes", "expected"), [(5.0, [6, 8, 12]), (0.0, [8, 12])])
def test_a_run_is_saved_by_the_clock_too(
    minutes: float, expected: list[int], poem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step takes a minute of a controlled clock."""
    how = {"max_steps": 12, "save_interval": 8, "keep_every": 1}
    train_small(poem, "whole", **how)
    how = SMALL | how | {"save_minutes": minutes}
    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out="two", **how)
    passed, clock = 0.0, time.perf_counter

    def a_minute(step: Step) -> None:
        nonlocal passed
        passed += 60

    monkeypatch.setattr("light_llm.train.checkpointer.time.perf_counter", lambda: clock() + passed)
    trainer.every(1, a_minute)
    trainer.train()
    saved = [int(path.name.split("-")[1]) for path in RunFolder("two").steps()]
    assert saved == expected  # a regular save starts the clock anew
    assert rows_of("whole", "step") == rows_of("two", "step")


def test_a_save_on_request_waits_for_a_late_update(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gated queue, as on a GPU, the queue is flushed first."""
    train_small(poem, "whole", max_steps=5, save_interval=1, keep_every=1)
    monkeypatch.setattr("light_llm.train.step.can_gate_updates", lambda device: True)
    how = SMALL | {"max_steps": 5, "save_interval": 100, "keep_every": 1}
    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out="two", **how)
    trainer.request_save()
    trainer.train()
    assert [path.name for path in RunFolder("two").steps()] == ["step-000001", "step-000005"]
    assert tensors_of(Path("two/step-000001")) == tensors_of(Path("whole/step-000001"))


def test_a_save_on_request_is_not_of_a_step_that_is_still_pending(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requested during step 3, which is not finite: the weights are past step 2 when its callbacks run."""
    monkeypatch.setattr("light_llm.train.step.can_gate_updates", lambda device: True)
    trainer = Trainer(byte_model(), byte_loader(poem), out="run", **(SMALL | {"max_steps": 5}))
    accumulate = trainer.accumulate

    def poisoned(batch: Batch, n_targets: float) -> Tensor:
        loss = accumulate(batch, n_targets)
        if trainer.state.step != 2:
            return loss
        trainer.request_save()
        return loss * math.nan

    monkeypatch.setattr(trainer, "accumulate", poisoned)
    result = trainer.train()
    assert (result.status, result.step, RunFolder("run").steps()) == ("nonfinite", 2, [])
