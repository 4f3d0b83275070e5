"""`light-llm plan --processes` and `--machine`: what is printed, as text and as JSON, and what is refused."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from light_llm.cli.fit import FitChecker, resolve_auto
from light_llm.cli.train import TrainFlags
from light_llm.config import Run
from light_llm.errors import ConfigError
from light_llm.plan import plan as plan_module
from light_llm.plan import speed as speed_module
from light_llm.plan.cluster import predict_step
from light_llm.plan.memory_model import StepShape
from light_llm.plan.plan import make_plan
from light_llm.plan.published import PUBLISHED, published_machine
from light_llm.plan.time_model import step_seconds, update_seconds
from light_llm.runtime import MemoryLimit, World
from light_llm.train import measure
from tests.conftest import CHECKOUT
from tests.plan.test_ranks import CPU, SMALL
from tests.support.tools import PROFILE

WIFI = (
    'gpus = 1\nnic = 30e6\n[gpu]\nkind = "RTX 4060"\nflops = 60e12\nefficiency = 0.8\nbandwidth = 256e9\nmemory = 8e9\n'
)


@pytest.fixture
def words(poem: Path) -> list[str]:
    return ["plan", "--data", str(poem), "--tokenizer", "byte", "--preset", "nano", "--max-length", "64"]


def as_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_cluster_is_planned_without_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers add up, and say where they come from."""
    code, all_gpus = as_json([*words, "--machine", "a100x8", "--batch-size", "64"], capsys)
    _, two = as_json([*words, "--machine", "a100x8", "--batch-size", "64", "--processes", "2"], capsys)
    assert code == 0 and all_gpus["fits"]
    cluster = all_gpus["cluster"]
    assert cluster["gpus"] == 8 and cluster["machine"]["assumed"] and cluster["speed_source"] == "formula"
    assert cluster["step_seconds"] == pytest.approx(sum(cluster["seconds"].values()))
    assert cluster["tokens_per_second"] == pytest.approx(64 * 64 / cluster["step_seconds"])
    assert cluster["tokens_per_gpu"] == 8 * 64 and two["cluster"]["tokens_per_gpu"] == 32 * 64
    assert all_gpus["processes"] == {"world": 8, "local": 8, "parallel": "ddp"} and cluster["error"] is None
    assert {row["source"] for row in cluster["published"]} <= {row.source for row in PUBLISHED}
    assert all_gpus["memory"]["activations"] < two["memory"]["activations"]


