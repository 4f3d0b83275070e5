"""Runs read from their folders: everything that is there, damage by name, and nothing that only looks like a number."""

import json
import math
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.cli import main
from light_llm.cli.report import break_command
from light_llm.cli.train import TrainFlags, parse_train
from light_llm.config import ModelConfig, Run
from light_llm.errors import CheckpointError, ConfigError
from light_llm.model import LightLLM
from light_llm.report import find_runs, open_run, read_run_log, read_runs, repro_command
from light_llm.report.curves import Band, BandPoint, find_band, read_bands
from light_llm.report.log_rows import Probe, StepColumns, parse_attention, parse_evaluation
from tests.support.made_up_run import ANALYSIS, GROUPS, HASHES, PER_STEP, RUN, H, L, made_up_run, probe_row
from tests.support.tools import rows_of, train_small


def append(folder: Path, *lines: str) -> Path:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("".join(lines))
    return folder


# ---- what is there


def test_everything_a_run_wrote_is_there(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run")
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    log = read_run_log(folder)
    assert (log.name, log.status, log.flops_per_token, log.skipped_rows) == ("run", "done", 6e6, 0)
    assert log.steps.step == tuple(range(1, 201)) and log.steps.tokens[-1] == log.tokens == 200 * PER_STEP
    assert list(log.steps.grad_norms) == list(GROUPS) and log.steps.update_ratios["wpe"] == (1e-3,) * 200
    assert [e.step for e in log.evals] == list(range(20, 201, 20))
    assert list(log.evals[0].upto) == [1, 2, 4, 8, 16]
    assert log.probe.grid("attention.relative") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert log.attention and list(log.attention.maps[0].weights[-1]) == [0, 0, 0, 1]
    assert log.samples[-1] == (200, "At 200.") and log.analysis["step"] == 200


def test_an_older_run_has_its_losses(tmp_path: Path) -> None:
    log = read_run_log(made_up_run(tmp_path / "old", probed=False, status=None))
    assert log.evals and not log.probes and not log.samples and log.probe.row == {} and log.attention is None
    assert log.steps.grad_norms == {} and set(log.steps.mfu) == {None} and log.evals[0].by_position == ()
    assert log.status == "done"  # it made all its steps


def test_a_run_is_read_back_as_the_trainer_reported_it(poem: Path) -> None:
    trainer, result = train_small(poem, max_steps=60)
    log = read_run_log("run")
    best = log.best
    assert best is not None and log.run.train.max_steps == 60
    assert (log.last_step, best.step, best.loss) == (result.step, result.best_step, result.best_loss)
    assert log.tokens == 60 * 4 * 16
    assert log.tokens_per_second == pytest.approx(result.tokens_per_second, rel=0.1)  # seconds are rounded in the file
    assert 0 < log.seconds < result.seconds
    assert log.parameters == sum(p.numel() for p in LightLLM(log.run.model).parameters())
    for mean, key in ((log.final_loss, "loss"), (log.final_bits_per_byte, "bits_per_byte")):
        assert mean == pytest.approx(sum(row[key] for row in rows_of("run", "step")[10:]) / 50)
    assert [e.step for e in log.evals] == [10, 20, 30, 40, 50, 60]
    assert log.data is not None and log.data["title"] == "poem.txt" and log.data["tokenizer"] == "byte"
    assert timedelta(0) <= datetime.now(UTC) - log.started < timedelta(minutes=5)
    bits, bits_error = best.in_unit("bits_per_byte")
    loss, error = best.in_unit("loss")
    assert loss and error
    assert [bits, bits_error] == pytest.approx([loss / math.log(2), error / math.log(2)])
    assert replace(best, stderr=None).in_unit("bits_per_byte") == (bits, None)
    # Resumed, it is one run.
    train_small(poem, max_steps=70, resume=True)
    after = read_run_log("run")
    assert after.steps.step == tuple(range(1, 71)) and after.started == log.started
    assert after.steps.loss[:60] == log.steps.loss and after.evals[:6] == log.evals


def test_steps_without_a_finite_loss_are_no_part_of_a_mean(tmp_path: Path) -> None:
    log = read_run_log(made_up_run(tmp_path, loss=lambda s: None if s == 200 else float(s)))
    assert log.final_loss == pytest.approx(sum(range(151, 200)) / 49)
    nothing = replace(log, steps=StepColumns().to_steps(), evals=())
    assert (nothing.last_step, nothing.tokens, nothing.seconds) == (0, 0, 0)
    assert (nothing.tokens_per_second, nothing.best, nothing.final_loss, nothing.final_bits_per_byte) == (None,) * 4


def test_of_a_step_made_twice_the_last_counts(tmp_path: Path) -> None:
    rows = '{"kind": "rollback", "step": 30, "from_step": 50}\n{"kind": "step", "step": 31, "loss": 9.0}\n{"torn'
    log = read_run_log(append(made_up_run(tmp_path, steps=50), rows))
    assert log.steps.loss[30] == 9.0 and len(log.steps) == 50 and log.rollbacks == ((30, 50),) and log.skipped_rows == 0


def test_a_step_that_is_written_again_leaves_nothing_of_the_old_row() -> None:
    columns = StepColumns()
    columns.add(2, {"loss": 5.0, "clipped": True, "grad_norms": {"wte": 1.0, "wpe": 2.0}})
    columns.add(1, {"loss": 6.0, "clipped": False})
    columns.add(2, {"loss": 4.0, "grad_norms": {"wpe": 3.0}, "mfu": 0.5})
    steps = columns.to_steps()
    assert (steps.step, steps.loss, steps.mfu) == ((1, 2), (6.0, 4.0), (None, 0.5))
    assert steps.grad_norms == {"wte": (None, None), "wpe": (None, 3.0)} and list(steps.clipped) == [0, None]


# ---- rows that cannot be parsed


def test_rows_that_cannot_be_parsed_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_triangle = {"kind": "attention", "step": 200, "tokens": ["a", "b"]}
    no_triangle["maps"] = [{"layer": 0, "head": 0, "weights": [[1.0], [0.5]]}]
    bad = ["not json", "[1]", '{"kind": "step", "step": "7"}', '{"kind": "eval"}', json.dumps(no_triangle)]
    folder = append(made_up_run(tmp_path), *(line + "\n" for line in bad), '{"kind": "st')
    log = read_run_log(folder)
    assert log.skipped_rows == len(bad) and len(log.steps) == 200 and len(log.evals) == 10
    assert log.attention and log.attention.tokens[0] == "To"
    assert main(["report", str(folder), "--no-page"]) == 0 and "5 lines of metrics.jsonl" in capsys.readouterr().out


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(probe_row(1))), inner, max_size=3),
    max_leaves=12,
)
KEYS = [*probe_row(1), "by_position", "maps", "tokens", "grad_norms", "clipped", "text", "split"]


