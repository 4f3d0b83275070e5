"""The first measurement of a machine: progress, a busy machine, errors that come before it; and what a run records."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from light_llm.config import TrainConfig
from light_llm.errors import CheckpointError
from light_llm.runtime import machine_cache
from light_llm.train import Step, Trainer, measure
from light_llm.train.measure import RecordStepTime, announcement, measure_machine
from tests.support.tools import SMALL, byte_loader, byte_model


@pytest.fixture(autouse=True)
def unknown_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache without measurements, of this process alone."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "empty cache"))
    monkeypatch.setattr(machine_cache, "_disturbed", {})


def child(*messages: dict[str, Any], then: str = "") -> list[str]:
    """The command of a made-up child process."""
    lines = [f"print({json.dumps(json.dumps(message))}, flush=True)" for message in messages]
    return [sys.executable, "-c", "\n".join(["print('no JSON', flush=True)", *lines, then])]


def test_a_child_tells_its_progress_and_what_it_measured_while_the_machine_was_busy() -> None:
    shown: list[tuple[str, int, int]] = []
    command = child({"stage": "measuring", "done": 3, "total": 26}, {"disturbed": {"speed": 2.5}})
    measure._follow(command, lambda *progress: shown.append(progress))
    assert shown == [("measuring", 3, 26)]
    assert machine_cache.disturbed_measurements() == {"speed": 2.5} and not machine_cache.read_measurements()


def test_a_child_that_is_silent_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_SILENCE", 0.2)
    started = time.monotonic()
    measure._follow(child(then="import time; time.sleep(600)"), lambda *progress: None)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(("speed", "checks", "words"), [(True, True, "First run"), (True, False, "speed")])
def test_the_reader_is_told_before_they_wait(speed: bool, checks: bool, words: str) -> None:
    assert words in announcement(speed=speed, checks=checks) and "s" in announcement(speed=False, checks=True)


def test_a_known_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "is_known", lambda *_: True)
    said: list[str] = []
    measure_machine(byte_model().config, "cpu", "float32", doctor=False, say=said.append)
    assert not said


def test_a_folder_that_cannot_be_made_is_refused_before_the_measurement(
    poem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_yet(*_: object, **__: object) -> None:
        raise AssertionError("the machine is measured first")

    monkeypatch.setattr("light_llm.train.preflight.measure_machine", not_yet)
    Path("file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        Trainer(byte_model(), byte_loader(poem), out="file/run", max_steps=1, **SMALL).train()


def test_a_run_records_its_steps_with_the_processor_time_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[list[float], list[float]]] = []
    monkeypatch.setattr(measure, "record_steps", lambda shape, train, *values: recorded.append(values))
    clocks: Iterator[float] = iter(range(100))
    # A second passes from step to step, in which this thread has the processor for half a second.
    fake = SimpleNamespace(perf_counter=lambda: float(next(clocks)), thread_time=lambda: 0.0)
    monkeypatch.setattr(measure, "time", fake)
    config = TrainConfig(device="cpu", dtype="float32", compile="off")
    callback = RecordStepTime(SimpleNamespace(config=config, model=byte_model()), 32)  # type: ignore[arg-type]
    for number in range(1, 6):
        fake.thread_time = lambda number=number: 0.5 * number
        callback.on_step(Step(number, 1.0, 1.0, 1e-3, seconds=0.1 * number))
    callback.on_end("done")
    assert recorded == [([0.1 * 3, 0.1 * 4, 0.1 * 5], [0.5, 0.5, 0.5])]
