"""Runs in groups over seeds: statistics against closed forms and hand-computed values, and `compare` of many runs."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from light_llm.report import differing_settings, group_runs, read_run_log
from light_llm.report.statistics import difference_of_means, mean, standard_deviation, t_quantile
from tests.support.made_up_run import RUN, made_up_run

LOSSES = {(0.001, 1): 1.0, (0.001, 2): 2.0, (0.001, 3): 3.0, (0.01, 1): 4.0, (0.01, 2): 5.0, (0.01, 3): 6.0}


def seeded_run(folder: Path, loss: float, seed: int = 1, steps: int = 20, **changes: Any) -> Path:
    """A run of 20 steps with a given held-out loss."""
    settings = {"train__seed": seed, "data__seed": seed, "train__max_steps": 20}
    settings |= {name: changes.pop(name) for name in list(changes) if "__" in name}
    run = RUN.with_settings(**settings)
    return made_up_run(folder, run=run, steps=steps, held=lambda step: loss, probed=False, every=10, **changes)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two rates times three seeds, the better rate last, in the folders of this test."""
    monkeypatch.chdir(tmp_path)
    order = sorted(LOSSES, key=lambda key: (-key[0], key[1]))
    return [seeded_run(Path(f"{lr}-{s}"), LOSSES[lr, s], s, train__lr=lr).name for lr, s in order]


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["compare", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words]) == 0
    return capsys.readouterr().out


# ---- statistics


def test_student_s_quantile_has_its_closed_forms() -> None:
    for share in (0.5, 0.9, 0.95, 0.99):
        assert t_quantile(1, share) == pytest.approx(math.tan(math.pi * share / 2), rel=1e-6)
        assert t_quantile(2, share) == pytest.approx(share * math.sqrt(2 / (1 - share**2)), rel=1e-6)
    # From the tables of the distribution.
    assert t_quantile(4) == pytest.approx(2.776445, abs=1e-6)
    assert t_quantile(10) == pytest.approx(2.228139, abs=1e-6)
    assert t_quantile(1e9) == pytest.approx(1.959964, rel=2e-3)


def test_mean_and_deviation_by_hand() -> None:
    assert mean([1, 2, 6]) == 3
    # Squares of the distances from 3: 4, 1, 9; divided by n - 1 = 2.
    assert standard_deviation([1, 2, 6]) == pytest.approx(math.sqrt(7))
    assert standard_deviation([5]) is None


