"""Tasks run by the harness and by the command: results, errors, output."""

import json
import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from light_llm.checkpoint import Files, LoadedModel, load_model, model_meta, write_model_file
from light_llm.cli import main
from light_llm.data import prepare_dataset
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, decode
from light_llm.errors import ConfigError, DataError
from light_llm.lm_eval import EvalJob, LightLLMForEval, result_rows, run_tasks, summarize_results
from light_llm.lm_eval.run import to_json
from light_llm.lm_eval.tasks import find_tasks, nearest
from tests.conftest import CHECKOUT
from tests.lm_eval.conftest import QUESTIONS, TEXT, greedy_by_logits, score_by_logits, write_task
from tests.lm_eval.test_lm import held_out
from tests.support.tools import model_path, run_child, tiny_model


def run(loaded: LoadedModel, folder: Path, *names: str, **settings: Any) -> dict[str, Any]:
    return run_tasks(LightLLMForEval(loaded), EvalJob(names, folder, **settings))[0]


@pytest.fixture(scope="module")
def ran(loaded: LoadedModel, tasks: Path) -> tuple[dict[str, Any], list[str], dict[str, tuple[int, int]]]:
    """The three tasks, run once: results, warnings, and the last progress of each kind of request."""
    progress: dict[str, tuple[int, int]] = {}
    lm = LightLLMForEval(loaded, progress=lambda kind, done, total: progress.update({kind: (done, total)}))
    results, warnings = run_tasks(lm, EvalJob(("our_choice", "our_rolling", "our_writing"), tasks, offline=True))
    return results, warnings, progress


def test_accuracy_is_that_of_the_logits(ran: Any, loaded: LoadedModel) -> None:
    right = 0
    for question, choices, answer in QUESTIONS:
        start = [] if question else [10]
        ids = [[*start, *question.encode(), *f" {choice}".encode()] for choice in choices]
        log_ps = [score_by_logits(loaded, row[-17:], len(c) + 1)[0] for row, c in zip(ids, choices, strict=True)]
        right += int(np.argmax(log_ps)) == answer
    assert ran[0]["results"]["our_choice"]["acc,none"] == pytest.approx(right / 3) and 0 < right < 3


def test_the_harness_reports_our_bits_per_byte(ran: Any, loaded: LoadedModel) -> None:
    evaluations = [held_out(LightLLMForEval(loaded), text) for text in (TEXT * 3, "x")]
    bits, size = (math.fsum(e.bits_per_byte * e.bytes for e in evaluations), sum(e.bytes for e in evaluations))
    assert size == len((TEXT * 3 + "x").encode())
    assert ran[0]["results"]["our_rolling"]["bits_per_byte,none"] == pytest.approx(bits / size, abs=1e-6)


def test_generated_texts_are_compared(ran: Any, loaded: LoadedModel, tmp_path: Path) -> None:
    assert ran[0]["results"]["our_writing"]["exact_match,none"] == 0
    rows = [{"q": "abc", "a": decode(ByteTokenizer(), greedy_by_logits(loaded, [*b"abc"], 6))}, {"q": "x", "a": "?"}]
    lines = ("doc_to_text: '{{q}}'", "doc_to_target: '{{a}}'", "generation_kwargs: {until: [], max_gen_toks: 6}")
    write_task(tmp_path, "writing", rows, *lines, metric="exact_match")
    assert run(loaded, tmp_path, "our_writing")["results"]["our_writing"]["exact_match,none"] == 0.5


def test_rows_and_progress(ran: Any) -> None:
    results, warnings, progress = ran
    rows = result_rows(results)
    assert [(row.task, row.metric, row.better, row.documents, row.shots) for row in rows] == [
        ("our_choice", "acc", "higher", 3, 0),
        ("our_rolling", "bits_per_byte", "lower", 2, 0),
        ("our_writing", "exact_match", "higher", 2, 0),
    ]
    assert rows[0].stderr and rows[1].stderr is None and warnings == []
    # 126 bytes in windows of 16, and one more text
    assert progress == {"continuations": (6, 6), "windows": (9, 9), "texts": (2, 2)}
    assert json.loads(json.dumps(summarize_results(results)))["n-samples"]["our_choice"]["effective"] == 3


