"""Runs read back from their folders, listed and compared: real runs of the Trainer, and folders damaged on purpose."""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.cli import main
from light_llm.cli.runs import when
from light_llm.config import ModelConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.errors import CheckpointError, ConfigError
from light_llm.model import LightLLM
from light_llm.report import (
    HeldOut,
    beyond,
    common_curve,
    common_measure,
    difference,
    find_runs,
    open_run,
    read_all,
    read_past_run,
    what_differs,
)
from light_llm.train import Result, Trainer
from tests.support.tools import SMALL, Foreign, byte_loader, rows_of, run_child

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def train(
    folder: Path, text: Path, *, tokenizer: str = "byte", held_out: float = 0.1, max_length: int = 16, **changes: Any
) -> Result:
    """A run of a second."""
    dataset, found = prepare_dataset(str(text), max_length=max_length, tokenizer=tokenizer, held_out=held_out)
    model = LightLLM(ModelConfig(vocab_size=found.vocab_size, n_positions=32, n_embd=24, n_layer=1, n_head=3))
    settings = SMALL | {"max_steps": 30, "save_interval": 1000} | changes
    return Trainer(model, create_dataloader(dataset, 4, seed=1), out=folder, **settings).train()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that differ in one thing each."""
    folder = tmp_path_factory.mktemp("shelf")
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
    loader = byte_loader(text)
    Trainer(LightLLM(_byte_shape()), Foreign(loader), out=folder / "foreign", max_steps=4, **SMALL).train()
    return folder


def _byte_shape() -> ModelConfig:
    return ModelConfig(vocab_size=257, n_positions=32, n_embd=24, n_layer=1, n_head=3)


# ---- reading


def test_a_run_is_read_back_as_the_trainer_reported_it(tmp_path: Path, poem: Path) -> None:
    result = train(tmp_path / "run", poem, max_steps=60)
    run = read_past_run(tmp_path / "run")
    best = run.best
    assert best is not None and run.run.train.max_steps == 60
    assert (run.step, best.step, best.loss) == (result.step, result.best_step, result.best_loss)
    assert run.tokens == 60 * 4 * 16
    assert run.tokens_per_second == pytest.approx(result.tokens_per_second, rel=0.1)  # seconds are rounded in the file
    assert 0 < run.seconds < result.seconds
    assert run.parameters == sum(p.numel() for p in LightLLM(run.run.model).parameters())
    losses = [row["loss"] for row in rows_of(tmp_path / "run", "step")]
    bits = [row["bits_per_byte"] for row in rows_of(tmp_path / "run", "step")]
    assert run.final_loss == pytest.approx(sum(losses[10:]) / 50)
    assert run.final_bits_per_byte == pytest.approx(sum(bits[10:]) / 50)
    assert [e.step for e in run.evaluations] == [10, 20, 30, 40, 50, 60]
    assert run.data is not None and run.data["title"] == "poem.txt" and run.data["tokenizer"] == "byte"
    assert timedelta(0) <= datetime.now(UTC) - run.started < timedelta(minutes=5)


def test_a_resumed_run_is_one_run(tmp_path: Path, poem: Path) -> None:
    train(tmp_path / "run", poem, max_steps=10)
    before = read_past_run(tmp_path / "run")
    train(tmp_path / "run", poem, max_steps=20, resume=True)
    after = read_past_run(tmp_path / "run")
    assert [row.step for row in after.steps] == list(range(1, 21)) and after.started == before.started
    assert after.steps[:10] == before.steps and [e.step for e in after.evaluations] == [10, 20]


def test_steps_without_a_finite_loss_are_no_part_of_a_mean(shelf: Path) -> None:
    run = read_past_run(shelf / "checkpoints")
    torn = replace(run, steps=(*run.steps[:-1], replace(run.steps[-1], loss=None, bits_per_byte=None)))
    expected = [row.loss for row in run.steps[-50:-1] if row.loss is not None]
    assert torn.final_loss == pytest.approx(math.fsum(expected) / 49)
    nothing = replace(run, steps=(), evaluations=())
    assert (nothing.step, nothing.tokens, nothing.seconds) == (0, 0, 0)
    assert (nothing.tokens_per_second, nothing.best, nothing.final_loss, nothing.final_bits_per_byte) == (None,) * 4


def test_bits_per_byte_and_its_error_are_the_loss_in_another_unit(shelf: Path) -> None:
    best = read_past_run(shelf / "checkpoints").best
    assert best is not None
    bits, bits_error = best.by("bits_per_byte")
    loss, error = best.by("loss")
    assert loss and error and bits == pytest.approx(loss / math.log(2))  # bytes: a token is a byte
    assert bits_error == pytest.approx(error / math.log(2))
    assert replace(best, stderr=None).by("bits_per_byte") == (bits, None)


def edit(**changes: Any) -> Callable[[Path], None]:
    """Damage: values of run.json replaced, or left out where they are None."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / "run.json").read_text()) | changes
        (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if v is not None}))

    return damage


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: bool((folder / name).write_text(text)) and None


