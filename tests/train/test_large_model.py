"""A model too large for `best_model.pt`: its run keeps the folder of its best step, in several files, instead."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm import cli
from light_llm.checkpoint import RunFolder, load_model, read_model, read_step
from light_llm.generate import TextGenerator
from light_llm.train import Result, Trainer
from light_llm.train.checkpointer import Checkpointer
from tests.support.tools import SMALL, byte_loader, byte_model, rows_of

# The held-out split has other characters, so the first evaluation is the best and the best step none of the newest.
TEXT = "the owl and the pussycat went to sea. " * 60 + "0123456789!?+" * 22
RUN: dict[str, Any] = SMALL | {"max_steps": 18, "eval_interval": 4, "save_interval": 6, "keep_every": 0, "lr": 3e-2}
LIMIT = 6000  # parameters; the model has about 21,000


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpointer, "file_parameters", LIMIT)


def train(text: Path, out: str, **changes: Any) -> Result:
    return Trainer(byte_model(), byte_loader(text), out=out, **(RUN | changes)).train()


@pytest.mark.usefixtures("_small_files")
def test_the_folder_of_the_best_step_takes_the_place_of_the_model_file(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(text, "run")
    assert result.best_step == 4
    run, printed = RunFolder("run"), Path("run/train.log").read_text()
    best = run.best()
    assert best == run.step_path(4)
    assert not run.best_model.exists() and len([*best.glob("model-*-of-*.safetensors")]) > 2
    assert [p.name for p in run.steps()] == [best.name, "step-000012", "step-000018"], "older best steps are removed"
    assert printed.count("has no best_model.pt") == 1 and f"at step {result.best_step}: {best}" in printed
    evals = {row["step"]: row["loss"] for row in rows_of("run", "eval")}
    assert result.best_loss == min(evals.values()) == evals[result.best_step]

    # What takes a run takes its best step.
    weights = read_step(best)[0]
    assert load_model("run").file.path == best
    assert all(torch.equal(t, weights[name]) for name, t in read_model("run").weights.items())
    a, b = (TextGenerator(path).generate("the", max_new_tokens=5, temperature=0) for path in ("run", best))
    assert a == b and len(a) > 3
    assert cli.run(["export", "gguf", "--checkpoint", "run", "--out", "exported.gguf"]) == 0
    capsys.readouterr()
    assert cli.run(["runs", "run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 1


@pytest.mark.usefixtures("_small_files")
def test_a_resumed_run_knows_its_best_step(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the evaluation of a step that was saved before it was found to be the best."""
    how: dict[str, Any] = {"save_interval": 4}
    train(text, "whole", **how)
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "4")
    train(text, "run", **how)
    monkeypatch.delenv("LIGHT_LLM_STOP_AFTER")
    result = train(text, "run", resume=True, **how)
    whole, run = RunFolder("whole"), RunFolder("run")
    assert rows_of("run", "eval") == rows_of("whole", "eval")
    assert run.read_best_step() == whole.read_best_step() and result.best_step == whole.read_best_step()["step"] == 4
    assert [p.name for p in run.steps()] == [p.name for p in whole.steps()]
    for path in whole.step_path(4).glob("*.safetensors"):
        assert path.read_bytes() == (run.step_path(4) / path.name).read_bytes()
    again = Trainer(byte_model(), byte_loader(text), out="whole", resume=True, **(RUN | how)).train()
    assert (again.status, again.step) == ("done", 18), "a finished run has nothing left to do"


@pytest.mark.usefixtures("_small_files")
def test_without_its_record_the_newest_step_is_the_model(text: Path) -> None:
    train(text, "run", max_steps=8)
    run = RunFolder("run")
    good = run.best_step.read_bytes()
    for bad in (b"", b"{}", good.replace(b'"step": ', b'"step": 9'), b'{"step": 4}'):
        run.best_step.write_bytes(bad)
        assert run.best() is None and load_model("run").file.path == run.latest_step()
    run.best_step.unlink()
    assert run.best() is None