@given(st.dictionaries(st.sampled_from(KEYS), anything))
def test_no_row_is_too_odd_to_be_read(fields: dict[str, object]) -> None:
    row = {**fields, "step": 3}
    probe = Probe(3, row)
    for path in ("loss", "lens", "attention.first", "stream.rms", "dead_units", "predictions.accuracy"):
        probe.number(path), probe.vector(path), probe.grid(path)
    assert isinstance(probe.calibration_bins, list) and isinstance(probe.alarms, list)
    parse_attention(row), parse_evaluation(row)
    columns = StepColumns()
    columns.add(3, row)
    columns.add(3, row)
    assert columns.to_steps().step == (3,)


def test_a_grid_must_be_even() -> None:
    row = probe_row(1)
    row["attention"]["relative"] = [[0.1] * H, [0.1]]
    assert Probe(1, row).grid("attention.relative") == () and len(Probe(1, row).grid("attention.first")) == L


@pytest.mark.parametrize("number", ["9" * 400, "1e308", "-7", "1e999"])
def test_no_number_is_too_large_to_be_read(tmp_path: Path, number: str) -> None:
    row = f'{{"kind": "step", "step": %s, "loss": {number}, "seconds": {number}, "tokens": {number}}}\n'
    folder = append(made_up_run(tmp_path / "run"), *(row % step for step in (201, 202, 203, number)))
    assert main(["report", str(folder), "--no-page"]) == 0
    assert main(["runs", str(tmp_path)]) == 0
    assert read_run_log(folder).last_step == 203


