"""A device that computes wrong results, or a run that does not fit, is refused before anything is changed."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from light_llm.doctor import Diagnosis
from light_llm.errors import ConfigError, DeviceError
from light_llm.plan import plan as plans
from light_llm.runtime import MemoryLimit
from light_llm.train import Trainer, measure, preflight
from tests.support.child import Child
from tests.support.tools import NANO_RUN, SMALL, byte_loader, byte_model, cache_profile, run_child

CHECKOUT = Path(__file__).parents[2]


def test_a_run_asks_the_doctor_for_what_it_needs(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def refuse(device: str, **needs: str) -> Diagnosis:
        asked.append((device, needs))
        raise DeviceError("it computes wrong")

    monkeypatch.setattr(preflight, "check_device", refuse)
    settings = SMALL | {"dtype": "bfloat16", "optimizer": "muon"}
    with pytest.raises(DeviceError):
        Trainer(byte_model(), byte_loader(poem), out="run", max_steps=1, **settings).train()
    assert asked == [("cpu", {"dtype": "bfloat16", "optimizer": "muon"})] and not Path("run").exists()


def test_a_run_says_who_looked_at_its_device(poem: Path) -> None:
    for skip in (False, True):
        out = f"run-{skip}"
        Trainer(byte_model(), byte_loader(poem), out=out, skip_doctor=skip, max_steps=1, **SMALL).train()
        doctor = json.loads(Path(out, "run.json").read_text())["doctor"]
        log = Path(out, "train.log").read_text()
        if skip:
            assert doctor is None and "doctor   skipped (skip_doctor=True)" in log
        else:
            assert doctor["safe"] and doctor["cases"] > 20 and doctor["findings"] == []
            assert f"{doctor['cases']} checks against float64 passed" in log


def test_the_plan_stands_in_the_header_and_beside_what_happened(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(poem), *NANO_RUN, "--max-steps", "6", "--set", "train.probe_interval=0"]
    assert main(["train", "--out", "run", *words]) == 0
    header = capsys.readouterr().out
    plan = json.loads(Path("run/run.json").read_text())["plan"]
    assert re.search(r"^plan +memory .* of .* on disk,$", header, re.MULTILINE) and " a step, about " in header
    assert plan["step_seconds"] > 0 and plan["memory"]["total"] > plan["memory"]["weights"] > 0
    assert main(["report", "run"]) == 0
    page = Path("run/report.html").read_text()
    assert all(
        words in page for words in ("time of a step, median", "peak memory", "time with start, evaluation and saving")
    )


def no_room(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """As if this machine had so little memory."""
    monkeypatch.setattr(plans, "memory_limit", lambda device: MemoryLimit(size, "a test's limit"))


def test_a_library_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, poem: Path) -> None:
    no_room(monkeypatch, 1000)
    with pytest.raises(ConfigError, match="This run needs"):
        Trainer(byte_model(), byte_loader(poem), out="run", max_steps=2, **SMALL).train()
    assert not Path("run").exists()
    result = Trainer(byte_model(), byte_loader(poem), out="run", force=True, max_steps=2, **SMALL).train()
    assert result.status == "done" and "notice   This run needs" in Path("run/train.log").read_text()


def test_a_command_refuses_before_the_text_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_room(monkeypatch, 10**9)
    assert main(["train", "--data", "nowhere.txt", "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert "This run needs" in said and "nowhere" not in said and not Path("run").exists()


def test_fit_takes_the_first_way(
    monkeypatch: pytest.MonkeyPatch, poem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--preset", "nano", "--tokenizer", "byte", "--max-length", "64", "--batch-size", "256", "--max-steps", "1"]
    small += ["--data", str(poem), "--dtype", "float32", "--set", "train.probe_interval=0", "--set", "model.n_layer=2"]
    small += ["--set", "train.sample_interval=0", "--skip-doctor"]
    assert main(["plan", "--json", *small[:-1]]) == 0
    needed = json.loads(capsys.readouterr().out)["memory"]["total"]
    no_room(monkeypatch, needed - 100_000_000)
    assert main(["train", "--out", "run", *small]) == 2 and "--micro-batch" in capsys.readouterr().err
    assert main(["train", "--out", "run", "--fit", *small]) == 0
    assert "fit      --micro-batch" in capsys.readouterr().err
    train = json.loads(Path("run/run.json").read_text())["run"]["train"]
    assert train["batch_size"] == 256 and train["micro_batch"] < 256


def test_a_budget_chooses_the_run(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The memory is more than this process of many tests has taken by now."""
    words = ["--data", str(poem), "--tokenizer", "byte", "--max-length", "32", "--dtype", "float32", "--skip-doctor"]
    assert main(["train", "--out", "run", "--budget", "1s,12GB", *words, "--set", "train.probe_interval=0"]) == 0
    assert "budget   1s,12GB: nano, 1 step. Limited by the time" in capsys.readouterr().err
    run = json.loads(Path("run/run.json").read_text())["run"]
    assert run["model"]["n_embd"] == 192 and run["train"]["max_steps"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: ulimit -v bounds nothing elsewhere")
def test_too_little_address_space_for_the_run() -> None:
    """The run is refused with what fits, and nothing is written. PyTorch itself maps 1 to 4 GB, by its build."""
    child = Child(["train", "--tokenizer", "gpt2", "--preset", "small"], function=run_with_one_more_gigabyte)
    assert child.wait() == 2
    out, err = child.output
    assert "GB that ulimit -v allows" in err and "What fits:" in err and "--preset nano" in err
    assert "Traceback" not in err and not Path("checkpoints").exists()


def run_with_one_more_gigabyte(words: list[str]) -> int:
    import resource

    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 10**9
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return main(words)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: ulimit -v bounds nothing elsewhere")
@pytest.mark.parametrize("limit", [200, 440])  # MB: less than PyTorch's largest library
def test_too_little_address_space_for_torch(limit: int) -> None:
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({limit} * 10**6, {limit} * 10**6));"
        "from light_llm.cli import main; sys.exit(main(['train', '--preset', 'nano']))"
    )
    child = run_child([sys.executable, "-c", code])
    assert child.returncode == 2 and f"{limit} MB that ulimit -v allows" in child.stderr
    assert "Traceback" not in child.stderr and not Path("checkpoints").exists()


