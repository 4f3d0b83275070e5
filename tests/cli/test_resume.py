"""--resume with the command of the start: every flag repeated with its value, and folders without a step."""

import io
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.cli.main import main
from light_llm.cli.resume import compare_with_start
from light_llm.cli.train import TrainFlags, parse_train
from light_llm.config import FLAGS
from light_llm.errors import ConfigError
from light_llm.train.saved_run import SavedRun, read_saved_run, refuse_changes
from tests.support.tools import rows_of

# Flags of a command that say nothing about the run itself.
PROCESS = {"out", "resume", "overwrite", "force", "skip_doctor", "watch", "offline", "quiet", "processes", "requeue"}
# A value for each other flag, and another one that a resumed run cannot have, or "" where it can.
REPEATED = {
    "preset": ("nano", "micro"),
    "config": ("recipe.toml", ""),
    "set": ("train.beta2=0.9", "train.beta2=0.8"),
    "fit": ("", ""),
    "budget": ("5min", "10min"),
    "data": ("-", ""),
    "tokenizer": ("bpe:300", "bpe:400"),
    "max_length": ("16", "32"),
    "held_out": ("0.2", "0.1"),
    "val_data": ("b.txt", ""),
    "text_field": ("text", "body"),
    "errors": ("replace", "strict"),
    "separator": ("---", "+++"),
    "suffixes": (".txt", ".md"),
    "seed": ("5", "6"),
    "max_steps": ("2", ""),
    "batch_size": ("4", "8"),
    "micro_batch": ("2", ""),
    "optimizer": ("muon", "adamw"),
    "lr": ("0.01", "0.02"),
    "warmup_steps": ("1", "2"),
    "weight_decay": ("0.2", "0.1"),
    "on_nonfinite": ("skip", ""),
    "eval_interval": ("50", ""),
    "patience": ("3", ""),
    "save_interval": ("50", ""),
    "device": ("cpu", ""),
    "dtype": ("float32", ""),
    "compile": ("off", ""),
    "parallel": ("ddp", ""),
    "tensor": ("1", ""),
    "tracker": ("none", ""),
    "init_from": ("first", "second"),
    "dropout": ("0.1", "0.2"),
}
TINY = ["--set", "model.n_layer=1", "--set", "model.n_embd=24", "--set", "model.n_head=3"]
TINY += ["--set", "train.sample_interval=0", "--set", "train.probe_interval=0", "--skip-doctor"]


def words(*names: str) -> list[str]:
    return [part for name in names for part in (f"--{name.replace('_', '-')}", REPEATED[name][0]) if part]


def test_the_table_has_every_flag() -> None:
    flags = {f.name for f in fields(TrainFlags)} | set(FLAGS)
    assert flags == set(REPEATED) | PROCESS


@pytest.fixture
def start(poem: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run that was stopped after its first step, with all flags that go together."""
    Path("b.txt").write_text("the rat and the hat. " * 40)
    Path("recipe.toml").write_text("[train]\nbeta1 = 0.8\n")
    together = [name for name in REPEATED if name not in ("fit", "budget", "init_from", "max_length")]
    command = ["train", *words(*together), *TINY, "--max-length", "16", "--out", "r"]
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "1")
    with monkeypatch.context() as piped:
        piped.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(poem.read_bytes() * 4)))
        assert main(command) == 130
    monkeypatch.delenv("LIGHT_LLM_STOP_AFTER")
    return command


def resumed(saved: SavedRun, *flags: str) -> dict[str, Any]:
    """The settings that a command changes."""
    parsed = parse_train(TrainFlags, ["--resume", "--out", "r", *flags], prog="", about="")
    settings = compare_with_start(*parsed, saved).settings
    refuse_changes(saved.run, saved.run.with_settings(**settings))
    return settings


def test_every_flag_can_be_repeated_and_no_fixed_one_changed(start: list[str]) -> None:
    saved = read_saved_run(RunFolder("r"))
    chosen = {"budget": "5min", "settings": saved.asked["settings"] | {"train__init_from": "first"}}
    saved = replace(saved, asked=saved.asked | chosen)
    for name, (value, other) in REPEATED.items():
        # Standard input is read again, and its text compared.
        assert resumed(saved, *words(name)) == ({"data__data": "-"} if name == "data" else {}), name
        if other:
            with pytest.raises(ConfigError):
                resumed(saved, f"--{name.replace('_', '-')}", other)
            assert value != other
    with pytest.raises(ConfigError, match="model.n_layer: 1 -> 6"):
        resumed(saved, "--set", "model.n_layer=6")  # of the preset, and overridden at the start
    assert resumed(saved, "--max-steps", "9") == {"train__max_steps": 9}
    saved = replace(saved, run=saved.run.with_settings(train__init_from="first"))
    assert (
        resumed(saved, "--init-from", "./first") == resumed(saved, "--init-from", str(Path("first").absolute())) == {}
    )


def test_the_same_command_resumes_and_then_says_that_it_is_finished(
    start: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*start, "--resume"]) == 0
    assert "resumed  at step 1 from r/step-000001" in capsys.readouterr().out
    before = Path("r/metrics.jsonl").read_bytes()
    assert main([*start, "--resume"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("finished ") and "2 steps" in said and "r/best_model.pt" in said and "--max-steps N" in said
    assert Path("r/metrics.jsonl").read_bytes() == before
    record = RunFolder("r").read_run()
    assert [entry["step"] for entry in record["resumes"]] == [1]
    assert record["asked"]["settings"]["data__tokenizer"] == "bpe:300" and record["run"]["data"]["tokenizer"] == "bpe"


@pytest.mark.parametrize("how", [["--resume"], ["--resume", "--max-steps", "3"], "again"])
def test_a_run_that_ended_before_its_first_checkpoint_is_never_stuck(
    start: list[str], how: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder("r")
    settings = folder.read_run()["run"]
    for path in (*folder.steps(), folder.best_model):
        folder.files.remove(path)
    capsys.readouterr()
    again = [word if word != "-" else "poem.txt" for word in start]
    assert main(again if how == "again" else ["train", "--out", "r", "--skip-doctor", *how]) == 0
    assert "the run in r ended before its first checkpoint" in " ".join(capsys.readouterr().out.split())
    assert [row["step"] for row in rows_of("r", "step")] == [1, 2] + [3] * (len(how) == 3)
    ran = folder.read_run()["run"]
    assert ran["model"] == settings["model"] and ran["train"]["lr"] == 0.01
