"""`light-llm analyze`: the results on a real run, the file that it writes, and the runs that it refuses."""

import contextlib
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.cli.analyze import STAGES
from light_llm.config import Run
from light_llm.data import Batch, create_dataloader, prepare_dataset
from light_llm.observe import analysis
from light_llm.optim import learning_rate
from tests.support.tools import NANO_RUN, flip

TEXT = "A fox and an owl went up the hill to see what they could see.\n"
LEARN = ["--max-steps", "20", "--lr", "1e-2", "--warmup-steps", "2", "--save-interval", "5", "--quiet"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real run with all its steps."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text("".join(f"{i} {TEXT}" for i in range(80)))
    words = ["--data", str(folder / "text.txt"), *NANO_RUN, *LEARN, "--set", "train.keep_every=5"]
    assert main(["train", *words, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(finished: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(finished / "run", "run")
    return Path("run")


def analyze(*words: str, code: int = 0) -> str:
    """Return the output, or the errors if a code is expected."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(["analyze", *words]) == code
    return err.getvalue() if code else out.getvalue()


def results_in(folder: str | Path) -> Any:
    return json.loads(Path(folder, "analysis.json").read_text())


@pytest.fixture(scope="module")
def analysis_of_run(finished: Path) -> tuple[str, Any]:
    """The output and the results of an analysis with default settings, which changes nothing else in the folder."""
    run = finished / "analysed"
    shutil.copytree(finished / "run", run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    out = analyze(str(run))
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert after.pop(run / "analysis.json") and after == before
    assert out.splitlines()[0] == f"{run}/step-000020, step 20"
    assert out.splitlines()[-1].startswith(f"written to {run}/analysis.json in ")
    return out, results_in(run)


# ---- the command


def test_an_analysis_of_a_real_run(finished: Path, analysis_of_run: tuple[str, Any]) -> None:
    _, results = analysis_of_run
    assert (results["format"], results["step"], results["checkpoint"]) == (1, 20, "step-000020")
    assert results["batch"] == {"sequences": 4, "context": 32, "tokens": 128} and results["seconds"] > 0
    # The loss is that of the model on the first four windows of the training text.
    dataset, _ = prepare_dataset(str(finished / "text.txt"), 32, "byte")
    tokens, targets = create_dataloader(dataset, 24, seed=1337).batch(0)
    model = load_model(finished / "run" / "step-000020").model
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(tokens[:4]).flatten(0, 1), targets[:4].flatten())
    assert results["loss"] == pytest.approx(float(loss), rel=1e-5)
    line, plane = results["landscape"]["line"], results["landscape"]["plane"]
    assert line["at"][10] == 0 and line["loss"][10] == pytest.approx(float(loss), rel=1e-5)
    assert len(line["at"]) == len(line["loss"]) == 21
    assert plane["loss"][4][4] == line["loss"][10] and [len(row) for row in plane["loss"]] == [9] * 9
    # Along the first direction, the plane is the line.
    assert plane["loss"][4] == pytest.approx([line["loss"][i] for i in (0, 2, 5, 8, 10, 12, 15, 18, 20)], rel=0.2)
    assert plane["loss"][4][0] == line["loss"][0]


def test_curvature_and_sharpness_of_the_run(run: Path) -> None:
    out = analyze("run", "--k", "3", "--steps", "25")
    results = results_in(run)
    hessian, sharp = results["hessian"], results["sharpness"]
    assert len(hessian["eigenvalues"]) == len(hessian["residuals"]) == 3
    assert hessian["eigenvalues"] == sorted(hessian["eigenvalues"], reverse=True)
    assert hessian["residuals"][0] < 1e-2 * hessian["eigenvalues"][0] and hessian["smallest"] < 0
    assert hessian["trace"]["probes"] == 12 and 0 < hessian["trace"]["stderr"] < hessian["trace"]["value"]
    at, density = hessian["density"]["at"], hessian["density"]["density"]
    assert sum(density) * (at[1] - at[0]) == pytest.approx(1, rel=1e-3)
    mean = sum(x * y for x, y in zip(at, density, strict=True)) * (at[1] - at[0])
    error = 5 * hessian["trace"]["stderr"] * math.sqrt(12 / 2)  # two of the twelve probes made the density
    assert abs(mean * hessian["parameters"] - hessian["trace"]["value"]) < error
    config = Run.from_dict(json.loads((run / "run.json").read_text())["run"]).train
    lr = learning_rate(20, config)
    assert sharp["lr"] == lr and sharp["why_not"] == ""
    assert sharp["plain"] == hessian["eigenvalues"][0] and sharp["plain_threshold"] == 2 / lr
    assert sharp["preconditioned_threshold"] == pytest.approx(38 / lr) and sharp["preconditioned"] > 0
    assert f"overshoots above 2/lr = {2 / lr:,.0f}" in out and f"Adam overshoots above {38 / lr:,.0f}: " in out


def test_sharpness_in_adams_metric_is_the_dense_one(finished: Path, analysis_of_run: tuple[str, Any]) -> None:
    """The moments really are those of the step, each beside its own weight: against a power iteration on P^-1 H."""
    import safetensors.torch

    from light_llm.observe.curvature import hessian_of

    run = finished / "run"
    loaded = load_model(run / "step-000020")
    state = safetensors.torch.load_file(run / "step-000020/optimizer.safetensors")
    config = Run.from_dict(json.loads((run / "run.json").read_text())["run"]).train
    parts = [
        (state[f"{name}/exp_avg_sq"] / (1 - config.beta2**20)).sqrt() + config.eps
        for name, _ in loaded.model.named_parameters()
    ]
    P = torch.cat([p.flatten() for p in parts])
    dataset, _ = prepare_dataset(loaded.file.data["source"], 32, "byte")
    batch = Batch(*(t[:4] for t in create_dataloader(dataset, 24, seed=1337).batch(0)))
    hessian = hessian_of(loaded.model, batch)
    v = torch.ones_like(P)
    for _ in range(200):
        w = hessian.product(v) / P
        size, v = float(w.norm() / v.norm()), w / w.norm()
    assert analysis_of_run[1]["sharpness"]["preconditioned"] == pytest.approx(size, rel=1e-2)


def test_the_path_goes_through_the_checkpoints(analysis_of_run: tuple[str, Any]) -> None:
    out, results = analysis_of_run
    path = results["path"]
    assert [p["step"] for p in path["points"]] == [5, 10, 15, 20]
    assert 0.7 < sum(path["explained"]) <= 1 and path["explained"][0] > path["explained"][1]
    end = path["points"][-1]
    assert (end["a"], end["b"], end["loss"]) == (0, 0, pytest.approx(results["loss"], rel=1e-5))
    losses = [p["loss"] for p in path["points"]]
    assert losses == sorted(losses, reverse=True), "this run learnt all the time"
    for axis in "ab":
        assert len(path[axis]) == 9
        assert all(path[axis][0] < p[axis] < path[axis][-1] for p in path["points"])
    assert "of the squared distances lie in one plane (steps 5, 10, 15, 20)" in out


def test_the_noise_scale_of_the_run(analysis_of_run: tuple[str, Any]) -> None:
    out, results = analysis_of_run
    noise = results["noise"]
    assert noise["sequences"] == 24 and noise["scale_tokens"] == pytest.approx(32 * noise["scale_sequences"])
    assert noise["scale_sequences"] == pytest.approx(noise["trace"] / noise["gradient_squared"])
    assert f"this run has 64, and --batch-size {max(1, round(noise['scale_sequences']))} would match" in out


def test_equal_seeds_give_equal_analyses(run: Path) -> None:
    results = []
    for seed in ("7", "7", "8"):
        analyze("run", "--seed", seed)
        results.append(results_in(run) | {"seconds": 0})
    assert results[0] == results[1] and results[0]["landscape"] != results[2]["landscape"]


def test_a_model_file_has_no_moments(run: Path) -> None:
    out = analyze("run/best_model.pt", "--context", "16", "--batch-size", "2")
    results = results_in(run)
    sharp = results["sharpness"]
    assert results["checkpoint"] == "best_model.pt"
    assert results["batch"] == {"sequences": 2, "context": 16, "tokens": 32}
    assert sharp["preconditioned"] is None and sharp["preconditioned_threshold"] is None
    assert sharp["plain_threshold"] == 2 / sharp["lr"]
    assert "best_model.pt" in sharp["why_not"] and sharp["why_not"] in out


def test_a_model_file_alone(run: Path) -> None:
    """No run around it: no learning rate, so no threshold, and no path."""
    Path("alone").mkdir()
    shutil.copy(run / "best_model.pt", "alone/mine.pt")
    out = analyze("alone/mine.pt")
    results = results_in("alone")
    assert results["path"] is results["sharpness"]["lr"] is results["sharpness"]["plain_threshold"] is None
    assert "run.json" in out and "--save-interval 50 --set train.keep_every=50" in out


def test_results_that_cannot_be_written_are_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("kept").mkdir()
    shutil.copy(run / "best_model.pt", "kept/mine.pt")
    Path("kept/analysis.json").mkdir()
    assert main(["analyze", "kept/mine.pt"]) == 2
    out, err = capsys.readouterr()
    assert "eigenvalues" in out and "noise scale" in out and "kept/analysis.json" in err


@pytest.mark.parametrize(
    ("words", "message", "expected"),
    [
        (["--set", "train.min_lr_ratio=0"], "next update is 0", {"lr": 0, "preconditioned_threshold": None}),
        (["--optimizer=muon"], "muon", {"preconditioned": None}),
    ],
)
def test_a_run_without_a_threshold(finished: Path, words: list[str], message: str, expected: dict[str, Any]) -> None:
    """A schedule that ended at 0, and an optimizer that has no such metric."""
    words = ["--data", str(finished / "text.txt"), *NANO_RUN, *LEARN, "--max-steps=3", *words]
    assert main(["train", *words, "--out", "short"]) == 0
    assert message in analyze("short")
    sharp = results_in("short")["sharpness"]
    assert expected.items() <= sharp.items() and ("preconditioned" in expected or sharp["preconditioned"] > 0)


def test_a_text_that_moved(run: Path, finished: Path, analysis_of_run: tuple[str, Any]) -> None:
    shutil.copy(finished / "text.txt", "moved.txt")
    analyze("run/step-000020", "--data", "moved.txt")
    assert results_in(run)["loss"] == analysis_of_run[1]["loss"]


def test_damaged_steps_are_skipped_and_named(run: Path) -> None:
    flip(run / "step-000020/model.safetensors")
    flip(run / "step-000010/model.safetensors")
    out = analyze("run")
    results = results_in(run)
    assert results["checkpoint"] == "step-000015"
    assert "skipped: run/step-000010/model.safetensors is damaged" in out
    assert [p["step"] for p in results["path"]["points"]] == [5, 15, 20], "step 20 is also the best model"


def test_an_interruption_leaves_nothing_half_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "analysis.json").write_text("{}")
    before = sorted(run.rglob("*"))

    def interrupted(*anything: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(analysis, "landscape", interrupted)
    assert "interrupted" in analyze("run", code=130)
    assert sorted(run.rglob("*")) == before and (run / "analysis.json").read_text() == "{}"


def test_progress_in_a_pipe_is_a_line_a_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "run", "--steps", "5"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(STAGES)


def test_a_text_of_few_windows() -> None:
    """No window is used twice: the noise scale would come out too small."""
    Path("short.txt").write_text(TEXT * 6)
    assert main(["train", "--data", "short.txt", *NANO_RUN, *LEARN, "--max-steps=2", "--out", "short"]) == 0
    assert "short.txt has 9 windows of 32 tokens, and 10" in analyze("short", "--batch-size", "10", code=2)
    analyze("short", "--batch-size", "9")
    results = results_in("short")
    assert results["noise"]["sequences"] == results["batch"]["sequences"] == 9


def test_a_batch_larger_than_the_sequences_of_the_noise(run: Path) -> None:
    analyze("run", "--batch-size", "30", "--steps", "5")
    results = results_in(run)
    assert results["noise"]["sequences"] == 24 and results["batch"]["sequences"] == 30


def test_a_misspelt_folder_is_named_with_the_run_that_was_meant(run: Path) -> None:
    assert "there is no run or checkpoint rum; did you mean run?" in analyze("rum", code=2)


def test_a_model_without_a_record_of_its_text(model: Path) -> None:
    import light_llm.checkpoint as checkpoint

    file = checkpoint.read_model(model)
    checkpoint.write_model_file(Path("bare.pt"), file.weights, file.meta | {"data": None}, checkpoint.Files())
    assert "bare.pt" in analyze("bare.pt", code=2)
