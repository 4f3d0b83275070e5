"""What a run says about its learning rate is what its schedule does."""

import re
from typing import Any

import pytest

from light_llm.config import TrainConfig
from light_llm.config.schedule import learning_rate, rate_notes


def rates(config: TrainConfig) -> list[float]:
    return [learning_rate(step, config) for step in range(config.max_steps)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(500, 50), (500, 0), (20, 2), (20, 19), (1, 0)])
def test_an_ordinary_schedule_has_no_notes(schedule: str, steps: int, warmup: int) -> None:
    config = TrainConfig(max_steps=steps, warmup_steps=warmup, schedule=schedule)
    if schedule == "wsd" and warmup == 19:
        # The decay has begun when the warm-up ends, so the rate falls at once.
        (note,) = rate_notes(config)
        assert f"drops from {rates(config)[18]:.1e} to {rates(config)[19]:.1e}" in note
    else:
        assert rate_notes(config) == []


@pytest.mark.parametrize(("steps", "warmup"), [(20, 50), (20, 500), (20, 20), (1, 50)])
@pytest.mark.parametrize("horizon", [None, 5])
def test_a_warm_up_longer_than_the_run(steps: int, warmup: int, horizon: int | None) -> None:
    config = TrainConfig(max_steps=steps, warmup_steps=warmup, lr_horizon=horizon)
    (note,) = rate_notes(config)
    assert rates(config) == sorted(rates(config))
    assert f"it rises to {rates(config)[-1]:.1e} at the last step" in note
    assert ("never reaches {--lr 0.0015}" in note) == (rates(config)[-1] < config.lr)
    assert "{--warmup-steps " in note and "--warmup-steps" not in rate_notes(config, resumed=True)[0]


@pytest.mark.parametrize("changes", [{}, {"schedule": "wsd"}, {"warmup_steps": 30}, {"min_lr_ratio": 0.0}])
def test_a_run_beyond_its_schedule(changes: dict[str, Any]) -> None:
    config = TrainConfig(**({"max_steps": 40, "warmup_steps": 2, "lr_horizon": 10} | changes))
    (note,) = rate_notes(config, resumed=True)
    (value, start) = re.search(r"is (\S+) from step (\d+) on", note).groups()  # type: ignore[union-attr]
    every = rates(config)
    assert {f"{rate:.1e}" for rate in every[int(start) - 1 :]} == {value}
    assert f"{every[int(start) - 2]:.1e}" != value, "it says from where on"
    assert ("keeps rising to 1.5e-03 until step 30" in note) == (config.warmup_steps == 30)
    assert "{--set train.lr_horizon=40}" in note
