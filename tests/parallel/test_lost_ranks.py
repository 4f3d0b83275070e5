"""A rank that dies, hangs or fails ends the run: with the last whole step, and the reason."""

from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.runtime import World
from light_llm.train.saved_run import read_saved_run
from tests.support.ranks import run_ranks
from tests.support.training_runs import lose_rank, train


def lose(poem: Path, how: str, size: int = 2, may_die: tuple[int, ...] = (1,), **changes: Any) -> list[Any]:
    words = (str(poem), str(Path.cwd() / "run"), how, changes)
    return run_ranks(size, lose_rank, *words, timeout=200, may_die=may_die)


@pytest.mark.parametrize(
    "how", ["kill", pytest.param("stop", marks=pytest.mark.slow), pytest.param("raise", marks=pytest.mark.slow)]
)
def test_rank_0_saves_the_last_step_and_says_who_is_gone(poem: Path, how: str) -> None:
    first, second = lose(poem, how, timeout=4.0)
    kind, message, _ = first
    expected = {"kill": "is gone", "stop": "did not answer for 4 s", "raise": "ValueError: no such token"}
    assert kind == "RankLost" and "rank 1 on " in message and expected[how] in message
    assert "run/step-000003 is saved, continue with resume=True" in message
    if how == "raise":
        assert second[:2] == ["ValueError", "no such token"] and "newest checkpoint, if there is one" in second[2][0]
    # The step is that of a run that was not disturbed, and can be continued by one process.
    train(World(), str(poem), "whole", micro_batch=2, max_steps=3, lr_horizon=12)
    step = Path("run/step-000003/model.safetensors").read_bytes()
    assert step == Path("whole/step-000003/model.safetensors").read_bytes()
    assert read_saved_run(RunFolder("run")).step == Path("run/step-000003")
    assert train(World(), str(poem), "run", resume=True).state.step == 12


@pytest.mark.slow
def test_all_other_ranks_say_who_is_gone(poem: Path) -> None:
    found = lose(poem, "kill", size=4, may_die=(3,))
    assert all(error[0] == "RankLost" and "rank 3 on " in error[1] for error in found[:3])
    assert "step-000003 is saved" in found[0][1] and "the newest checkpoint, if there is one" in found[1][1]


@pytest.mark.slow
def test_shards_of_a_lost_rank_leave_the_last_checkpoint(poem: Path) -> None:
    first, _ = lose(poem, "kill", parallel="fsdp", save_interval=2)
    assert first[0] == "RankLost" and "run/step-000002 is saved" in first[1]
