"""`light-llm verify-resume`: the runs are equal on this machine, and each difference would be differences."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from light_llm.cli.verify_resume import _differences
from tests.support.child import Child
from tests.support.faults import train
from tests.support.tools import flip

SMALLER = [w for s in ("model.n_layer=1", "model.n_embd=24", "model.n_head=3") for w in ("--set", s)]


def forked(words: list[str], *, env: dict[str, str], **_: Any) -> "subprocess.CompletedProcess[str]":
    """Run `python -m light_llm WORDS ...`: each in a process of its own, and none waits for torch."""
    child = Child(words[3:], env=env)
    return subprocess.CompletedProcess(words, child.wait(), *child.output)


def test_the_verdict_on_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", forked)
    assert main(["verify-resume", "--dtype", "float32", "--max-steps", "8", "--stop-at", "3", *SMALLER]) == 0
    out = capsys.readouterr().out
    assert "2 of 3   the same, stopped after step 3" in out and "dtype float32" in out
    assert "verdict  the same to the last bit: weights, optimizer, generators, counters, best model, metrics" in out


def test_every_difference_is_named(poem: Path) -> None:
    train(poem, "whole")
    shutil.copytree("whole", "parts")
    whole, parts = Path("whole"), Path("parts")
    assert list(_differences(whole, parts, 30)) == []
    flip(parts / "step-000030/model.safetensors", 0.9)
    flip(parts / "step-000030/state.json")
    flip(parts / "best_model.pt")
    rows = (parts / "metrics.jsonl").read_text().splitlines()
    rows[11] = rows[11].replace('"loss": 3', '"loss": 4')
    (parts / "metrics.jsonl").write_text("\n".join(rows))
    differences = list(_differences(whole, parts, 30))
    assert differences[0].startswith("model.safetensors of step 30: wte.weight, by up to ")
    assert differences[1:] == ["state.json of step 30", "best_model.pt", "the metrics, from step 11 on"]