def test_a_plan_in_words(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--data", str(poem), *NANO_RUN]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("parameters", "at the peak", "FLOPs a step", "passes over the text", "in all"))
    assert all(len(line) <= 80 for line in said.splitlines()) and not Path("checkpoints").exists()


def test_a_plan_measures_again_when_asked(
    poem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A measurement that nobody asked for again would make the test slow: the child process is a made-up one."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    cache_profile()
    words = ["plan", "--data", str(poem), *NANO_RUN]
    assert main(words) == 0 and capsys.readouterr().err == ""
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(measure, "_follow", lambda command, show: (asked.append(tuple(command[3:5])), cache_profile()))
    assert main([*words, "--measure"]) == 0 and asked == [("cpu", "float32")]
    captured = capsys.readouterr()
    assert "Measuring the speed of this machine" in captured.err and "measured on this machine" in captured.out


def test_a_plan_as_json(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--data", str(poem), *NANO_RUN]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    kinds = {k: v for k, v in plan["memory"].items() if k != "total"}
    assert plan["fits"] and plan["ways"] == [] and sum(kinds.values()) == plan["memory"]["total"]


def test_a_plan_of_a_text_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--data", "tinystories", "--preset", "nano", "--tokenizer", "bpe:2000"]) == 0
    said = capsys.readouterr().out
    assert (
        "has not been downloaded yet" in " ".join(said.split())
        and "--offline" not in said
        and "2,000" in said
        and "passes" not in said.partition("note")[0]
    )


@pytest.mark.parametrize("content", [None, "", "too short"])
def test_a_plan_refuses_a_text_that_train_would_refuse(content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("my.txt").write_text(content)
    assert main(["plan", "--data", "my.txt", *NANO_RUN]) == 2
    captured = capsys.readouterr()
    assert "my.txt" in captured.err and "at the peak" not in captured.out


def test_a_plan_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, poem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(poem), "--tokenizer", "byte", "--preset", "small", "--batch-size", "32"]
    words += ["--max-length", "128"]
    assert main(["plan", "--json", *words]) == 0
    limit = json.loads(capsys.readouterr().out)["memory"]["total"] - 300_000_000
    no_room(monkeypatch, limit)
    assert main(["plan", *words]) == 2
    captured = capsys.readouterr()
    assert "only, a test's limit" in captured.out and "What fits:" in captured.err
    assert main(["plan", "--fit", *words]) == 0 and "fit          --" in capsys.readouterr().out
    assert main(["plan", "--json", *words]) == 2
    plan = json.loads(capsys.readouterr().out)
    assert not plan["fits"] and plan["ways"] and all(way["plan"]["memory"]["total"] <= limit for way in plan["ways"])