def replace_by_folder(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "run.json").unlink(), "run.json is missing: what was decided in this run is not known"),
    (write("run.json", "{"), r"run.json is damaged: it is not JSON \(Expecting"),
    (write("run.json", "[]"), "run.json is damaged: it holds no JSON object"),
    (lambda f: (f / "run.json").write_bytes(b"\xff\xfe"), "run.json is damaged: it is not JSON"),
    (edit(format=7), r"run.json is written in format 7; this light-llm reads format 1: use the version that wrote it"),
    (edit(run=None), "run.json is damaged: 'run' is missing"),
    (edit(run=[1]), "run.json is damaged"),
    (edit(run={"train": {"lrr": 1}}), r"run.json cannot be used: there is no train setting 'lrr'; did you mean lr\?"),
    (edit(run={"train": 3}), "run.json is damaged"),
    (edit(started="yesterday"), "run.json is damaged: .*yesterday"),
    (edit(data={"title": "x"}), "run.json is damaged: 'sha256' is missing"),
    (edit(versions=3), "run.json is damaged"),
    (lambda f: (f / "metrics.jsonl").unlink(), "metrics.jsonl is missing: what came of this run is not known"),
    (write("metrics.jsonl", "not\na\nrow\n"), "metrics.jsonl is damaged: no line of it is a step or an evaluation"),
    (replace_by_folder, "metrics.jsonl cannot be read: Is a directory"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message[:40] for _, message in DAMAGE])
