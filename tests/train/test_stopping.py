"""Early stopping, and the notice of a text that is being memorised."""

import re
from pathlib import Path
from typing import Any

import pytest

from light_llm.config import TrainConfig
from light_llm.errors import ConfigError
from light_llm.train import Result, Trainer
from tests.support.tools import SMALL, byte_loader, byte_model, files_of, rows_of, train_small


@pytest.fixture
def memorised(tmp_path: Path) -> Path:
    """A text whose end is unlike its beginning: the better the model knows the one, the worse it guesses the other."""
    path = tmp_path / "two.txt"
    path.write_text("the cat sat on the mat and the rat sat on the hat\n" * 36 + "QZXJWVKYBPGFMUCLDR " * 11)
    return path


HOW = {"eval_interval": 5, "max_steps": 100, "lr": 3e-2}


def test_a_run_without_patience_goes_on_and_says_what_it_sees(memorised: Path) -> None:
    _, result = train_small(memorised, **HOW)
    log = Path("run/train.log").read_text()
    assert (result.status, result.step) == ("done", 100) and result.best_step is not None and result.best_step < 90
    found = re.search(
        rf"notice   the held-out loss was lowest at step {result.best_step} \((.+)\) and is (.+) now", log
    )
    assert found and float(found[2]) > float(found[1]) and "patience=2" in log


def test_patience_ends_a_run_that_no_longer_gets_better(memorised: Path) -> None:
    _, whole = train_small(memorised, **HOW)
    _, result = train_small(memorised, "early", patience=3, **HOW)
    evaluations = rows_of("early", "eval")
    best = min(evaluations, key=lambda row: row["loss"])
    assert result.status == "stopped" and result.step == best["step"] + 15 == evaluations[-1]["step"] < whole.step
    log = Path("early/train.log").read_text()
    assert re.search(rf"stopped.* 15 steps .*patience=3.* {result.step}/100", log)
    assert "patience=2 stops" not in log and Path("early", f"step-{result.step:06d}").is_dir()
    assert rows_of("early", "step") == rows_of("run", "step")[: result.step]


def test_a_resumed_run_stops_where_the_whole_one_does(memorised: Path) -> None:
    _, whole = train_small(memorised, patience=3, **HOW)
    train_small(memorised, "two", patience=3, **(HOW | {"max_steps": whole.step - 7, "lr_horizon": 100}))
    result = again(memorised)
    assert (result.status, result.step, result.best_step) == ("stopped", whole.step, whole.best_step)
    assert files_of(Path(f"two/step-{whole.step:06d}")) == files_of(Path(f"run/step-{whole.step:06d}"))
    evaluations = rows_of("two", "eval")
    result = again(memorised)  # it is over, and stays so
    assert (result.status, result.step) == ("stopped", whole.step) and rows_of("two", "eval") == evaluations
    assert again(memorised, patience=0, max_steps=whole.step + 5).status == "done"


def test_a_polite_interruption_at_the_last_step_is_still_the_end(
    memorised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = train_small(memorised, **HOW, patience=3)
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", str(whole.step))
    _, result = train_small(memorised, "two", **HOW, patience=3)
    assert (result.status, result.step) == ("stopped", whole.step)


def again(text: Path, **changes: Any) -> Result:
    """Go on with the run in "two"."""
    settings = {k: v for k, v in SMALL.items() if k not in ("quiet", "report")} | HOW | {"lr_horizon": 100}
    config = TrainConfig(**(settings | {"patience": 3} | changes))
    model, loader = byte_model(dropout=0.2), byte_loader(text)
    return Trainer(model, loader, config, out="two", resume=True, quiet=True, report=False).train()


def test_patience_is_a_number_of_evaluations() -> None:
    with pytest.raises(ConfigError, match="patience=-1.*at least 0"):
        TrainConfig(patience=-1)
