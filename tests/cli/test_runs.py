"""`light-llm runs` on made-up runs: what it lists, how it sorts, and that two names never look alike."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint.lock import FolderLock
from light_llm.cli import main
from light_llm.cli.runs import fit_names, format_date
from tests.support.made_up_run import RUN, made_up_run

ANSI = re.compile(r"\x1b\[[0-9;]*m")
SWEEP = [(lr, seed) for lr in (0.001, 0.01) for seed in (1, 2)]


def held_out(lr: float, seed: int) -> float:
    return 3 + 100 * lr + seed / 10


def sweep_run(folder: Path, lr: float, seed: int, **changes: Any) -> Path:
    run = RUN.with_settings(train__lr=lr, train__seed=seed, data__seed=seed, train__max_steps=20)
    path = made_up_run(folder, steps=20, run=run, held=lambda step: held_out(lr, seed), probed=False, **changes)
    (path / "step-000020").mkdir()
    return path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for lr, seed in SWEEP:
        sweep_run(tmp_path / "sweep" / f"lr-{lr}-s{seed}", lr, seed)
    return tmp_path / "sweep"


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["runs", *words]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def cells(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line]


def test_the_settings_that_differ_have_columns_and_the_others_none(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep)
    common, heads, *rows = cells(output(capsys))
    assert common == ["All runs: 82.0k parameters, verse.txt, bpe"]
    assert heads == ["run", "steps", "held out", "bits/B", "lr", "seed", "started"]
    assert sorted(row[:6] for row in rows) == [
        [
            f"lr-{lr}-s{seed}",
            "20/20",
            f"{held_out(lr, seed):.3f}",
            f"{0.75 * held_out(lr, seed):.3f}",
            str(lr),
            str(seed),
        ]
        for lr, seed in SWEEP
    ]
    # A single run has nothing in common with others: its model and text have columns.
    heads, row = cells(output(capsys, "lr-0.01-s1"))
    assert heads == ["run", "model", "data, tokens", "steps", "held out", "bits/B", "started"]
    assert row[1:4] == ["82.0k", "verse.txt, bpe", "20/20"]


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("held-out", ["lr-0.001-s1", "lr-0.001-s2", "lr-0.01-s1", "lr-0.01-s2"]),
        ("run", ["lr-0.001-s1", "lr-0.001-s2", "lr-0.01-s1", "lr-0.01-s2"]),
        ("seed", ["lr-0.001-s1", "lr-0.01-s1", "lr-0.001-s2", "lr-0.01-s2"]),
        ("train.lr", ["lr-0.001-s1", "lr-0.001-s2", "lr-0.01-s1", "lr-0.01-s2"]),
    ],
)
def test_runs_are_sorted(sweep: Path, key: str, order: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(output(capsys, str(sweep), "--sort", key, "--json"))["runs"]
    assert [Path(run["run"]).name for run in listed] == order


def test_losses_per_token_do_not_sort_runs_of_different_tokenizers(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run by letters has the lowest loss per token and the highest per byte."""

    def by_letters(row: dict[str, Any]) -> None:
        if row["kind"] == "eval":
            row |= {"loss": 1.5, "bits_per_byte": 9.0}

    sweep_run(sweep / "by-letters", 0.001, 1, change=by_letters, data={"tokenizer": "char", "tokenizer_sha256": "c"})
    sweep_run(
        sweep / "unfinished", 0.001, 1, change=lambda row: row.update(kind="x") if row["kind"] == "eval" else None
    )
    listed = json.loads(output(capsys, str(sweep), "--sort", "held-out", "--json"))["runs"]
    names = [Path(run["run"]).name for run in listed]
    assert names[0] == "lr-0.001-s1" and names[-2:] == ["by-letters", "unfinished"]
    assert listed[-1]["held_out_loss"] is None


