"""A resumed run equals an uninterrupted one bit for bit; settings that may not change and damaged files are refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder, read_model
from light_llm.config import ModelConfig
from light_llm.errors import CheckpointError, ConfigError, LightLLMError
from light_llm.model import LightLLM
from light_llm.train import Callback, EvaluateHeldOut, Step, Trainer
from light_llm.train.saved_run import data_changes
from tests.support.tools import SMALL, Foreign, byte_loader, byte_model, flip, rows_of, tensors_of, train_small


def test_a_run_killed_before_its_evaluation_makes_it_on_resume(poem: Path) -> None:
    train_small(poem, "whole", max_steps=20)

    class Killed(BaseException):
        pass

    class Kill(Callback):
        def on_step(self, step: Step) -> None:
            raise Killed

    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem), out="parts", **SMALL, max_steps=20)
    trainer.add_callback(Kill(), every=10, before=EvaluateHeldOut)  # after the probe and the save
    with pytest.raises(Killed):
        trainer.train()
    assert rows_of("parts", "eval") == [] and not Path("parts/best_model.pt").exists()
    train_small(poem, "parts", max_steps=20, resume=True)
    assert rows_of("parts", "eval") == rows_of("whole", "eval")
    assert Path("whole/best_model.pt").read_bytes() == Path("parts/best_model.pt").read_bytes()


def test_more_steps_extend_a_run_and_keep_its_schedule(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_small(poem, max_steps=20)
    _, result = train_small(poem, max_steps=30, resume=True, quiet=False)
    assert "the learning-rate schedule ends at step 20: the rate is 1.0e-03 from step 21 on" in capsys.readouterr().out
    rates = {row["step"]: row["lr"] for row in rows_of("run", "step")}
    assert result.step == 30 and rates[25] == rates[30] == pytest.approx(1e-3)
    assert json.loads(Path("run/run.json").read_text())["run"]["train"]["lr_horizon"] == 20
    _, result = train_small(poem, max_steps=30, resume=True)
    assert (result.status, result.step) == ("done", 30)  # nothing left to do


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 3e-3}, r"train.lr: 0.01 -> 0.003"),
        ({"weight_decay": 0.2}, r"train.weight_decay: 0.1 -> 0.2"),
        (
            {"model": LightLLM(ModelConfig(vocab_size=257, n_positions=32, n_embd=24, n_head=2))},
            "model.n_layer: 2 -> 6",
        ),
    ],
)
def test_a_resumed_run_refuses_other_settings(poem: Path, changes: dict[str, Any], message: str) -> None:
    train_small(poem, max_steps=4)
    with pytest.raises(ConfigError, match=message):
        train_small(poem, max_steps=8, resume=True, **changes)


def test_a_resumed_run_refuses_another_text_order_or_batch(poem: Path) -> None:
    train_small(poem, max_steps=4)
    for loader, message in (
        (byte_loader(poem, batch_size=2), "train.batch_size: 4 -> 2"),
        (byte_loader(poem, seed=2), "data.seed: 1 -> 2"),
        (byte_loader(poem, max_length=8), "data.max_length: 16 -> 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            Trainer(byte_model(dropout=0.2), loader, out="run", resume=True, **SMALL)
    poem.write_text(poem.read_text().replace("owl", "rat"))
    with pytest.raises(ConfigError, match=r"text, SHA-256: [0-9a-f]{12}... -> [0-9a-f]{12}..."):
        Trainer(byte_model(dropout=0.2), byte_loader(poem), out="run", resume=True, **SMALL)


def test_a_resumed_run_refuses_another_split_of_the_same_text(poem: Path) -> None:
    """As earlier versions made with a large held-out share of few documents."""
    batches = byte_loader(poem)
    assert batches.dataset is not None
    old = batches.dataset.record()
    assert not data_changes(old, batches)
    [change] = data_changes(old | {"train_tokens": 1234}, batches)
    assert change == f"training tokens: 1,234 -> {old['train_tokens']:,}"


def test_a_damaged_checkpoint_is_passed_over_loudly(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The step before it is gone on from, and the damaged one is neither removed nor taken for a checkpoint again."""
    train_small(poem, "whole", max_steps=30)
    train_small(poem, max_steps=20, lr_horizon=30)
    flip(Path("run/step-000020/model.safetensors"))
    _, result = train_small(poem, max_steps=30, resume=True, quiet=False)
    said = capsys.readouterr().out
    assert re.search("step-000020/model.safetensors.*SHA-256", said)
    assert re.search("resumed.* 10 .*run/step-000010", said)
    assert result.step == 30 and Path("run/step-000020.damaged/model.safetensors").is_file()
    assert tensors_of("whole/step-000030") == tensors_of("run/step-000030")
    assert rows_of("whole", "step") == rows_of("run", "step")