@pytest.mark.slow
def test_a_hundred_thousand_steps_are_read_in_seconds(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "long", steps=100_000, every=1000, run=RUN.with_settings(train__max_steps=100_000))
    start = time.process_time()
    assert main(["report", str(folder)]) == 0
    assert time.process_time() - start < 60
    assert (folder / "report.html").stat().st_size < 8e6  # of which plotly is 4.8 million


# ---- damage


def edit(**changes: Any) -> Callable[[Path], None]:
    """Damage: values of run.json replaced, or removed if they are None."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / "run.json").read_text()) | changes
        (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if v is not None}))

    return damage


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def replace_by_folder(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "run.json").unlink(), "run.json is missing"),
    (write("run.json", "{"), "run.json is damaged.*JSON"),
    (write("run.json", "[]"), "run.json is damaged.*object"),
    (lambda f: (f / "run.json").write_bytes(b"\xff\xfe"), "run.json is damaged.* JSON"),
    (edit(format=7), "run.json .*format 7.* reads format 1"),
    (edit(run=None), "run.json is damaged: 'run'"),
    (edit(run=[1]), "run.json is damaged"),
    (edit(run={"train": {"lrr": 1}}), r"run.json .*'lrr'.* lr\?"),
    (edit(run={"train": 3}), "run.json is damaged"),
    (edit(started="yesterday"), "run.json is damaged: .*yesterday"),
    (edit(data={"title": "x"}), "run.json is damaged: 'sha256'"),
    (edit(versions=3), "run.json is damaged: 'versions' is a number, not an object"),
    (edit(data=[]), "run.json is damaged: 'data' is a list, not an object"),
    (write("run.json", "{}"), "run.json is damaged: it has no format number"),
    (lambda f: ((f / "metrics.jsonl").unlink(), (f / "step-000050").mkdir()), "metrics.jsonl is missing"),
    (write("metrics.jsonl", "not\na\nrow\n"), "metrics.jsonl is damaged"),
    (replace_by_folder, "metrics.jsonl cannot be read: Is a directory"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_a_damaged_run_is_named_and_the_others_are_listed(
    tmp_path: Path, damage: Callable[[Path], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_run(tmp_path / "whole", steps=20)
    damage(made_up_run(tmp_path / "broken", steps=20))
    with pytest.raises(CheckpointError, match=message):
        read_run_log(tmp_path / "broken")
    assert main(["runs"]) == 0
    shown = capsys.readouterr()
    assert "whole  " in shown.out and "20/200" in shown.out and shown.err == ""
    assert re.search(f"broken/{message}", shown.out)
    for command in (["compare", "whole", "broken"], ["report", "broken"]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert re.search(f"error: broken/{message}", err) and "light-llm eval --checkpoint broken" in err


def test_a_folder_in_the_place_of_the_page_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made_up_run(tmp_path / "run", steps=20) / "report.html").mkdir()
    assert main(["report", "run"]) == 2
    out, err = capsys.readouterr()
    assert "repeat it with" in out and err.startswith("error: run/report.html cannot be written: it is a folder.")
    assert main(["report", "run", "--no-page"]) == 0


@given(
    st.lists(st.sampled_from(["--lr", "0.1", "a b", "it's", "--set", "train.x=1", "y"]), max_size=20),
    st.integers(1, 90),
)
def test_a_command_broken_into_lines_is_the_same_when_pasted(words: list[str], width: int) -> None:
    lines = break_command(shlex.join(["light-llm", *words]), width)
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == ["light-llm", *words]
    assert all(len(line) <= width or "--" not in line.strip()[1:] for line in lines)


def test_a_record_cut_anywhere_is_refused_and_metrics_cut_anywhere_are_read(tmp_path: Path) -> None:
    run = made_up_run(tmp_path, steps=60)
    record, rows = ((run / name).read_bytes() for name in ("run.json", "metrics.jsonl"))
    for cut in range(0, len(record), 97):
        (run / "run.json").write_bytes(record[:cut])
        with pytest.raises(CheckpointError):
            read_run_log(run)
    (run / "run.json").write_bytes(record)
    whole = read_run_log(run)
    for cut in range(700, len(rows), 997):
        (run / "metrics.jsonl").write_bytes(rows[:cut])
        part = read_run_log(run)
        assert part.steps.loss == whole.steps.loss[: len(part.steps)] and part.skipped_rows == 0
        assert abs(rows[:cut].count(b'"kind": "step"') - part.last_step) <= 1
    (run / "metrics.jsonl").write_bytes(b"")  # a run that has only begun
    assert read_run_log(run).last_step == 0


# ---- finding runs


def test_runs_are_found_in_a_folder_and_one_level_below(tmp_path: Path) -> None:
    names = ["a", "b", "deep/c"]
    for name in names:
        made_up_run(tmp_path / name, steps=1)
    (tmp_path / ".previous-run").mkdir()
    (tmp_path / ".previous-run" / "run.json").write_text("{}")
    assert find_runs([tmp_path]) == [tmp_path / "a", tmp_path / "b"]
    assert find_runs([tmp_path / "a"]) == [tmp_path / "a"]
    assert find_runs([tmp_path / "b", tmp_path]) == [tmp_path / "b", tmp_path / "a"]  # each once
    with pytest.raises(ConfigError, match=r"depe; did you mean deep\?"):
        find_runs([tmp_path / "depe"])
    with pytest.raises(ConfigError, match=r"nowhere/at/all\.$"):
        find_runs([Path("nowhere/at/all")])


def test_a_folder_that_may_not_be_listed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system's answer, because root may list everything."""
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert find_runs([tmp_path]) == []