def test_a_damaged_run_is_named_and_the_others_are_listed(
    shelf: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("checkpoints", "checkpoints.1"):
        shutil.copytree(shelf / name, tmp_path / name)
    damage(tmp_path / "checkpoints.1")
    with pytest.raises(CheckpointError, match=message):
        read_past_run(tmp_path / "checkpoints.1")
    assert main(["runs"]) == 0
    shown = capsys.readouterr()
    assert "checkpoints  " in shown.out and "60/60" in shown.out and shown.err == ""
    assert re.search(f"cannot be listed: checkpoints.1/{message}", shown.out)
    assert main(["compare", "checkpoints", "checkpoints.1"]) == 2
    err = capsys.readouterr().err
    assert re.search(f"error: checkpoints.1/{message}", err)
    assert "; name another run (its model may still be whole: light-llm eval --checkpoint checkpoints.1)" in err


def test_a_record_cut_anywhere_is_refused_and_metrics_cut_anywhere_are_read(shelf: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shelf / "checkpoints", run)
    record, rows = ((run / name).read_bytes() for name in ("run.json", "metrics.jsonl"))
    for cut in range(0, len(record), 97):
        (run / "run.json").write_bytes(record[:cut])
        with pytest.raises(CheckpointError):
            read_past_run(run)
    (run / "run.json").write_bytes(record)
    whole = read_past_run(run)
    for cut in range(300, len(rows), 997):
        (run / "metrics.jsonl").write_bytes(rows[:cut])
        part = read_past_run(run)
        assert part.steps == whole.steps[: len(part.steps)] and abs(rows[:cut].count(b'"step", ') - part.step) <= 1
    (run / "metrics.jsonl").write_bytes(b"")  # a run that has only begun
    assert read_past_run(run).step == 0


# ---- finding


def test_runs_are_found_in_a_folder_and_one_level_below(shelf: Path, tmp_path: Path) -> None:
    names = sorted(p.name for p in find_runs([shelf]))
    expected = ["by-char", "checkpoints", "checkpoints.1", "foreign", "longer-windows", "other-split", "other-text"]
    assert names == expected
    assert find_runs([shelf / "by-char"]) == [shelf / "by-char"]
    assert find_runs([shelf / "by-char", shelf]).count(shelf / "by-char") == 1
    shutil.copytree(shelf / "by-char", tmp_path / "top" / "middle" / "by-char")
    assert find_runs([tmp_path / "top"]) == []  # two levels below
    (tmp_path / "deep" / ".previous-run").mkdir(parents=True)
    (tmp_path / "deep" / ".previous-run" / "run.json").write_text("{}")
    assert find_runs([tmp_path / "deep"]) == []
    with pytest.raises(ConfigError, match=r"no folder .*/depe; did you mean deep\? Without a folder, this one"):
        find_runs([tmp_path / "depe"])
    with pytest.raises(ConfigError, match=r"there is no folder nowhere/at/all\. Without"):
        find_runs([Path("nowhere/at/all")])


def test_the_newest_comes_first(shelf: Path, tmp_path: Path) -> None:
    """By when it was started, not by name and not by when its files were written last."""
    for name, started in (("b", "2026-03-01T12:00:00+00:00"), ("c", "2025-01-01"), ("a", "2026-03-01T13:00:00+02:00")):
        shutil.copytree(shelf / "by-char", tmp_path / name)
        edit(started=started)(tmp_path / name)
    runs, errors = read_all(find_runs([tmp_path]))
    assert [r.folder.name for r in runs] == ["b", "a", "c"] and errors == []


def test_a_folder_that_is_no_run_is_answered_with_one_that_is(shelf: Path) -> None:
    for folder, message in {
        shelf / "checkpoint": r"checkpoint is not there; did you mean checkpoints\? light-llm runs lists the runs",
        shelf / "by-char" / "step-000030": "step-000030 is part of a run; name the run folder, .*/by-char",
        shelf / "by-char" / "best_model.pt": "best_model.pt is part of a run; name the run folder, .*/by-char",
        shelf: "is not a run folder: it has no run.json; name one that is in it: .*/by-char, .*/checkpoints,",
        shelf / "text.txt": r"text.txt is not a run folder: it has no run.json\. light-llm runs",
        Path("nowhere/at/all"): r"nowhere/at/all is not there\. light-llm runs",
    }.items():
        with pytest.raises(ConfigError, match=message):
            open_run(folder)


def test_a_folder_that_may_not_be_looked_into_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the system's answer, because root may look into everything."""
    (tmp_path / "closed").mkdir()
    listed = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert find_runs([tmp_path]) == []


# ---- comparing


def evaluation(loss: float, stderr: float | None = 0.1, step: int = 10) -> HeldOut:
    return HeldOut(step=step, loss=loss, stderr=stderr, bits_per_byte=loss / 2, context=16)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_difference_turns_round_with_its_runs(x: float, y: float, s: float, t: float) -> None:
    a, b = evaluation(x, s), evaluation(y, t)
    for measure in ("loss", "bits_per_byte"):
        gap, error = difference(a, b, measure)
        back, same_error = difference(b, a, measure)
        assert gap == -(back or 0) and error == pytest.approx(same_error)
        assert error is not None and max(a.by(measure)[1] or 0, b.by(measure)[1] or 0) <= error
    assert difference(a, a, "loss")[0] == 0 and not beyond(*difference(a, a, "loss"))


def test_a_difference_by_hand() -> None:
    gap, error = difference(evaluation(5.0, 0.3), evaluation(4.6, 0.4), "loss")
    assert gap == pytest.approx(-0.4) and error == pytest.approx(0.5) and beyond(gap, error) is False
    gap, error = difference(evaluation(5.0, 0.3), evaluation(4.4, 0.4), "bits_per_byte")
    assert gap == pytest.approx(-0.3) and error == pytest.approx(0.25) and beyond(gap, error) is True
    assert difference(evaluation(5.0, None), evaluation(4.0), "loss") == (-1.0, None)
    assert beyond(-1.0, None) is None and beyond(None, 1.0) is None


def test_what_may_be_compared_by_what(shelf: Path) -> None:
    first = read_past_run(shelf / "checkpoints")
    for other, measure, why in (
        ("checkpoints.1", "loss", "^$"),
        ("longer-windows", "loss", "^$"),
        ("by-char", "bits_per_byte", r"tokens are not the same \(byte and char\): a loss per token says nothing"),
        ("other-text", None, r"texts are not the same .* the losses cannot be compared"),
        ("other-split", None, r"not the same part of it is held out \(0.1 and 0.2 of it\)"),
        ("foreign", None, "^B has no known held-out text .* nothing to compare by"),
    ):
        found, reason = common_measure(first, read_past_run(shelf / other))
        assert found == measure and re.search(why, reason), reason
    foreign = read_past_run(shelf / "foreign")
    assert common_measure(foreign, first)[1].startswith("A has no known") and foreign.best is None
    assert common_measure(foreign, foreign)[1].startswith("neither run has known")
    assert first.data is not None  # two vocabularies of the same kind, as two trained ones are
    another = replace(first, data={**first.data, "tokenizer_sha256": "0"})
    assert common_measure(first, another)[0] == "bits_per_byte"
    assert "(byte and byte, of another vocabulary)" in common_measure(first, another)[1]


def test_what_differs_is_what_was_changed(shelf: Path) -> None:
    a, b = (read_past_run(shelf / name) for name in ("checkpoints", "checkpoints.1"))
    assert {name: (x, y) for name, x, y in what_differs(a, b)} == {
        "train.max_steps": (60, 30),
        "train.lr_horizon": (60, 30),
        "train.lr": (1e-2, 2e-3),
    }
    assert what_differs(a, a) == []
    names = [name for name, _, _ in what_differs(a, read_past_run(shelf / "by-char"))]
    assert {"data.tokenizer", "model.vocab_size", "vocabulary, SHA-256"} <= set(names)
    newer = replace(a, machine="another", versions={**a.versions, "torch": "9"})
    assert [name for name, _, _ in what_differs(a, newer)] == ["machine", "torch"]


def test_curves_meet_where_both_were_evaluated(shelf: Path) -> None:
    a, b, c = (read_past_run(shelf / name) for name in ("checkpoints", "checkpoints.1", "longer-windows"))
    points = common_curve(a, b)
    assert [p.step for p in points] == [10, 20, 30] and all(p.a.step == p.b.step for p in points)
    assert points[0].a in a.evaluations and points[0].b in b.evaluations
    assert [p.step for p in common_curve(b, c)] == [30]


# ---- the verbs


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_runs_are_listed_with_what_came_of_them(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shelf)
    text = said(capsys, "runs")
    rows = {cells(line)[0]: cells(line) for line in text.splitlines()}
    assert next(iter(rows)) == "run" and len(rows) == 8
    run = read_past_run("by-char")
    best = run.best
    assert best is not None and best.bits_per_byte is not None
    now = datetime.now().astimezone()
    assert rows["by-char"][1:] == [
        f"{run.parameters / 1000:.3g}k",
        "text.txt, char",
        "30/30",
        f"{best.loss:.3f}",
        f"{best.bits_per_byte:.3f}",
        when(run.started, now).strip(),
    ]
    assert rows["foreign"][2:6] == ["a loader of its own", "4/4", "-", "-"]
    assert "\x1b" not in text and all(line == line.rstrip() for line in text.splitlines())
    assert [cells(line) for line in said(capsys, "runs", "by-char").splitlines()[1:]] == [rows["by-char"]]


def test_where_there_is_no_run_the_way_to_one_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said(capsys, "runs") == (
        "There is no run in this folder, nor one level below. Start one:\n  light-llm train\n"
    )
    (tmp_path / "empty").mkdir()
    assert "There is no run in empty, nor one level below" in said(capsys, "runs", "empty")


def test_a_comparison_of_like_runs(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shelf)
    text = said(capsys, "compare", "checkpoints", "checkpoints.1")
    assert "\x1b" not in text and all(line == line.rstrip() for line in text.splitlines())
    order = [
        text.index(head) for head in ("A  checkpoints ", "what differs", "result", "held-out loss  ", "± in B - A")
    ]
    assert order == sorted(order)
    rows = {cells(line)[0]: cells(line)[1:] for line in text.splitlines() if line}
    assert rows["train.lr"] == ["0.01", "0.002"] and rows["steps"] == ["60 of 60", "30 of 30"]
    assert rows["parameters"][2] == "same" and rows["tokens trained on"] == ["3,840", "1,920", "-1,920"]
    a, b = (read_past_run(name) for name in ("checkpoints", "checkpoints.1"))
    assert a.final_loss is not None and b.final_loss is not None
    assert rows["training, last 50 steps"] == [
        f"{a.final_loss:.3f}",
        f"{b.final_loss:.3f}",
        f"{b.final_loss - a.final_loss:+.3f}",
    ]
    for point in common_curve(a, b):
        gap, error = difference(point.a, point.b, "loss")
        assert gap is not None and error is not None
        verdict = "beyond" if abs(gap) > error else "within"
        assert rows[f"step {point.step}"][2:] == [f"{gap:+.3f} ± {error:.3f}", verdict]
    assert "They are correlated" in text and "within does not mean equal" in text


@pytest.mark.parametrize(
    ("other", "there", "not_there"),
    [
        ("by-char", ["Bits per byte are of the same text", "held-out bits/byte", "beyond"], ["\nheld-out loss"]),
        ("other-text", ["text, SHA-256", "cannot be compared"], ["held-out bits/byte", "± in B - A", "beyond"]),
        ("foreign", ["nothing to compare by", "a loader of its own"], ["± in B - A"]),
        ("longer-windows", ["windows of 16 tokens, B of 32", "no step at which both"], ["± in B - A", "step 30"]),
    ],
)
def test_a_comparison_of_unlike_runs(
    shelf: Path,
    other: str,
    there: list[str],
    not_there: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a difference would mean nothing, none is printed."""
    monkeypatch.chdir(shelf)
    if other == "longer-windows":  # evaluated at 7, 14, ..., 28 and at the end, 30: cut off here
        shutil.copytree(other, "cut")
        rows = Path("cut/metrics.jsonl").read_text().splitlines(keepends=True)
        Path("cut/metrics.jsonl").write_text("".join(r for r in rows if '"eval", "step": 30' not in r))
        other = "cut"
    text = said(capsys, "compare", "checkpoints", other)
    shutil.rmtree("cut", ignore_errors=True)
    assert all(words in text for words in there), text
    assert not any(words in text for words in not_there), text
    rows_by_name = {cells(line)[0]: cells(line)[1:] for line in text.splitlines() if line}
    compared = {name for name in ("best held-out loss", "bits per byte") if len(rows_by_name[name]) == 3}
    if other != "cut":
        assert "best held-out loss" not in compared
    assert len(rows_by_name["best held-out loss"]) == (3 if other == "cut" else 2)


def test_a_run_beside_itself_differs_in_nothing(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shelf / "checkpoints", "twin")
    text = said(capsys, "compare", str(shelf / "checkpoints"), "twin")
    assert "No setting differs; nor do the text, the machine and the versions." in text
    assert "beyond" not in text.replace("is beyond it", "") and text.count("same") >= 4


def test_a_long_curve_is_thinned_and_says_so(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Path("often"), shelf / "text.txt", eval_interval=1, max_steps=20)
    shutil.copytree("often", "twin")
    text = said(capsys, "compare", "often", "twin")
    steps = [int(s) for s in re.findall(r"^step (\d+)", text, flags=re.MULTILINE)]
    assert len(steps) == 12 and (steps[0], steps[-1]) == (1, 20) and steps == sorted(set(steps))
    assert "12 of 20 common evaluations are shown" in text


def test_a_terminal_of_80_columns_is_wide_enough(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long names are: they are cut or folded, numbers never; a pipe gets them whole."""
    monkeypatch.chdir(shelf.parent)
    long = "a-run-with-a-name-that-says-all-there-is-to-say-about-what-was-tried-in-it"
    folder = Path("long")
    shutil.copytree(shelf / "checkpoints", folder / long)
    shutil.copytree(shelf / "other-text", folder / "other")
    edit(started="2026-01-01T00:00:00+00:00", format=7)(folder / "other")
    commands = (["runs", "long"], ["compare", f"long/{long}", str(shelf / "checkpoints.1")], ["recipes"])
    plain = [said(capsys, *words) for words in commands]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    shown = [said(capsys, *words) for words in commands]
    shutil.rmtree(folder)
    for text in shown:
        assert "\x1b[" in text and max(len(ANSI.sub("", line)) for line in text.splitlines()) <= 80
    assert long in plain[0] and long in plain[1] and long not in shown[0] and "…" in shown[0]
    listed, compared = (ANSI.sub("", text) for text in shown[:2])
    assert cells(listed.splitlines()[1])[1:] == cells(plain[0].splitlines()[1])[1:]  # all but the name is there
    assert all(words in compared for words in ("60 of 60", "30 of 30", "step 30", "beyond"))
    for point in common_curve(read_past_run(shelf / "checkpoints"), read_past_run(shelf / "checkpoints.1")):
        better, worse = sorted(f"{e.loss:.3f}" for e in (point.a, point.b))
        line = next(line for line in shown[1].splitlines() if f"step {point.step}" in line)
        assert f"\x1b[1;32m{better}" in line and f"\x1b[1;32m{worse}" not in line


def test_a_moment_is_told_as_ls_tells_it() -> None:
    zone = timezone(timedelta(hours=2))
    now = datetime(2026, 11, 22, 20, 0, tzinfo=zone)
    assert when(datetime(2026, 3, 1, 9, 5, tzinfo=UTC), now) == " 1 Mar 11:05"
    assert when(datetime(2025, 12, 31, 22, 30, tzinfo=UTC), now) == " 1 Jan 00:30"  # this year already, there
    assert when(datetime(2025, 12, 31, 21, 30, tzinfo=UTC), now) == "31 Dec  2025"


def test_looking_at_runs_loads_nothing_heavy(shelf: Path) -> None:
    for words in (["runs"], ["compare", "checkpoints", "by-char"]):
        child = run_child([sys.executable, "-X", "importtime", "-m", "light_llm", *words], cwd=shelf)
        imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
        assert child.returncode == 0 and "light_llm.report.past_run" in imported
        assert not imported & {"torch", "numpy", "tiktoken", "safetensors"}
