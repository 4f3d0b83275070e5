"""Runs listed and compared: real runs of the Trainer that differ in one thing each."""

import re
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.cli import main
from light_llm.cli.runs import format_date
from light_llm.config import ModelConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.model import LightLLM
from light_llm.report import (
    Evaluation,
    common_evals,
    comparable_unit,
    eval_difference,
    exceeds_error,
    read_run_log,
    run_differences,
)
from light_llm.report.summary import key_numbers, repro_tables, run_facts
from light_llm.train import Trainer
from tests.support.tools import SMALL, Foreign, byte_loader, run_child

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def train(
    folder: Path, text: Path, *, tokenizer: str = "byte", held_out: float = 0.1, max_length: int = 16, **changes: Any
) -> None:
    """A run of a second."""
    dataset, trained = prepare_dataset(str(text), max_length=max_length, tokenizer=tokenizer, held_out=held_out)
    settings = SMALL | {"max_steps": 30, "save_interval": 1000} | changes
    Trainer(tiny_model(trained.vocab_size), create_dataloader(dataset, 4, seed=1), out=folder, **settings).train()


def tiny_model(vocab_size: int) -> LightLLM:
    return LightLLM(ModelConfig(vocab_size=vocab_size, n_positions=32, n_embd=24, n_layer=1, n_head=3))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, animal in (("text.txt", "fox"), ("other.txt", "owl")):
        lines = [f"The {animal} number {i} went down to the river to see the moon.\n" for i in range(150)]
        (folder / name).write_text("".join(lines))
    text = folder / "text.txt"
    train(folder / "checkpoints", text, max_steps=60)
    train(folder / "checkpoints.1", text, lr=2e-3)
    train(folder / "by-char", text, tokenizer="char")
    train(folder / "other-text", folder / "other.txt")
    train(folder / "other-split", text, held_out=0.2)
    train(folder / "longer-windows", text, max_length=32, eval_interval=7)
    Trainer(tiny_model(257), Foreign(byte_loader(text)), out=folder / "foreign", max_steps=4, **SMALL).train()
    return folder


# ---- losses and settings


def evaluation(loss: float, stderr: float | None = 0.1) -> Evaluation:
    return Evaluation(step=10, loss=loss, stderr=stderr, bits_per_byte=loss / 2, context=16)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_difference_turns_round_with_its_runs(x: float, y: float, s: float, t: float) -> None:
    a, b = evaluation(x, s), evaluation(y, t)
    for unit in ("loss", "bits_per_byte"):
        gap, error = eval_difference(a, b, unit)
        back, same_error = eval_difference(b, a, unit)
        assert gap == -(back or 0) and error == pytest.approx(same_error)
        assert error is not None and max(a.in_unit(unit)[1] or 0, b.in_unit(unit)[1] or 0) <= error
    assert eval_difference(a, a, "loss")[0] == 0 and not exceeds_error(*eval_difference(a, a, "loss"))


def test_a_difference_by_hand() -> None:
    gap, error = eval_difference(evaluation(5.0, 0.3), evaluation(4.6, 0.4), "loss")
    assert gap == pytest.approx(-0.4) and error == pytest.approx(0.5) and exceeds_error(gap, error) is False
    gap, error = eval_difference(evaluation(5.0, 0.3), evaluation(4.4, 0.4), "bits_per_byte")
    assert gap == pytest.approx(-0.3) and error == pytest.approx(0.25) and exceeds_error(gap, error) is True
    assert eval_difference(evaluation(5.0, None), evaluation(4.0), "loss") == (-1.0, None)
    assert exceeds_error(-1.0, None) is None and exceeds_error(None, 1.0) is None


@pytest.mark.parametrize(
    ("other", "unit", "reason"),
    [
        ("checkpoints.1", "loss", "^$"),
        ("longer-windows", "loss", "^$"),
        ("by-char", "bits_per_byte", r"\(byte and char\)"),
        ("other-text", None, "The texts of A and B are not the same"),
        ("other-split", None, r"\(0.1 and 0.2 of it\)"),
        ("foreign", None, "^B has no known held-out text"),
    ],
)
def test_what_may_be_compared_by_what(runs: Path, other: str, unit: str | None, reason: str) -> None:
    found = comparable_unit(read_run_log(runs / "checkpoints"), read_run_log(runs / other))
    assert found[0] == unit and re.search(reason, found[1]), found


def test_what_may_be_compared_across_loaders_and_vocabularies(runs: Path) -> None:
    ours, foreign = (read_run_log(runs / name) for name in ("checkpoints", "foreign"))
    assert comparable_unit(foreign, ours)[1].startswith("A has no known") and foreign.best is None
    assert comparable_unit(foreign, foreign)[1].startswith("neither run has a known")
    assert ours.data is not None
    retrained = replace(ours, data={**ours.data, "tokenizer_sha256": "0"})  # of the same kind
    unit, reason = comparable_unit(ours, retrained)
    assert unit == "bits_per_byte" and "(byte and byte, with different vocabularies)" in reason