def test_a_plan_for_a_cluster_is_plain_in_a_log(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--machine", "h100x8", "--processes", "16", "--batch-size", "32", "--parallel", "fsdp"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and all(line == line.rstrip() for line in printed.splitlines())
    for part in (
        "16  H100 in 2 machines, fsdp",
        "assumed",
        "tokens/s a GPU",
        "slowest link",
        "published",
    ):
        assert part in printed
    assert "Wi-Fi" not in printed


def test_accuracy_is_promised_for_the_sizes_of_published_runs(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ["--set", "model.n_embd=768", "--set", "model.n_head=12", "--batch-size", "8"]
    for size, error, note in (([], None, "No accuracy is promised"), (wide, 0.25, "within 25%")):
        _, values = as_json([*words, "--machine", "h100x8", *size], capsys)
        assert values["cluster"]["error"] == error and note in values["notes"][0]


def test_two_laptops_are_told_to_train_apart(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("laptops.toml").write_text(WIFI)
    assert main([*words, "--machine", "laptops.toml", "--processes", "2"]) == 0
    assert "Two laptops on Wi-Fi do not train together" in capsys.readouterr().out
    _, both = as_json([*words, "--machine", "laptops.toml", "--processes", "2"], capsys)
    assert both["cluster"]["tokens_per_second"] < both["cluster"]["tokens_per_second_alone"]
    Path("laptops.toml").write_text('about = "[/] [red]"\n' + WIFI)
    assert main([*words, "--machine", "laptops.toml"]) == 0
    assert "[/] [red]" in (printed := capsys.readouterr().out) and "\x1b" not in printed, (
        "texts of a file are no markup"
    )
    assert "Wi-Fi" not in printed


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--machine", "h100x9"], "did you mean h100x8?"),
        (["--machine", "h100x8", "--processes", "12"], "--processes 8 or --processes 16"),
        (["--machine", "h100x8", "--processes", "0"], "--processes 0"),
        (["--machine", "h100x8", "--processes", "9" * 5000], "from 1 to"),
        (["--machine", "h100x8", "--batch-size", "12"], "--batch-size 8 or --batch-size 16"),
        (["--machine", "h100x8", "--budget", "1h"], "leave out --machine"),
        (["--machine", "h100x8", "--dtype", "float32"], "--dtype float32"),
        (["--machine", "h100x8", "--batch-size", "8", "--tensor", "2", "--set", "model.n_head=4"], "--tensor"),
        (["--processes", "3"], "--batch-size 6 or --batch-size 9"),
        (["--processes", "2", "--budget", "1h"], "leave out --processes"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    flags: list[str], named: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--device", "cpu", *flags]) == 2
    captured = capsys.readouterr()
    assert named in captured.err and not captured.out


HUGE = ["--set", "model.n_embd=16384", "--set", "model.n_head=128", "--set", "model.n_layer=96"]


def test_a_model_that_fits_on_no_gpu_is_refused_with_what_does(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--machine", "4090x2", "--batch-size", "8", *HUGE]
    assert main([*words, *flags]) == 2
    captured = capsys.readouterr()
    assert "24.0 GB is in RTX 4090 of 4090x2" in captured.err and "--preset" in captured.err
    assert "too much for the 24.0 GB of each GPU" in captured.out
    code, values = as_json([*words, *flags], capsys)
    assert code == 2 and not values["fits"] and values["ways"][0]["plan"]["memory"]["total"] < 24e9
    assert main([*words, *flags, "--fit"]) == 0


def test_fsdp_fits_where_a_replica_does_not(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--set", "model.n_embd=2048", "--set", "model.n_head=16", "--set", "model.n_layer=130"]
    flags = ["--machine", "a100x8", "--batch-size", "8", *size]
    code, auto = as_json([*words, *flags], capsys)
    assert code == 0 and auto["processes"]["parallel"] == "fsdp"
    code, ddp = as_json([*words, *flags, "--parallel", "ddp"], capsys)
    assert code == 2 and any(way["flags"] == "--parallel fsdp" for way in ddp["ways"])


def test_train_decides_what_fits_for_each_of_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes: the check before the text is read, as rank 0 of W makes it."""

    def check(W: int, limit: int = 1 << 50, **flags: Any) -> dict[str, Any]:
        monkeypatch.setattr(plan_module, "memory_limit", lambda device, processes=1: MemoryLimit(limit, "a test's"))
        world = World(size=W, local_size=W)
        checker = FitChecker(resolve_auto(CPU), TrainFlags(**flags), fixed=False, world=world)
        return checker.check_before_data(Run(model=SMALL, train=CPU))

    assert check(2) == check(8) == {}
    with pytest.raises(ConfigError, match="batch_size=6 or batch_size=9"):
        check(3)
    with pytest.raises(ConfigError, match="budget plans a single process"):
        check(2, budget="1h")
    need = make_plan(SMALL, CPU, 512, world_size=2, timed=False, parallel="fsdp", limit=MemoryLimit(1, "")).memory.total
    changes = check(2, limit=int(0.9 * need), fit=True)
    assert changes["train__micro_batch"] in (1, 2), "of the 4 rows of each process"


def test_the_page_shows_what_is_printed(
    poem: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer on docs/plan.md. Lines that depend on the machine are left out there, and it is not measured here."""
    monkeypatch.setattr(measure, "measure_machine", lambda *_, **__: None)
    monkeypatch.setattr(speed_module, "profile", lambda device, dtype, model: PROFILE)
    page = (CHECKOUT / "docs" / "plan.md").read_text(encoding="utf-8")
    Path("laptops.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.S)[0])
    Path("my.txt").write_text(poem.read_text() * 20)
    shown = re.findall(r"```bash\nlight-llm ([^\n]*)\n```\n\n```text\n(.*?)```", page, re.S)
    assert len(shown) == 3
    for command, answer in shown:
        assert main([*shlex.split(command), "--device", "cpu", "--dtype", "bfloat16"]) == 0
        printed = capsys.readouterr().out.splitlines()
        missing = [line for line in answer.splitlines() if line not in printed]
        assert not missing, f"light-llm {command}"


def test_every_published_row_hides_its_sums_as_fitted() -> None:
    for row in PUBLISHED:
        step = predict_step(row.work, published_machine(row.gpu), row.gpus, row.kind)
        if row.kind == "ddp":
            assert step.exposed == pytest.approx(0.2 * step.communication)


def test_the_gpu_of_this_machine_replaces_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step without the update, by micro-batches, whatever the number of GPUs that divide the batch."""
    monkeypatch.setattr(speed_module, "profile", lambda device, dtype, model: PROFILE)
    shape = StepShape.of(SMALL, CPU, 128, ranks=2, local=2)
    alone = StepShape.of(SMALL, CPU, 128, ranks=2)
    micro, update = speed_module.device_seconds(shape, CPU)
    assert micro + update == pytest.approx(step_seconds(alone, PROFILE))
    assert update == pytest.approx(update_seconds(alone, PROFILE))
