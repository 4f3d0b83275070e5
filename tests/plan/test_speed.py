"""Where a predicted time comes from: a quiet measurement, a busy one, or what real runs took. No real clock is read."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from light_llm.config import ModelConfig, TrainConfig
from light_llm.plan import profile as profile_module
from light_llm.plan import speed
from light_llm.plan.memory_model import StepShape
from light_llm.plan.plan import Plan, make_plan
from light_llm.plan.profile import Profile, is_known
from light_llm.plan.render import header_lines, table
from light_llm.plan.time_model import step_seconds
from light_llm.runtime import machine_cache
from light_llm.runtime.machine_cache import cached_measurements, read_measurements
from light_llm.runtime.timing import BusyMeter
from tests.support.tools import PROFILE

CPU = TrainConfig(device="cpu", dtype="float32", compile="off")
NANO, MICRO = ModelConfig.nano(), ModelConfig.micro()
SHAPE = StepShape.of(NANO, CPU, 128)
PREDICTED = step_seconds(SHAPE, PROFILE)
QUIET = [1.0] * 20


class Machine:
    """A machine with two clocks: other programs take `load` of the processor, so everything takes longer."""

    def __init__(self) -> None:
        self.elapsed = self.processor = self.load = 0.0
        self.measurements = 0

    def meter(self) -> BusyMeter:
        return BusyMeter(clock=lambda: self.elapsed, processor=lambda: self.processor)

    def measure(self, *_: object, progress: object = None) -> Profile:
        self.measurements += 1
        slowdown = 1 / (1 - self.load)
        self.elapsed, self.processor = self.elapsed + 5 * slowdown, self.processor + 5
        return Profile(**{k: _scaled(v, slowdown) for k, v in vars(PROFILE).items()})


def _scaled(value: Any, factor: float) -> Any:
    return tuple(factor * x for x in value) if isinstance(value, tuple) else factor * value


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path))
    monkeypatch.setattr(machine_cache, "_disturbed", {})
    monkeypatch.setattr(profile_module, "measure_profile", machine.measure)
    monkeypatch.setattr(profile_module, "cached_measurements", partial(cached_measurements, make_meter=machine.meter))
    yield machine


def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another process had started: only what is in the cache is left."""
    monkeypatch.setattr(machine_cache, "_disturbed", {})


def planned(model: ModelConfig = NANO) -> Plan:
    return make_plan(model, CPU, 128)


def header(model: ModelConfig = NANO) -> str:
    lines = [*header_lines(planned(model)), *table(planned(model))]
    assert all(len(line) <= 80 for line in lines)
    return "\n".join(lines)


def test_a_busy_measurement_is_used_once_and_the_next_quiet_start_measures_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.load = 0.6
    plan = planned()
    assert planned().step == plan.step and machine.measurements == 1, "measured once in this process"
    assert plan.step == pytest.approx(2.5 * PREDICTED) and plan.to_dict()["speed_source"] == "busy"
    assert "while other programs were running" in header() and not read_measurements()
    restarted(monkeypatch)
    assert not is_known("cpu", "float32")
    machine.load = 0.0
    assert planned().step == pytest.approx(PREDICTED) and machine.measurements == 2
    assert "measured on this machine" in header() and "while" not in header()
    restarted(monkeypatch)
    assert planned().step == pytest.approx(PREDICTED) and machine.measurements == 2, "cached"


def record(seconds: float) -> bool:
    """A quiet run of 100 such steps."""
    return speed.record_steps(SHAPE, CPU, [seconds] * 100, [1.0] * 100)


def test_a_run_corrects_its_own_prediction(machine: Machine) -> None:
    first, other = planned(), planned(MICRO)
    assert record(1.2 * PREDICTED)
    now = planned()
    assert now.step == pytest.approx(1.2 * PREDICTED) and now.to_dict()["speed_source"] == "last run"
    assert "this machine did " in header() and " a step last time" in header()
    assert now.seconds and first.seconds and now.seconds.probes == pytest.approx(1.2 * first.seconds.probes)
    assert planned(MICRO).step == other.step, "the profile is right within its accuracy"


def test_a_run_that_shows_a_wrong_profile_corrects_all_steps(machine: Machine) -> None:
    before = planned(MICRO).step
    assert before is not None
    assert record(8 * PREDICTED)
    assert planned(MICRO).step == pytest.approx(8 * before) and "corrected by the last run" in header(MICRO)
    assert record(1.2 * PREDICTED), "the next good run takes the correction back"
    assert planned(MICRO).step == pytest.approx(before)


@pytest.mark.parametrize(
    ("seconds", "shares"),
    [
        ([1.0] * 20, [0.5] * 20),  # other programs took the processor
        ([0.5, 1.0] * 10, QUIET),  # now and then
        ([1.0] * 5, [1.0] * 5),  # too few steps
        ([0.01] * 20, QUIET),  # too short
    ],
)
def test_a_disturbed_or_short_run_corrects_nothing(machine: Machine, seconds: list[float], shares: list[float]) -> None:
    before = planned().step
    assert not speed.record_steps(SHAPE, CPU, seconds, shares)
    assert planned().step == before


def test_a_few_slow_steps_do_not_matter(machine: Machine) -> None:
    assert speed.record_steps(SHAPE, CPU, [1.0] * 17 + [9.0] * 3, [1.0] * 17 + [0.1] * 3)
    assert planned().step == pytest.approx(1.0)


def test_a_busy_profile_is_no_measure_of_a_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.load = 0.9
    planned()
    assert record(1.0), "the run itself was quiet"
    assert planned().step == pytest.approx(1.0)
    restarted(monkeypatch)
    machine.load = 0.0
    assert planned(MICRO).to_dict()["speed_source"] == "measured"


def test_steps_are_kept_by_what_decides_their_time(machine: Machine) -> None:
    assert record(1.0)
    for other in (replace(CPU, batch_size=4), replace(CPU, optimizer="muon"), replace(CPU, dtype="bfloat16")):
        assert make_plan(NANO, other, 128).to_dict()["speed_source"] != "last run"
    same = replace(CPU, lr=1e-4, max_steps=77)
    assert make_plan(NANO, same, 128).step == pytest.approx(1.0)


def test_forgotten_speeds_are_measured_again(machine: Machine) -> None:
    planned()
    record(1.0)
    machine_cache.store_measurements({"another program's": 2.0})
    speed.forget_speed()
    assert planned().step == pytest.approx(PREDICTED) and machine.measurements == 2
    assert read_measurements()["another program's"] == 2.0
