"""`light-llm analyze`: the results on a real run, the file that it writes, and the runs that it refuses."""

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


def found_in(folder: Path) -> Any:
    return json.loads((folder / "analysis.json").read_text())


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Return the output, or the errors if a code is expected."""
    capsys.readouterr()
    assert main(["analyze", *words]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


# ---- the command


def test_an_analysis_of_a_real_run(run: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    out = said(capsys, "run")
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    found = found_in(run)
    assert after.pop(run / "analysis.json") and after == before, "nothing else in the folder changes"
    assert out.splitlines()[0] == "run/step-000020, step 20"
    assert out.splitlines()[-1].startswith("written to run/analysis.json in ")
    assert (found["format"], found["step"], found["checkpoint"]) == (1, 20, "step-000020")
    assert found["batch"] == {"sequences": 4, "context": 32, "tokens": 128} and found["seconds"] > 0
    # The loss is that of the model on the first four windows of the training text.
    dataset, _ = prepare_dataset(str(finished / "text.txt"), 32, "byte")
    tokens, targets = create_dataloader(dataset, 24, seed=1337).batch(0)
    model = load_model(run / "step-000020").model
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(tokens[:4]).flatten(0, 1), targets[:4].flatten())
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    line, plane = found["landscape"]["line"], found["landscape"]["plane"]
    assert line["at"][10] == 0 and line["loss"][10] == pytest.approx(float(loss), rel=1e-5)
    assert len(line["at"]) == len(line["loss"]) == 21
    assert plane["loss"][4][4] == line["loss"][10] and [len(row) for row in plane["loss"]] == [9] * 9
    # Along the first direction, the plane is the line.
    assert plane["loss"][4] == pytest.approx([line["loss"][i] for i in (0, 2, 5, 8, 10, 12, 15, 18, 20)], rel=0.2)
    assert plane["loss"][4][0] == line["loss"][0]


def test_curvature_and_sharpness_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "run", "--k", "3", "--steps", "25")
    found = found_in(run)
    hessian, sharp = found["hessian"], found["sharpness"]
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


def test_sharpness_in_adams_metric_is_the_dense_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The moments really are those of the step, each beside its own weight: against a power iteration on P^-1 H."""
    import safetensors.torch

    from light_llm.observe.curvature import hessian_of

    said(capsys, "run")
    found = found_in(run)
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
    assert found["sharpness"]["preconditioned"] == pytest.approx(size, rel=1e-2)


def test_the_path_goes_through_the_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "run")
    path = found_in(run)["path"]
    assert [p["step"] for p in path["points"]] == [5, 10, 15, 20]
    assert 0.7 < sum(path["explained"]) <= 1 and path["explained"][0] > path["explained"][1]
    here = path["points"][-1]
    assert (here["a"], here["b"], here["loss"]) == (0, 0, pytest.approx(found_in(run)["loss"], rel=1e-5))
    losses = [p["loss"] for p in path["points"]]
    assert losses == sorted(losses, reverse=True), "this run learnt all the time"
    for axis in "ab":
        assert len(path[axis]) == 9
        assert all(path[axis][0] < p[axis] < path[axis][-1] for p in path["points"])
    assert "of the squared distances lies in a plane (steps 5, 10, 15, 20)" in out


def test_the_noise_scale_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "run")
    noise = found_in(run)["noise"]
    assert noise["sequences"] == 24 and noise["scale_tokens"] == pytest.approx(32 * noise["scale_sequences"])
    assert noise["scale_sequences"] == pytest.approx(noise["trace"] / noise["gradient_squared"])
    assert f"this run takes 64, it suggests --batch-size {max(1, round(noise['scale_sequences']))}" in out