def test_nothing_is_resumed_from_when_every_step_is_damaged(poem: Path) -> None:
    train_small(poem, max_steps=20)
    flip(Path("run/step-000020/optimizer.safetensors"))
    flip(Path("run/step-000010/MANIFEST.json"), 0.9)
    message = r"optimizer.safetensors is damaged: .*; run/step-000010.* is .*damaged.*; no step in run is intact"
    with pytest.raises(CheckpointError, match=message):
        train_small(poem, max_steps=30, resume=True)


@pytest.mark.parametrize("text", ["{}", '{"run": {}}', '{"run": {}, "decided": {"device": 1}}', "[]", "{", None])
def test_a_damaged_record_is_named_and_the_newest_step_has_its_own(
    poem: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    train_small(poem, max_steps=2)
    path = Path("run/run.json")
    path.write_text(text if text is not None else path.read_text().replace('"lr": 0.01', '"lr": 0.03'))
    _, result = train_small(poem, max_steps=4, resume=True, quiet=False)
    assert result.step == 4 and re.search(
        r"run.json is (missing or )?damaged.*; it is not used", capsys.readouterr().out
    )
    assert RunFolder("run").read_run()["run"]["train"]["lr"] == 0.01


def test_a_step_that_is_of_another_version_is_named(poem: Path) -> None:
    train_small(poem, max_steps=2)
    run = RunFolder("run")
    run.write_run({**run.read_run(), "run": {"train": {"colour": 3}}})
    with pytest.raises(CheckpointError, match="run.json.*'colour'"):
        train_small(poem, max_steps=4, resume=True)


def test_another_kind_of_loader_is_refused(poem: Path) -> None:
    train_small(poem, max_steps=2)
    with pytest.raises(ConfigError, match="data: light-llm's loader -> another kind of loader"):
        Trainer(byte_model(dropout=0.2), Foreign(byte_loader(poem)), out="run", resume=True, **SMALL)


def test_a_run_from_another_machine_goes_on_here(poem: Path) -> None:
    """Started on a GPU that is not here: `auto` takes what is; asking for it by name is an error."""
    settings = {k: v for k, v in SMALL.items() if k != "device"}
    train_small(poem, max_steps=2)
    run = RunFolder("run")
    record = run.read_run()
    record["decided"]["device"]["value"] = record["run"]["train"]["device"] = "cuda:7"
    run.write_run(record)
    with pytest.raises(LightLLMError, match="cuda:7"):
        Trainer(byte_model(dropout=0.2), byte_loader(poem), out="run", resume=True, device="cuda:7", **settings)
    result = Trainer(
        byte_model(dropout=0.2), byte_loader(poem), out="run", resume=True, max_steps=4, **settings
    ).train()
    again = run.read_run()
    assert result.step == 4 and again["decided"]["device"]["value"] != "cuda:7"
    assert again["started"] == record["started"]


def test_a_killed_overwriting_run_is_undone_on_resume(poem: Path) -> None:
    train_small(poem, max_steps=4)
    RunFolder("run").archive_existing_run(explicit=True, overwrite=True)  # and then the lights go out
    Path("run/run.json").write_text("half")
    assert train_small(poem, max_steps=6, resume=True)[1].step == 6


def test_a_best_model_that_was_deleted_is_written_again(poem: Path) -> None:
    train_small(poem, max_steps=20)
    Path("run/best_model.pt").unlink()
    _, result = train_small(poem, max_steps=30, resume=True)
    assert result.best_step == 30 and read_model("run/best_model.pt").meta["step"] == 30


def test_a_resume_keeps_what_is_not_named(poem: Path) -> None:
    """From Python, without saying the recipe again."""
    train_small(poem, max_steps=6)
    result = Trainer(
        byte_model(dropout=0.2), byte_loader(poem), out="run", resume=True, max_steps=8, quiet=True
    ).train()
    assert result.step == 8
    with pytest.raises(ConfigError, match="max_steps=5.* 8"):
        Trainer(byte_model(dropout=0.2), byte_loader(poem), out="run", resume=True, max_steps=5)