def test_welch_s_interval_by_hand() -> None:
    # Variances 1 and 1, 3 values each: the squared error is 2/3, with 4 degrees of freedom.
    found = difference_of_means([1, 2, 3], [4, 5, 6])
    half = 2.776445 * math.sqrt(2 / 3)
    assert found is not None and found.difference == 3 and found.excludes_zero
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    # Variances 1 and 20/3, 3 and 4 values: 1/3 + 5/3 = 2, and 4 / (1/18 + 25/27) = 216/53 degrees of freedom.
    found = difference_of_means([1, 2, 3], [2, 4, 6, 8])
    half = t_quantile(216 / 53) * math.sqrt(2)
    assert found is not None and (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert not found.excludes_zero


def test_a_single_run_gets_the_deviation_of_the_other_group() -> None:
    # Variance 1, so the squared error is 1 + 1/3, with 2 degrees of freedom.
    for a, b, sign in (([5.0], [1.0, 2.0, 3.0], -1), ([1.0, 2.0, 3.0], [5.0], 1)):
        found, half = difference_of_means(a, b), 4.302653 * math.sqrt(4 / 3)
        assert found is not None and found.difference == 3 * sign
        assert (found.low, found.high) == pytest.approx((3 * sign - half, 3 * sign + half), abs=1e-5)
    assert difference_of_means([1.0], [2.0]) is None
    equal = difference_of_means([1.0, 1.0], [2.0, 2.0])  # without any spread
    assert equal is not None and (equal.low, equal.high) == (1, 1)


# ---- groups


def test_runs_that_differ_in_the_seed_alone_are_one_group(sweep: list[str], tmp_path: Path) -> None:
    runs = [read_run_log(name) for name in sweep]
    # What cannot change a result, and the name of the file, make no other group; another text does.
    runs.append(read_run_log(seeded_run(Path("more"), 2.5, 4, train__lr=0.001, train__save_interval=7, data__data="x")))
    runs.append(read_run_log(seeded_run(Path("other"), 2.5, 4, train__lr=0.001, data={"sha256": "c" * 64})))
    names = [[run.name for run in group.runs] for group in group_runs(runs)]
    assert names == [sweep[:3], [*sweep[3:], "more"], ["other"]]
    first = group_runs(runs)[0]
    assert first.mean("loss") == 5 and first.deviation("loss") == 1
    assert first.mean("bits_per_byte") == pytest.approx(0.75 * 5)


def test_settings_that_differ_have_short_names(tmp_path: Path) -> None:
    a = read_run_log(seeded_run(tmp_path / "a", 1))
    b = read_run_log(seeded_run(tmp_path / "b", 1, 2))
    assert differing_settings([a, b]) == {"seed": [1, 2]}
    c = read_run_log(seeded_run(tmp_path / "c", 1, 2, data__seed=5, model__dropout=0.1))
    assert differing_settings([a, c]) == {
        "dropout": [RUN.model.dropout, 0.1],
        "train.seed": [1, 2],
        "data.seed": [1, 5],
    }


# ---- the command


def test_many_runs_are_compared_by_groups(sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = compared(capsys, *sweep)
    best, other = result["groups"]
    assert (best["settings"], best["n"], best["mean"], best["standard_deviation"]) == ({"lr": 0.001}, 3, 2, 1)
    assert [(run["run"], run["seed"], run["held_out_loss"]) for run in other["runs"]] == [
        ("0.01-1", 1, 4),
        ("0.01-2", 2, 5),
        ("0.01-3", 3, 6),
    ]
    (difference,) = result["differences"]
    half = 2.776445 * math.sqrt(2 / 3)
    assert (difference["group"], difference["minus"], difference["difference"]) == ("B", "A", 3)
    assert (difference["low"], difference["high"]) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert difference["larger_than_seed_variation"] is True and difference["window_error"] is None
    text = printed(capsys, *sweep)
    assert re.search(r"^A +lr 0\.001 +3 +2\.000 +1\.000$", text, re.MULTILINE)
    assert re.search(r"^B +\+3\.000 +\+0\.733 to \+5\.267 +larger than seed variation$", text, re.MULTILINE)
    assert "A has the lowest held-out loss (lr 0.001). Its lead over B is larger than" in text


def test_a_small_lead_may_be_seed_variation(sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        seeded_run(Path(f"near-{seed}"), 2.2 + seed / 2, seed, train__lr=0.005)
    text = printed(capsys, *sweep[3:], "near-1", "near-2")
    assert "Its lead over B may be seed variation: train more seeds" in text and "larger than" not in text


def test_single_runs_have_the_error_of_their_windows_alone(
    sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    seeded_run(Path("third"), 1.01, 1, train__lr=0.005)
    result = compared(capsys, "0.001-1", "0.01-1", "third")
    assert [(d["difference"], d["low"], d["larger_than_seed_variation"]) for d in result["differences"]] == [
        (pytest.approx(0.01), None, None),
        (3, None, None),
    ]
    assert result["differences"][0]["window_error"] == pytest.approx(0.02 * math.sqrt(2))
    text = printed(capsys, "0.001-1", "0.01-1", "third")
    assert "+0.010 ± 0.028" in text and "within its error bar" in text and "seed variation is not known" in text


def test_tokenizers_are_compared_in_bits_per_byte(sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The run by letters has the lowest loss per token and the highest per byte."""

    def by_letters(row: dict[str, Any]) -> None:
        if row["kind"] == "eval":
            row |= {"loss": 0.5, "bits_per_byte": 9.0}

    letters = {"tokenizer": "char", "tokenizer_sha256": "c"}
    seeded_run(Path("by-letters"), 1, change=by_letters, data=letters, data__tokenizer="char", train__lr=0.01)
    result = compared(capsys, "by-letters", *sweep[:3])
    assert result["unit"] == "bits_per_byte" and result["groups"][-1]["mean"] == 9
    assert result["groups"][0]["mean"] == pytest.approx(0.75 * 5)
    text = printed(capsys, "by-letters", *sweep[:3])
    assert "A has the lowest held-out bits/byte (verse.txt, bpe)" in text and "The tokenizers differ" in text


def test_what_cannot_be_compared_is_not(sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    seeded_run(Path("other-text"), 0.1, data={"sha256": "c" * 64})
    result = compared(capsys, *sweep, "other-text")
    assert result["unit"] is None and result["differences"] == [] and result["groups"][0]["mean"] is None
    text = printed(capsys, *sweep, "other-text")
    assert "The texts of 0.01-1 and other-text are not the same" in text and "lowest" not in text


def test_unequal_lengths_repeated_seeds_and_machines_are_named(
    sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    short = seeded_run(Path("short"), 1.5, 4, steps=10, train__lr=0.001)
    record = json.loads((short / "run.json").read_text())
    (short / "run.json").write_text(json.dumps(record | {"machine": "another", "digest": ""}))
    seeded_run(Path("again"), 4.0, 1, train__lr=0.01)
    text = " ".join(printed(capsys, *sweep, "short", "again").split())
    assert "did not train equally long (steps: A 10 to 20, B 20)" in text
    assert "B has several runs of one seed" in text and "Not the same for all runs: machine." in text
    assert "did not train equally long" not in printed(capsys, *sweep)


def test_two_runs_of_one_setting_are_seed_variation(sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "The runs differ in the seed alone" in printed(capsys, *sweep[:2])
    assert "The runs differ in the seed alone" not in printed(capsys, sweep[0], sweep[3])
    assert main(["compare", sweep[0], sweep[1], f"./{sweep[0]}"]) == 2
    assert "are the same run" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80])
def test_the_tables_fit_a_terminal(
    width: int, sweep: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = seeded_run(Path("a-name-that-says-all-there-is-to-say-about-this-run-of-many"), 2.5, 4, train__lr=0.001)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(capsys, *sweep, str(long)))
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text and "2.500" in text