def test_equal_seeds_give_equal_analyses(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for seed in ("7", "7", "8"):
        said(capsys, "run", "--seed", seed)
        seen.append(found_in(run) | {"seconds": 0})
    assert seen[0] == seen[1] and seen[0]["landscape"] != seen[2]["landscape"]


def test_a_model_file_has_no_moments(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "run/best_model.pt", "--context", "16", "--batch-size", "2")
    found = found_in(run)
    assert found["checkpoint"] == "best_model.pt" and found["batch"] == {"sequences": 2, "context": 16, "tokens": 32}
    assert found["sharpness"]["preconditioned"] is None and found["sharpness"]["preconditioned_threshold"] is None
    assert found["sharpness"]["plain_threshold"] == 2 / found["sharpness"]["lr"]
    assert "best_model.pt" in found["sharpness"]["why_not"] and found["sharpness"]["why_not"] in out


def test_a_model_file_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run around it: no learning rate, so no threshold, and no path."""
    Path("alone").mkdir()
    shutil.copy(run / "best_model.pt", "alone/mine.pt")
    out = said(capsys, "alone/mine.pt")
    found = found_in(Path("alone"))
    assert found["path"] is None and found["sharpness"]["lr"] is None and found["sharpness"]["plain_threshold"] is None
    assert "run.json" in out
    assert "--save-interval 50 --set train.keep_every=50" in out


def test_what_was_computed_is_shown_where_it_cannot_be_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("kept").mkdir()
    shutil.copy(run / "best_model.pt", "kept/mine.pt")
    Path("kept/analysis.json").mkdir()
    assert main(["analyze", "kept/mine.pt"]) == 2
    captured = capsys.readouterr()
    assert "eigenvalues" in captured.out and "noise scale" in captured.out
    assert "kept/analysis.json" in captured.err


def test_a_schedule_that_ended_at_0_has_no_threshold(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(finished / "text.txt"), *NANO_RUN, *LEARN, "--max-steps=3", "--set", "train.min_lr_ratio=0"]
    assert main(["train", *words, "--out", "ended"]) == 0
    out = said(capsys, "ended")
    assert "next update is 0" in out
    found = found_in(Path("ended"))["sharpness"]
    assert found["preconditioned"] > 0 and found["preconditioned_threshold"] is None and found["lr"] == 0


def test_muon_has_no_such_metric(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(finished / "text.txt"), *NANO_RUN, *LEARN, "--max-steps=3", "--optimizer=muon"]
    assert main(["train", *words, "--out", "muon"]) == 0
    out = said(capsys, "muon")
    assert "muon" in out
    assert found_in(Path("muon"))["sharpness"]["preconditioned"] is None


def test_a_text_that_moved(run: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "run")
    before = found_in(run)["loss"]
    shutil.copy(finished / "text.txt", "moved.txt")
    said(capsys, "run/step-000020", "--data", "moved.txt")
    assert found_in(run)["loss"] == before


def test_the_newest_good_step_and_what_was_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "step-000020/model.safetensors")
    flip(run / "step-000010/model.safetensors")
    out = said(capsys, "run")
    assert found_in(run)["checkpoint"] == "step-000015"
    assert "left out: run/step-000010/model.safetensors is damaged" in out
    assert [p["step"] for p in found_in(run)["path"]["points"]] == [5, 15, 20], "step 20 is also the best model"


def test_interrupted_it_leaves_nothing_half_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "analysis.json").write_text("{}")
    before = sorted(run.rglob("*"))

    def interrupted(*anything: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(analysis, "landscape", interrupted)
    assert "interrupted" in said(capsys, "run", code=130)
    assert sorted(run.rglob("*")) == before and (run / "analysis.json").read_text() == "{}"


def test_progress_in_a_pipe_is_a_line_a_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "run"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(STAGES)


def test_a_text_of_few_windows(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No window is used twice: the noise scale would come out too small."""
    Path("short.txt").write_text(TEXT * 6)
    assert main(["train", "--data", "short.txt", *NANO_RUN, *LEARN, "--max-steps=2", "--out", "short"]) == 0
    assert "short.txt has 9 windows of 32 tokens, and 10" in said(capsys, "short", "--batch-size", "10", code=2)
    said(capsys, "short", "--batch-size", "9")
    found = found_in(Path("short"))
    assert found["noise"]["sequences"] == 9 and found["batch"]["sequences"] == 9


def test_a_batch_larger_than_the_sequences_of_the_noise(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "run", "--batch-size", "30", "--steps", "5")
    found = found_in(run)
    assert found["noise"]["sequences"] == 24 and found["batch"]["sequences"] == 30


def test_a_model_that_does_not_say_what_it_read(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import light_llm.checkpoint as checkpoint

    file = checkpoint.read_model(model)
    checkpoint.write_model_file(Path("bare.pt"), file.weights, file.meta | {"data": None}, checkpoint.Files())
    assert "bare.pt" in said(capsys, "bare.pt", code=2)