def test_the_sort_key_is_shown(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tokens/s" in cells(output(capsys, str(sweep), "--sort", "speed"))[1]
    assert "loss" in cells(output(capsys, str(sweep), "--sort", "loss"))[1]
    assert main(["runs", str(sweep), "--sort", "sed"]) == 2
    assert "--sort sed is not known; did you mean seed?" in capsys.readouterr().err


def test_json_and_csv_hold_the_same_numbers(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = json.loads(output(capsys, str(sweep), "--json"))["runs"]
    rows = list(csv.DictReader(io.StringIO(output(capsys, str(sweep), "--csv"))))
    for run, row in zip(runs, rows, strict=True):
        flat = run | run.pop("settings")
        assert row == {name: str(value) for name, value in flat.items()}
        assert run["state"] == "done" and run["step"] == run["max_steps"] == 20
    assert main(["runs", str(sweep), "--csv", "--json"]) == 2


def test_a_run_is_called_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, status in {"whole": "done", "left": "interrupted", "patient": "stopped", "nan": "nonfinite"}.items():
        sweep_run(Path(name), 0.001, 1, status=status)
    for name in ("going", "killed"):
        sweep_run(Path(name), 0.001, 1, status=None, change=lambda row: row.update(kind="x") if row["step"] > 10 else 0)
    Path("killed", "step-000020").rmdir()
    Path("cut").mkdir()
    Path("cut", "run.json").write_text('{"form')
    with FolderLock(Path("going")):
        listed, text = json.loads(output(capsys, "--json")), output(capsys)
    assert {run["run"]: run["state"] for run in listed["runs"]} == {
        "whole": "done",
        "left": "interrupted",
        "patient": "stopped early",
        "nan": "not finite",
        "going": "running",
        "killed": "interrupted, no checkpoint",
    }
    assert len(listed["not_readable"]) == 1 and "cut/run.json is damaged" in listed["not_readable"][0]
    assert "\nnot listed: cut/run.json is damaged" in text and "interrupted, no checkpoint" in text


def test_a_text_from_a_pipe_has_a_name_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (1, 2):
        digest = str(n) * 64
        sweep_run(tmp_path / "piped" / str(n), 0.001, 1, data={"title": f"{digest}.txt", "sha256": digest})
    text = output(capsys, str(tmp_path / "piped"))
    assert "standard input (111111), bpe" in text and "standard input (222222), bpe" in text and "1" * 12 not in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_two_runs_look_alike_on_a_terminal(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that begin and end alike, in a list with some settings: numbers are never cut, lines never too long."""
    monkeypatch.chdir(tmp_path)
    for lr, seed in SWEEP:
        sweep_run(tmp_path / f"verse-lr-{lr}-seed-{seed}-n", lr, seed, status="interrupted" if seed == 1 else "done")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    text = ANSI.sub("", output(capsys))
    assert max(map(len, text.splitlines())) <= width
    for lr, seed in SWEEP:
        assert f"{held_out(lr, seed):.3f}" in text
    names = [word for word in text.split() if word.startswith("verse-")]
    assert len(set(names)) == 4


def test_names_are_shortened_in_the_middle_or_not_at_all() -> None:
    assert fit_names(["abcdefghijklmnopqrstuvwxyz", "b"], 17) == ["abcdefgh…stuvwxyz", "b"]
    assert fit_names(["abc", "b"], 3) == ["abc", "b"]
    assert fit_names(["abcdefghij-1-klmnopqrs", "abcdefghij-2-klmnopqrs"], 17) == []  # they would look alike
    assert fit_names(["abcdefghijklmnopqrstuvwxyz"], 10) == []


def test_without_a_run_the_way_to_one_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """That is no mistake: the exit code is 0."""
    assert output(capsys).splitlines() == ["No runs in this folder or one level below. Start one:", "  light-llm train"]
    (tmp_path / "empty").mkdir()
    assert output(capsys, "empty").startswith("No runs in empty or ")
    assert json.loads(output(capsys, "empty", "--json")) == {"runs": [], "not_readable": []}
    assert output(capsys, "empty", "--csv") == ""


def test_a_date_has_the_hour_in_the_same_year() -> None:
    zone = timezone(timedelta(hours=2))
    now = datetime(2026, 11, 22, 20, 0, tzinfo=zone)
    assert format_date(datetime(2026, 3, 1, 9, 5, tzinfo=UTC), now) == " 1 Mar 11:05"
    assert format_date(datetime(2025, 12, 31, 22, 30, tzinfo=UTC), now) == " 1 Jan 00:30"  # in the zone of `now`
    assert format_date(datetime(2025, 12, 31, 21, 30, tzinfo=UTC), now) == "31 Dec  2025"