def test_few_shots_a_limit_and_a_path(loaded: LoadedModel, tasks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (row,) = result_rows(run(loaded, tasks, "our_choice", limit=2, num_fewshot=1))
    assert (row.documents, row.shots) == (2, 1)
    assert list(run(loaded, tasks, str(tasks / "rolling.yaml"))["results"]) == ["our_rolling"]
    assert capfd.readouterr() == ("", ""), "bars and messages of the harness are hidden"


def test_values_that_json_lacks_become_none() -> None:
    values = to_json({"a": np.float64(0.5), "b": math.inf, "c": (1, None, "x"), "d": Path("p"), "e": True})
    assert values == {"a": 0.5, "b": None, "c": [1, None, "x"], "d": "p", "e": True}
    groups = {"g": {"acc,none": 0.5, "acc_stderr,none": "N/A", "alias": "g"}}
    results = {"results": {"t": {"f1,strict": math.nan}, "g": groups["g"]}, "groups": groups}
    rows = [(row.task, row.metric, row.stderr) for row in result_rows(results)]
    assert rows == [("t", "f1 (strict)", None), ("g", "acc", None)]


# --- errors ---


def test_errors_of_a_task_are_data_errors_and_ours_are_not(
    loaded: LoadedModel, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("doc_to_text: ''", "doc_to_target: '{{1 / n}}'")
    for rows, what in (([{"n": 0}], "our_rolling cannot be loaded"), ([{"n": 1}, {"n": 0}], "cannot be run")):
        write_task(tmp_path, "rolling", rows, *lines, metric="bits_per_byte")
        with pytest.raises(DataError, match=f"{what}: ZeroDivisionError"):
            run(loaded, tmp_path, "our_rolling")
    write_task(tmp_path, "gone", [{"q": 1}], "doc_to_text: '{{q}}'", metric="acc", kind="multiple_choice")
    (tmp_path / "gone.jsonl").unlink()
    with pytest.raises(DataError, match="our_gone cannot be loaded: FileNotFoundError"):
        run(loaded, tmp_path, "our_gone")
    with pytest.raises(DataError, match="character 't'"):
        run(load_model(model_path(tmp_path, CharTokenizer("abc"))), tasks, "our_choice")
    broken = LightLLMForEval(loaded)
    monkeypatch.setattr(broken, "context", "sixteen")
    with pytest.raises(TypeError):
        run_tasks(broken, EvalJob(("our_choice",), tasks))


def test_offline_downloads_nothing(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    write_task(tmp_path, "rolling", [], "doc_to_text: ''", "doc_to_target: '{{text}}'", metric="bits_per_byte")
    yaml = tmp_path / "rolling.yaml"
    lines = [line for line in yaml.read_text().splitlines() if not line.startswith("dataset_kwargs")]
    yaml.write_text("\n".join(lines).replace("dataset_path: json", "dataset_path: nobody/nothing"))
    for module in (datasets.config, huggingface_hub.constants):  # as on a machine that is online
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match="nobody/nothing.*offline="):
        run(loaded, tmp_path, "our_rolling", offline=True)
    assert not datasets.config.HF_HUB_OFFLINE and not huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_nearest_names_are_few_and_good() -> None:
    names = [f"mmlu_{i}" for i in range(3000)] + ["lambada_openai", "our_text"]
    assert nearest("lambda_openai", names)[0] == "lambada_openai" and len(nearest("x", names)) == 200


@pytest.mark.slow
def test_the_harness_s_own_tasks_are_known(tasks: Path) -> None:
    with pytest.raises(ConfigError, match=r"lambda_openai.*did you mean lambada_openai\?"):
        find_tasks(["lambda_openai"], tasks)
    (tasks / "group.yaml").write_text("group: ours\ntask: [our_choice, our_rolling]\n")
    manager, names = find_tasks(["ours", "our_[cr]*", "lambada_openai"], tasks)
    assert names == ["ours", "our_choice", "our_rolling", "lambada_openai"] and len(manager.all_tasks) > 1000


# --- the command ---


def test_the_command_prints_a_table_and_writes_a_file(
    loaded: LoadedModel, tasks: Path, ran: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(loaded.file.path), "--include", str(tasks), "--offline", "--output", "out.json"]
    assert main([*words, "--tasks", "our_choice,our_rolling", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines()[1:])  # the first is a path
    report = json.loads(Path("out.json").read_text())
    bits = ran[0]["results"]["our_rolling"]["bits_per_byte,none"]
    assert re.search(rf"our_rolling +bits_per_byte +{bits:.4g} ", out)
    assert report["results"]["our_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    assert (report["context"], report["last_window"], report["cut"], report["limit"]) == (16, "cold", 2, 0)
    assert "2 requests were longer" in out and r"the token '\n'" in out
    assert main([*words, "--tasks", "our_choice"]) == 2
    assert "--output out.json" in capsys.readouterr().err
    assert main([*words[:-1], "half.json", "--tasks", "our_rolling", "--dtype", "bfloat16"]) == 0
    half = json.loads(Path("half.json").read_text())
    assert half["dtype"] == "bfloat16" and half["results"]["our_rolling"]["bits_per_byte,none"] != bits


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--tasks", ","], "--tasks"),
        (["--tasks", "a", "--include", "nodir"], "folder nodir"),
        (["--tasks", "no.yaml"], "file no.yaml"),
        (["--tasks", "a", "--data", "x"], "--data .*--tasks"),
        (["--tasks", "a", "--checkpoint", "x"], "best_model.pt and x"),
        (["--tasks", "a", "--limit", "-1"], "limit=-1"),
        (["--tasks", "a", "--num-fewshot", "-2"], "num_fewshot=-2"),
        (["--tasks", "a", "--output", "."], r"--output \. is a folder"),
        (["--tasks", "a", "--output", "x/y"], "--output x.y"),
        (["--tasks", "a", "--tempreature", "1"], "--tempreature"),
        (["--limit", "3"], "--limit .*--tasks NAME"),
        (["--last-window=full"], "--last-window .*--tasks NAME"),
        (["--task", "a"], r"--task; did you mean --tasks\?"),
        (["--temperature", "1"], "--temperature"),
    ],
)
def test_wrong_arguments_are_named(
    words: list[str], named: str, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("best_model.pt").write_bytes(loaded.file.path.read_bytes())
    assert main(["eval", "best_model.pt", *words]) == 2
    assert re.search(named, capsys.readouterr().err)


def test_a_missing_package_is_named(
    loaded: LoadedModel, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["eval", str(loaded.file.path), "--tasks", "a"]) == 2
    assert 'pip install "light-llm[eval]"' in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"light-llm\[eval\]"):
        run(loaded, tasks, "a")


def test_without_tasks_it_evaluates_the_held_out_text(capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text(TEXT * 40)
    dataset, tokenizer = prepare_dataset("text.txt", max_length=16, tokenizer="byte")
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None)
    meta |= {"tokenizer": tokenizer.to_dict(), "data": dataset.record()}
    write_model_file(Path("a.pt"), model.state_dict(), meta, Files())
    outputs = set()
    for words in (["eval", "a.pt"], ["eval", "--checkpoint", "a.pt"], ["generate", "eval", "--checkpoint", "a.pt"]):
        assert main(words) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1 and "bits/byte" in outputs.pop()


def test_help_shows_both_uses_and_imports_nothing_slow() -> None:
    child = run_child([sys.executable, "-X", "importtime", "-m", "light_llm", "eval", "--help"])
    imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    assert child.returncode == 0 and not imported & {"torch", "numpy", "lm_eval", "datasets"}
    assert "Without --tasks: " in child.stdout and "With --tasks: " in child.stdout
    assert all(len(line) <= 80 for line in child.stdout.splitlines())


def test_the_tasks_and_commands_of_the_page_run(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "cache")
    page = (CHECKOUT / "docs" / "eval.md").read_text(encoding="utf-8")
    Path("my-tasks").mkdir()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.S):
        name = block.splitlines()[0].removeprefix("task: ")
        Path("my-tasks", f"{name}.yaml").write_text(block)
        Path("my-tasks", f"{name}.jsonl").write_text(json.dumps({"text": TEXT, "before": "a", "after": "b"}))
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.S)
    Path("my-tasks/first_word.jsonl").write_text(lines)
    Path("checkpoints").mkdir()
    Path("checkpoints/best_model.pt").write_bytes(loaded.file.path.read_bytes())
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    with_tasks = [line for line in commands.splitlines() if "--tasks" in line]
    assert len(with_tasks) == 2 and len(list(Path("my-tasks").iterdir())) == 6
    with_tasks.append("light-llm eval --tasks go_on --include my-tasks")
    for line in with_tasks:
        assert main(shlex.split(line, comments=True)[1:]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("first_word", "our_text", "go_on")) and Path("text.json").is_file()