def test_the_newest_comes_first(tmp_path: Path) -> None:
    """By when it was started, not by name and not by when its files were written last."""
    for name, started in (("b", "2026-03-01T12:00:00+00:00"), ("c", "2025-01-01"), ("a", "2026-03-01T13:00:00+02:00")):
        edit(started=started)(made_up_run(tmp_path / name, steps=1))
    logs, errors = read_runs(find_runs([tmp_path]))
    assert [log.folder.name for log in logs] == ["b", "a", "c"] and errors == []


def test_a_folder_that_is_no_run_is_answered_with_one_that_is(tmp_path: Path) -> None:
    for name in ("run", "other"):
        made_up_run(tmp_path / name, steps=1)
    (tmp_path / "run" / "step-000030").mkdir()
    (tmp_path / "text.txt").write_text("")
    for folder, message in {
        "rum": r"rum is not there; did you mean run\?",
        "run/step-000030": "step-000030 is part of a run.*/run$",
        "run/metrics.jsonl": "metrics.jsonl is part of a run.*/run$",
        ".": "has no run.json; .*/other, .*/run$",
        "text.txt": r"text.txt .* no run.json\. light-llm runs",
        "nowhere/at/all": r"nowhere/at/all is not there\. light-llm runs",
    }.items():
        with pytest.raises(ConfigError, match=message):
            open_run(tmp_path / folder)


# ---- bands


BANDS = {
    "tiny/verse": {
        "settings": {"model.n_layer": L, "train.lr": RUN.train.lr},
        "data_sha256": HASHES["sha256"],
        "tokenizer_sha256": HASHES["tokenizer_sha256"],
        "seeds": 3,
        "train": [[10, 6.0, 0.1]],
        "held_out": [[20, 5.0, 0.1], [40, 4.5, 0.0]],
    }
}