def test_what_differs_is_what_was_changed(runs: Path) -> None:
    a, b = (read_run_log(runs / name) for name in ("checkpoints", "checkpoints.1"))
    assert {name: (x, y) for name, x, y in run_differences(a, b)} == {
        "train.max_steps": (60, 30),
        "train.lr_horizon": (60, 30),
        "train.lr": (1e-2, 2e-3),
    }
    assert run_differences(a, a) == []
    names = [name for name, _, _ in run_differences(a, read_run_log(runs / "by-char"))]
    assert {"data.tokenizer", "model.vocab_size", "vocabulary, SHA-256"} <= set(names)
    newer = replace(a, record={**a.record, "machine": "another"}, versions={**a.versions, "torch": "9"})
    assert [name for name, _, _ in run_differences(a, newer)] == ["machine", "torch"]


def test_a_run_of_several_processes_says_so(runs: Path) -> None:
    """Its processes are among its facts, in the command that repeats it, and in a comparison with one process."""
    one = read_run_log(runs / "checkpoints")
    world = {"processes": 4, "machines": 1, "parallel": "ddp", "tensor": 1, "backend": "gloo"}
    four, cluster, tensor = (
        replace(one, record={**one.record, "world": {**world, **changes}})
        for changes in ({}, {"machines": 2}, {"tensor": 4})
    )
    facts = [run_facts(log).get("world") for log in (one, four, cluster, tensor)]
    assert facts == [
        None,
        "4 processes on 1 machine, ddp",
        "4 processes on 2 machines, ddp",
        "4 processes on 1 machine, 4 share each matrix (tensor)",
    ]
    commands = [repro_tables(log)["command"].partition(" --processes ")[2] for log in (one, four, cluster)]
    assert commands == ["", "4", ""]  # torchrun starts the processes of several machines
    assert run_differences(one, four) == [("processes", 1, 4)]
    notes = [{number["label"]: number["note"] for number in key_numbers(log)} for log in (one, four)]
    assert [note["peak memory"] for note in notes] == ["", "of one process"]


def test_curves_meet_where_both_were_evaluated(runs: Path) -> None:
    a, b, c = (read_run_log(runs / name) for name in ("checkpoints", "checkpoints.1", "longer-windows"))
    pairs = common_evals(a, b)
    assert pairs == [(a.evals[i], b.evals[i]) for i in range(3)] and [e.step for e, _ in pairs] == [10, 20, 30]
    assert [e.step for e, _ in common_evals(b, c)] == [30]


# ---- the commands


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def rows_by_name(text: str) -> dict[str, list[str]]:
    """The rows of all tables: the first cell, and the others."""
    assert "\x1b" not in text and all(line == line.rstrip() for line in text.splitlines())
    return {cells(line)[0]: cells(line)[1:] for line in text.splitlines() if line}


