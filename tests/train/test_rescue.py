"""A run that an exception ends: the last whole step is saved, and a resumed run is the uninterrupted one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.data import DataLoader
from light_llm.errors import ConfigError
from light_llm.train import Callback, Step, Trainer
from tests.support.tools import SMALL, byte_loader, byte_model, rows_of, same, tensors_of

HOW: dict[str, Any] = SMALL | {"max_steps": 6, "eval_interval": 100, "save_interval": 100, "probe_interval": 0}
HOW |= {"skip_doctor": True}


def trainer(poem: Path, out: str, **changes: Any) -> Trainer:
    return Trainer(byte_model(dropout=0.2), byte_loader(poem), out=out, **(HOW | changes))


def note_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    return " ".join(error.value.__notes__)


def interrupt(call: Callable[..., Any], at: int, *, after: bool = False) -> Callable[..., Any]:
    """A function that is interrupted at its n-th call, before or after its work."""
    calls = [0]

    def wrapped(*args: Any, **how: Any) -> Any:
        calls[0] += 1
        if calls[0] == at and not after:
            raise KeyboardInterrupt
        result = call(*args, **how)
        if calls[0] == at:
            raise KeyboardInterrupt
        return result

    return wrapped


@pytest.mark.parametrize(
    ("place", "after", "step"),
    [
        ("batch", False, 3),  # the fourth batch cannot be read
        ("compute_gradients", True, 3),  # dropout has drawn its masks
        ("check", True, 3),  # called twice a step: the step is counted, and its update has not begun
        ("zero_grad", False, 4),  # the update is complete, and no callback has seen the step
        ("notify", False, 4),
        ("notify", True, 4),
    ],
)
def test_an_interruption_at_any_point_saves_the_last_whole_step(
    poem: Path, place: str, after: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(poem, "whole").train()
    stopped, at = trainer(poem, "two"), 7 if place == "check" else 4
    owner: Any = {"batch": DataLoader, "zero_grad": torch.optim.Optimizer}.get(place, stopped)
    with monkeypatch.context() as patched:
        patched.setattr(owner, place, interrupt(getattr(owner, place), at=at, after=after))
        with pytest.raises(KeyboardInterrupt) as error:
            stopped.train()
    assert note_of(error) == f"light-llm: two/step-{step:06d} is saved, continue with resume=True"
    assert [row["step"] for row in rows_of("two", "step")] == [*range(1, step + 1)]
    trainer(poem, "two", resume=True).train()
    assert same()


def test_an_interrupted_update_is_not_saved(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = trainer(poem, "run", save_interval=2)
    monkeypatch.setattr(torch.optim.AdamW, "step", interrupt(torch.optim.AdamW.step, at=4))
    with pytest.raises(KeyboardInterrupt) as error:
        stopped.train()
    assert "the update after step 3 was incomplete" in note_of(error) and "run/step-000002 is saved" in note_of(error)
    assert [path.name for path in stopped.folder.steps()] == ["step-000002"]


def test_an_error_of_a_callback_or_a_loader_keeps_the_work(poem: Path) -> None:
    class Broken(Callback):
        def on_step(self, step: Step) -> None:
            if step.number == 2:
                raise ZeroDivisionError

    first = trainer(poem, "callback")
    first.add_callback(Broken())
    with pytest.raises(ZeroDivisionError) as bug:
        first.train()
    assert "callback/step-000002 is saved" in note_of(bug)

    def batches() -> Iterator[Any]:
        loader = byte_loader(poem)
        yield from (loader.batch(k) for k in range(3))
        raise OSError("the share is gone")

    with pytest.raises(OSError, match="the share is gone") as error:
        Trainer(byte_model(), batches(), out="loader", **HOW).train()
    assert "loader/step-000003 is saved" in note_of(error)
    assert "ended    by OSError; loader/step-000003" in Path("loader/train.log").read_text()


def test_a_save_that_fails_hides_no_error(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = trainer(poem, "run")
    monkeypatch.setattr(broken.checkpointer, "save", lambda: 1 / 0)
    broken.every(2, lambda step: vars(step)["no such key"])
    with pytest.raises(KeyError) as error:
        broken.train()
    assert "step 2 could not be saved (ZeroDivisionError" in note_of(error)
    early = trainer(poem, "early")
    monkeypatch.setattr(early, "compute_gradients", interrupt(early.compute_gradients, at=1))
    with pytest.raises(KeyboardInterrupt) as stop:
        early.train()
    assert note_of(stop) == "light-llm: no step was complete, and there is no checkpoint"


def test_a_loader_that_ends_stops_the_run_with_its_model(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loader = byte_loader(poem)
    result = Trainer(byte_model(), (loader.batch(k) for k in range(4)), out="run", **(HOW | {"quiet": False})).train()
    assert (result.status, result.step) == ("stopped", 4) and result.best_loss is not None
    said = " ".join(capsys.readouterr().out.split())
    assert "the loader ended after 4 batches" in said and "the run stops at step 4 of 6" in said
    assert tensors_of("run/step-000004") and Path("run/best_model.pt").is_file()
    with pytest.raises(ConfigError, match="the loader gives no batches"):
        Trainer(byte_model(), iter([]), out="none", **HOW).train()