def test_a_band_is_of_the_same_settings_and_text() -> None:
    band = find_band(RUN, HASHES, BANDS)
    assert band and band.name == "tiny/verse" and [p.step for p in band.held_out] == [20, 40]
    assert find_band(RUN.with_settings(train__seed=5), HASHES, BANDS)  # a setting it does not name
    assert not find_band(RUN.with_settings(train__lr=1e-3), HASHES, BANDS)
    for hashes in ({**HASHES, "sha256": "c" * 64}, {}):
        assert not find_band(RUN, hashes, BANDS)
    assert not find_band(RUN, HASHES, {})


@pytest.mark.parametrize("preset", ["nano", "micro"])
@pytest.mark.parametrize("text", ["shakespeare", "tales"])
def test_the_bands_that_come_with_the_package_are_those_of_the_defaults(preset: str, text: str) -> None:
    """A change of a default leaves its band behind: then it must be measured again, or removed."""
    values = read_bands()[f"{preset}/{text}"]
    shape = ModelConfig.preset(preset)
    sizes = {f"model__{name}": getattr(shape, name) for name in ("n_embd", "n_layer", "n_head")}
    run = Run().with_settings(**sizes, train__lr_horizon=500, model__vocab_size=values["settings"]["model.vocab_size"])
    band = find_band(run, {"sha256": values["data_sha256"], "tokenizer_sha256": values["tokenizer_sha256"]})
    assert band and band.name == f"{preset}/{text}" and band.seeds == 3
    assert [p.step for p in band.train] == list(range(10, band.train[-1].step + 1, 10)) and band.train[-1].step >= 200
    assert all(later.mean < earlier.mean for earlier, later in pairwise(band.held_out)) and len(band.held_out) >= 2
    if text == "shakespeare":
        assert values["settings"]["model.vocab_size"] == 50257 and values["data_sha256"].startswith("86c4e6aa9db7")


def test_a_band_is_three_standard_errors_wide_and_never_thin() -> None:
    band = Band("x", 3, (), ())
    assert band.half_width(BandPoint(1, 5.0, 0.1)) == pytest.approx(0.3464, abs=1e-4)  # 3 x 0.1 x sqrt(1 + 1/3)
    assert band.half_width(BandPoint(1, 5.0, 0.001)) == 0.03
    assert band.position(BandPoint(1, 5.0, 0.0), 5.06) == pytest.approx(2)
    assert band.position(BandPoint(1, 5.0, 0.0), 4.97) == pytest.approx(-1)


# ---- the command that repeats a run


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train__lr": 3e-4, "model__dropout": 0.2, "data__data": "my text.txt"},
        {"model__n_embd": 192, "model__n_head": 3, "train__beta2": 0.99, "train__micro_batch": 4},
        {"data__tokenizer": "bpe", "model__vocab_size": 700, "train__seed": 3, "data__seed": 3},
        {"train__seed": 3, "data__seed": 4, "data__val_data": "other.txt", "train__lr_horizon": 900},
    ],
)
def test_the_command_says_every_setting(settings: dict[str, object]) -> None:
    """Read back by the command line's own parser, it is the same run."""
    run = Run().with_settings(**settings)
    words = shlex.split(repro_command(run))
    assert words[:2] == ["light-llm", "train"]
    again = Run().with_settings(**parse_train(TrainFlags, words[2:], prog="", about="")[2])
    assert (again.train, again.data.seed) == (run.train, run.data.seed)
    tokenizer = f"bpe:{run.model.vocab_size}" if run.data.tokenizer == "bpe" else run.data.tokenizer
    assert again.data == replace(run.data, tokenizer=tokenizer)
    vocabulary = run.model.vocab_size if run.data.tokenizer == "gpt2" else again.model.vocab_size
    assert again.model == replace(run.model, vocab_size=vocabulary)