def test_runs_are_listed_with_their_results(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real runs; `tests/cli/test_runs.py` has the rest, on made-up ones."""
    monkeypatch.chdir(runs)
    rows = rows_by_name(output(capsys, "runs"))
    assert next(iter(rows)) == "run" and len(rows) == 8
    log = read_run_log("by-char")
    best = log.best
    assert best is not None and best.bits_per_byte is not None
    losses = [f"{best.loss:.3f}", f"{best.bits_per_byte:.3f}"]
    assert rows["by-char"][:5] == [f"{log.parameters / 1000:.3g}k", "text.txt, char", "30/30", *losses]
    assert rows["by-char"][-1] == format_date(log.started, datetime.now().astimezone()).strip()
    assert rows["foreign"][1:5] == ["your own loader", "4/4", "-", "-"]
    assert rows["checkpoints.1"][rows["run"].index("lr")] == "0.002"


def test_a_comparison_of_like_runs(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    text = output(capsys, "compare", "checkpoints", "checkpoints.1")
    heads = ("A  checkpoints ", "what differs", "result", "held-out loss  ", '"beyond": ')
    assert [text.index(head) for head in heads] == sorted(text.index(head) for head in heads)
    rows = rows_by_name(text)
    assert rows["train.lr"] == ["0.01", "0.002"] and rows["steps"] == ["60 of 60", "30 of 30"]
    assert rows["parameters"][2] == "same" and rows["tokens trained on"] == ["3,840", "1,920", "-1,920"]
    a, b = (read_run_log(name) for name in ("checkpoints", "checkpoints.1"))
    assert a.final_loss is not None and b.final_loss is not None
    losses = [f"{a.final_loss:.3f}", f"{b.final_loss:.3f}", f"{b.final_loss - a.final_loss:+.3f}"]
    assert rows["training, last 50 and 30 steps"] == losses
    for eval_a, eval_b in common_evals(a, b):
        gap, error = eval_difference(eval_a, eval_b, "loss")
        assert gap is not None and error is not None
        word = "beyond" if abs(gap) > error else "within"
        assert rows[f"step {eval_a.step}"][2:] == [f"{gap:+.3f} ± {error:.3f}", word]
    assert '"within" does not mean equal' in text and "(steps: A 60, B 30)" in text


@pytest.mark.parametrize(
    ("other", "shown", "not_shown"),
    [
        ("by-char", ["Bits per byte measure the same text", "held-out bits/byte", "beyond"], ["\nheld-out loss"]),
        ("other-text", ["text, SHA-256", "cannot be compared"], ["held-out bits/byte", "error bar (±)", "beyond"]),
        ("foreign", ["no losses to compare", "your own loader"], ["error bar (±)"]),
        ("longer-windows", ["(tokens: A 16, B 32)", "No step has an evaluation of both"], ["error bar (±)", "step 30"]),
    ],
)
def test_a_comparison_of_unlike_runs(
    runs: Path, tmp_path: Path, other: str, shown: list[str], not_shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a difference would mean nothing, none is printed."""
    is_longer = other == "longer-windows"
    shutil.copytree(runs / other, tmp_path / "other")
    if is_longer:  # evaluated at 7, 14, ..., 28 and at the end, 30, which is removed here
        metrics = tmp_path / "other" / "metrics.jsonl"
        rows = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join(row for row in rows if '"eval", "step": 30' not in row))
    text = output(capsys, "compare", str(runs / "checkpoints"), "other")
    assert all(words in text for words in shown) and not any(words in text for words in not_shown), text
    # A third cell is a difference.
    assert len(rows_by_name(text)["best held-out loss"]) == (3 if is_longer else 2)


def test_a_run_beside_itself_differs_in_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "checkpoints", "twin")
    text = output(capsys, "compare", str(runs / "checkpoints"), "twin")
    assert "what differs" not in text and "The settings, the text, the machine and the versions are the same." in text
    assert "beyond" not in text.replace('"beyond":', "") and text.count("same") >= 4


def test_a_long_curve_is_thinned_and_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Path("often"), runs / "text.txt", eval_interval=1, max_steps=20)
    shutil.copytree("often", "twin")
    text = output(capsys, "compare", "often", "twin")
    steps = [int(s) for s in re.findall(r"^step (\d+)", text, flags=re.MULTILINE)]
    assert len(steps) == 12 and (steps[0], steps[-1]) == (1, 20) and steps == sorted(set(steps))
    assert "12 of 20 " in text


def test_a_terminal_of_80_columns_is_wide_enough(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long names are cut or folded, numbers never; a pipe gets them whole."""
    long = "a-run-with-a-name-that-says-all-there-is-to-say-about-what-was-tried-in-it"
    shutil.copytree(runs / "checkpoints", tmp_path / "long" / long)
    shutil.copytree(runs / "other-text", tmp_path / "long" / "other")
    (tmp_path / "long" / "other" / "run.json").write_text('{"format": 7}')
    shutil.copytree(runs / "checkpoints.1", tmp_path / "b")
    commands = (["runs", "long"], ["compare", f"long/{long}", "b"], ["recipes"])
    plain = [output(capsys, *words) for words in commands]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    shown = [output(capsys, *words) for words in commands]
    for text in shown:
        assert "\x1b[" in text and max(len(ANSI.sub("", line)) for line in text.splitlines()) <= 80
    assert long in plain[0] and long in plain[1] and long not in shown[0] and "…" in shown[0]
    listed, compared = (ANSI.sub("", text) for text in shown[:2])
    assert cells(listed.splitlines()[1])[1:] == cells(plain[0].splitlines()[1])[1:]  # all but the name is there
    assert all(words in compared for words in ("60 of 60", "30 of 30", "step 30", "beyond"))
    for pair in common_evals(read_run_log(runs / "checkpoints"), read_run_log(runs / "checkpoints.1")):
        better, worse = sorted(f"{e.loss:.3f}" for e in pair)
        line = next(line for line in shown[1].splitlines() if f"step {pair[0].step}" in line)
        assert f"\x1b[1;32m{better}" in line and f"\x1b[1;32m{worse}" not in line


def test_looking_at_runs_loads_nothing_heavy(runs: Path) -> None:
    for words in (["runs"], ["compare", "checkpoints", "by-char"]):
        child = run_child([sys.executable, "-X", "importtime", "-m", "light_llm", *words], cwd=runs)
        imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
        assert child.returncode == 0 and "light_llm.report.run_log" in imported
        assert not imported & {"torch", "numpy", "tiktoken", "safetensors"}
